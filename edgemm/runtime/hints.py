"""What to paste to install a missing package. Standard library only.

edgemm itself may be on no package index, so a hint names the packages that its extras ask for, or the place that
edgemm came from. Versions are those of the installed metadata of edgemm, which pyproject.toml makes: they are written
down once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from edgemm.runtime.fields import json_value


def pip_install(*distributions: str) -> str:
    """Return the command that installs distributions, e.g. ``pip install "openvino>=2026.0"``.

    One that no extra of edgemm asks for is named without a version, and so are all where edgemm runs from a plain
    folder.
    """
    asked = _asked_for()
    names = [f"{name}{asked.get(_normal(name), '')}" for name in distributions]
    return "pip install " + " ".join(f'"{name}"' if re.search(r"[<>!~\[]", name) else name for name in names)


def install_extra(extra: str, distributions: Sequence[str]) -> str:
    """Return the command that installs an extra of edgemm from where edgemm came from.

    That is the folder of the source that runs, or what pip wrote down when it installed edgemm (PEP 610): a folder, a
    wheel, an address. Where none of them is known any more, ``distributions`` are named, which the extra asks for.
    """
    import tomllib  # with urllib 15 ms that only an error is worth
    from urllib.parse import unquote, urlsplit

    root = Path(__file__).resolve().parents[2]
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    if project.get("name") == "edgemm":
        return f'pip install --editable "{root}[{extra}]"'
    origin = _origin()
    if origin.startswith("file:") and (place := Path(unquote(urlsplit(origin).path))).exists():
        return f'pip install "{place}[{extra}]"'
    if origin and not origin.startswith("file:"):
        requirement = f"edgemm[{extra}] @ {origin}"
        return f'pip install "{requirement}"'
    return pip_install(*distributions)


def _origin() -> str:
    """The address that pip installed edgemm from, as a requirement takes it; empty where it came from an index."""
    from importlib import metadata

    try:
        found: Any = json_value(metadata.distribution("edgemm").read_text("direct_url.json") or "{}")
        url, vcs = str(found.get("url", "")), found.get("vcs_info")
        return f"{vcs['vcs']}+{url}@{vcs['commit_id']}" if vcs else url
    except (metadata.PackageNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return ""


@cache
def _asked_for() -> Mapping[str, str]:
    """Normalised name -> version that edgemm asks for, ``">=2026.0"``, of every extra."""
    from importlib import metadata  # 15 ms that only an error is worth

    try:
        lines = metadata.requires("edgemm") or []
    except metadata.PackageNotFoundError:
        return {}
    found = {}
    for line in lines:
        name, version = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*\(?([^;)]*)", line).groups()  # type: ignore[union-attr]
        found[_normal(name)] = version.replace(" ", "")
    return found


def _normal(name: str) -> str:
    """Return the name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
