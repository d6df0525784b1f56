"""Hashing: content keys, of what a stage's output depends on and nothing else.

Why: a stage is skipped only when its output would be the same. The key holds the stage, its configuration, the digests
(not the paths) of its inputs, the seed and threads, and what does the arithmetic: edgemm's own code that the stage
runs (``code_digest.py``) and the versions of the libraries. Worker counts, devices, folders and times are not in it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any


def canonical_json(value: Any) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, UTF-8.

    Law: equal values have equal texts. Raises ValueError for NaN and infinity, which no recipe holds.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def content_key(facts: Mapping[str, Any]) -> str:
    """Return sha256 (64 hex digits) of the canonical JSON of what an output depends on."""
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


def file_sha256(path: Path) -> str:
    """Return sha256 (64 hex digits) of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_files(folder: Path) -> list[str]:
    """Relative POSIX paths of the regular files of a folder, sorted by name."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def files_digest(files: Mapping[str, str]) -> str:
    """Return digest of a folder: sha256 over one line ``<sha256>  <path>`` for each file, sorted by path."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{files[path]}  {path}\n".encode())
    return digest.hexdigest()
