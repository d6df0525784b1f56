"""Score cache: what was scored before on the same bytes, samples and engine isn't scored again; sealed, and checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from edgemm.measure.scores import Scored
from edgemm.runtime.disk import read_sealed, write_sealed
from edgemm.runtime.fields import json_value
from edgemm.stage import Context


def version(package: str) -> str:
    """Return the installed version, ``"unknown"`` where there is none."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def file_of(context: Context, key: Sequence[Any]) -> Path | None:
    """Where the scores of that key are kept; None without a cache."""
    if context.cache is None:
        return None
    folder = context.cache / "scores"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()}.json"


def read(path: Path | None, *, say: Callable[[str], None]) -> list[Scored] | None:
    """Scores kept by an earlier run, or None; what was damaged since is scored again, which ``say`` is told."""
    if path is None:
        return None
    try:
        data = read_sealed(path, about=path.name)
    except FileNotFoundError:
        return None
    if data is None:
        say(f"scores: {path}: damaged since it was written; scored again")
        return None
    return [Scored(**{**record, "samples": tuple(record["samples"])}) for record in json_value(bytes(data))]


def write(path: Path | None, scored: Sequence[Scored]) -> None:
    """Keep scores there; nothing without a cache."""
    if path is not None:
        data = json.dumps([asdict(s) for s in scored], ensure_ascii=False).encode()
        write_sealed(path, data, about=path.name)
