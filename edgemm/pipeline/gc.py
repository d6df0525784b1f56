"""Collect: bring the store under a size limit, the longest unused first, never what a run in progress uses."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemm.pipeline.launch import FOLLOWER
from edgemm.pipeline.runs import STORE_LOCK, caches_are_read, keys_in_use
from edgemm.pipeline.store import RECORD, Store, remove, writing
from edgemm.runtime.errors import InputError
from edgemm.runtime.fields import json_value

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that can be dropped: an artifact, content of it that was made again, a killed stage's, or one cache."""

    kind: str
    path: Path
    key: str | None
    used: float  # seconds since the epoch
    bytes: int
    stage: str = ""  # that made it, where that is known


@dataclass(frozen=True, slots=True)
class Collected:
    """What collecting did: entries dropped, bytes freed, bytes left, and bytes that are in use."""

    dropped: tuple[Entry, ...]
    freed: int
    left: int
    in_use: int


def collect(store: Store, limit_bytes: int, *, dry_run: bool = False) -> Collected:
    """Drop what nobody writes any more, then the longest unused, until the store holds at most ``limit_bytes``.

    What a run in progress uses stays, so the store can end above the limit; ``in_use`` says by how much that counts.
    """
    with store.lock(STORE_LOCK), writing(store.root):
        used_keys, read = keys_in_use(store), caches_are_read(store)
        entries = sorted(_entries(store), key=lambda entry: entry.used)
        total = sum(entry.bytes for entry in entries)
        dropped: list[Entry] = []
        in_use = 0
        for entry in entries:
            if entry.key is not None and (entry.key in used_keys or store.is_locked(entry.key)):
                in_use += entry.bytes
                continue
            if entry.kind == "cache" and read:
                in_use += entry.bytes  # which cache a process reads isn't known from outside
                continue
            if entry.kind not in ("partial", "superseded") and total <= limit_bytes:
                continue
            if not dry_run:
                _drop(entry)
            dropped.append(entry)
            total -= entry.bytes
    return Collected(tuple(dropped), sum(entry.bytes for entry in dropped), total, in_use)


def parse_size(text: str) -> int:
    """Return bytes of ``"20GB"``, ``"500M"``, ``"1.5GiB"`` or ``"0"``. Raises InputError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise InputError(f"size '{text}': expected a number and a unit, e.g. 20GB, 500MB, 1.5GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def _entries(store: Store) -> Iterator[Entry]:
    for kind in ("artifacts", "scratch", "partial", "cache"):
        for path in (store.root / kind).iterdir():
            old = store.superseded(path.name) if kind == "artifacts" else []
            for content in old:
                yield Entry("superseded", content, path.name, 0.0, _bytes(_files(content)))
            files = [f for f in _files(path) if not any(f.is_relative_to(content) for content in old)]
            record = path / RECORD
            stamp = record if record.is_file() else path
            key = None if kind == "cache" else path.name.partition(FOLLOWER)[0]
            used = max((_status(f)[0] for f in files), default=0.0) if kind == "scratch" else _status(stamp)[0]
            yield Entry(kind, path, key, used, _bytes(files), _stage(record))


def _bytes(files: Sequence[Path]) -> int:
    return sum(_status(file)[1] for file in files)


def _status(file: Path) -> tuple[float, int]:
    """When it was written, and its bytes; a checkpoint may have been replaced since it was listed."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0.0, 0
    return status.st_mtime, status.st_size


def _stage(record: Path) -> str:
    """Return the stage that an artifact's record names; empty where there is none."""
    try:
        return str(json_value(record.read_bytes())["stage"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _files(path: Path) -> list[Path]:
    return [f for f in path.rglob("*") if f.is_file()] if path.is_dir() else [path]


def _drop(entry: Entry) -> None:
    if entry.path.is_dir():
        (entry.path / RECORD).unlink(missing_ok=True)  # first: from here on the artifact is not there
        remove(entry.path)
    else:
        entry.path.unlink(missing_ok=True)
