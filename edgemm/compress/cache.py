"""Rows that are dear to make (decoded images, a frozen encoder's outputs), kept in chunks on disk.

A chunk is one ``.npy`` file for each value, written to a temporary name and renamed; so a killed run loses at most
one chunk, and two processes that fill one folder write the same bytes. The folder's name is a digest of everything
the rows depend on but the code, and the context's cache is one of this code; so nothing in it is ever stale. A chunk
is sealed with a digest of its bytes and its place, which is compared each time it is read, once per run: what a disk
or a hand has changed is made again, and that is said.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgemm.runtime.disk import array_bytes, read_sealed, write_sealed
from edgemm.stage import Context

Rows = Mapping[str, NDArray[np.generic]]


def cache_key(**facts: object) -> str:
    """Return sha256 (64 hex digits) of JSON-able facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def cached_rows(
    context: Context,
    key: str,
    names: Sequence[str],
    compute: Callable[[range], Rows],
    *,
    count: int,
    chunk: int,
    title: str,
) -> dict[str, NDArray[np.generic]]:
    """Return rows 0 to ``count`` of every named value, from the cache where they are, else computed and kept.

    Args:
        key: digest of what the rows depend on, from ``cache_key``.
        compute: rows of a range -> one array per name, (len(range), ...).
        chunk: rows computed and written at once.
        title: what is shown in progress while something has to be computed.

    Returns:
        name -> (count, ...) in the dtype that ``compute`` gave; what it gave of several sizes is ``joined``.
    """
    folder = (context.cache or context.scratch) / "rows" / key
    ranges = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
    found = {rows: _read(folder, key, names, rows) for rows in ranges}
    damaged = [file for made in found.values() for file in made.damaged]
    if damaged:
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        context.progress.say(f"{title}: {damaged[0]}{more}: damaged since it was written; made again")
    missing = [rows for rows, made in found.items() if len(made.arrays) < len(names)]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        with context.progress.task(title, total=count) as task:
            if done := count - sum(len(r) for r in missing):
                task.advance(done, note="found in the cache")
            for rows in missing:
                made = compute(rows)
                for name in names:
                    path = _file(folder, name, rows)
                    write_sealed(path, array_bytes(made[name]), about=f"{key}/{path.name}")
                    found[rows].arrays[name] = made[name]
                task.advance(len(rows))
    # the empty range gives shape and dtype of a table without rows
    return {
        name: joined([torch.from_numpy(np.ascontiguousarray(found[r].arrays[name])) for r in ranges]).numpy()
        for name in names
        if ranges
    }


def joined(pieces: Sequence[Tensor]) -> Tensor:
    """(n, ...) each to (all n, ...), where their sizes differ padded with zeros to the largest."""
    largest = [max(sizes) for sizes in zip(*(piece.shape[1:] for piece in pieces), strict=True)]

    def padded(piece: Tensor) -> Tensor:
        lacking = [n for most, size in zip(largest, piece.shape[1:], strict=True) for n in (most - size, 0)]
        return F.pad(piece, lacking[::-1]) if any(lacking) else piece

    return torch.cat([padded(piece) for piece in pieces])


@dataclass
class _Chunk:
    """Rows of one range: name -> array for those that are there and whole, and the files of those that are not."""

    arrays: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    damaged: list[Path] = field(default_factory=list)


def _read(folder: Path, key: str, names: Sequence[str], rows: range) -> _Chunk:
    chunk = _Chunk()
    for name in names:
        path = _file(folder, name, rows)
        try:
            data = read_sealed(path, about=f"{key}/{path.name}")
        except FileNotFoundError:
            continue
        if data is None:
            chunk.damaged.append(path)
        else:
            chunk.arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return chunk


def _file(folder: Path, name: str, rows: range) -> Path:
    return folder / f"{name}-{rows.start:08d}-{rows.stop:08d}.npy"
