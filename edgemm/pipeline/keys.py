"""Content keys: what a stage's output depends on, and nothing else.

Why: a stage is skipped only when its output would be the same. The key holds the stage, its configuration, the digests
(not the paths) of its inputs, the seed and threads, and what does the arithmetic: edgemm's own code that the stage
runs, by its bytes, and the versions of the libraries. Worker counts, devices, folders and times are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8.

    Law: equal values have equal texts. Raises ValueError for NaN and infinity, which no recipe holds.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_key(facts: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) of the canonical JSON of what an output depends on."""
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def library_versions(names: Iterable[str]) -> dict[str, str | None]:
    """Installed version of each distribution; None where it is not installed (which is a fact as well)."""
    found: dict[str, str | None] = {}
    for name in sorted(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@cache
def source_files() -> Mapping[str, str]:
    """sha256 of edgemm's modules and templates by POSIX path in the package, as they were when first asked for."""
    package = Path(__file__).parents[1]
    return {
        path.relative_to(package).as_posix(): file_sha256(path)
        for path in package.rglob("*")
        if path.suffix in (".py", ".html", ".css", ".js")
    }


def sources_digest(names: Iterable[str]) -> str:
    """Digest of edgemm's own code under ``names``: folders (``"compress"``) and modules (``"stage.py"``)."""
    found: dict[str, str] = {}
    for name in names:
        under = {path: sha256 for path, sha256 in source_files().items() if path == name or path.startswith(f"{name}/")}
        assert under, f"the package has no '{name}'"  # a misspelt name would be code that no key depends on
        found.update(under)
    return files_digest(found)


def file_sha256(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(folder: Path) -> list[str]:
    """Relative POSIX paths of the regular files of a folder, sorted by name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def files_digest(files: Mapping[str, str]) -> str:
    """Digest of a folder: sha256 over one line ``<sha256>  <path>`` for each file, sorted by path."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{files[path]}  {path}\n".encode())
    return digest.hexdigest()
