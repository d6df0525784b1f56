"""Chunks: where the samples lie in a sound file made of chunks, and how many bytes of them it announces.

WAV (RIFF, RIFX), RF64, AIFF and CAF. A program that writes to a pipe can't go back to fill in a size, and leaves one
that is none: 0, or what no file has. Sources: EBU Tech 3306 (RF64), and Apple's specifications of AIFF-C and CAF.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_NEAR = 1 << 16  # writers to pipes take 2 or 4 GiB, less a header or a block: sox 0x7FFFF000, arecord 0x80000000


@dataclass(frozen=True, slots=True)
class Samples:
    """The chunk of samples: where its size is written, where its content begins, and its announced and real bytes.

    Attributes:
        announced: None where the writer didn't know.
        there: bytes up to the end of the file.
    """

    size_at: int
    begin: int
    announced: int | None
    there: int


def find_samples(file: BinaryIO) -> Samples | None:
    """Return the chunk of samples of a file that is open for reading; None where it is of another kind, or has none."""
    file.seek(0, 2)
    end = file.tell()
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"caff":
        for name, size_at, begin, size in _chunks(file, 8, end, order="big", width=8, padded=False):
            if name == b"data":
                unknown = size >= 2**63  # -1
                return Samples(size_at, begin, None if unknown else size, end - begin)
        return None
    big = head[:4] in (b"FORM", b"RIFX")
    if head[:4] not in (b"RIFF", b"RIFX", b"RF64", b"FORM") or head[8:12] not in (b"WAVE", b"AIFF", b"AIFC"):
        return None
    whole: int | None = None
    for name, size_at, begin, size in _chunks(file, 12, end, order="big" if big else "little", width=4, padded=True):
        if name == b"ds64":
            file.seek(begin + 8)
            whole = int.from_bytes(file.read(8), "little")
        elif name in (b"data", b"SSND"):
            if head[:4] == b"RF64" and size == 0xFFFFFFFF and whole is not None:
                return Samples(size_at, begin, whole, end - begin)
            return Samples(size_at, begin, None if _is_none(file, begin, size, end) else size, end - begin)
    return None


def _chunks(
    file: BinaryIO, place: int, end: int, *, order: str, width: int, padded: bool
) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield name, place of the size, place of the content and size of every chunk."""
    while place + 4 + width <= end:
        file.seek(place)
        name, size = file.read(4), int.from_bytes(file.read(width), order)  # type: ignore[arg-type]
        begin = place + 4 + width
        yield name, place + 4, begin, size
        place = begin + size + (size & 1 if padded else 0)


def _is_none(file: BinaryIO, begin: int, size: int, end: int) -> bool:
    """Return whether a size of 32 bits is what a writer to a pipe leaves there."""
    if size == 0:  # it may be true: then other chunks follow, or nothing
        file.seek(begin)
        rest = file.read(8)
        return begin < end and not (len(rest) == 8 and rest[:4].isalpha())
    return any(abs(size - limit) <= _NEAR for limit in (2**31, 2**32))
