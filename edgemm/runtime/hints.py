"""What to paste to install a missing package. Standard library only.

edgemm itself may be on no package index, so a hint names the packages that its extras ask for. Their versions are
those of the installed metadata of edgemm, which pyproject.toml makes: they are written down once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache


def pip_install(*distributions: str) -> str:
    """Return the command that installs distributions, e.g. ``pip install "openvino>=2026.0"``.

    One that no extra of edgemm asks for is named without a version, and so are all where edgemm runs from a plain
    folder.
    """
    asked = _asked_for()
    names = [f"{name}{asked.get(_normal(name), '')}" for name in distributions]
    return "pip install " + " ".join(f'"{name}"' if re.search(r"[<>!~\[]", name) else name for name in names)


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
    """The name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
