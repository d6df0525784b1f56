"""Sizes: how large a file of a bundle may be, so that a small bundle can't fill a device's memory.

What a manifest lists honestly is read whole, so digests alone don't stop a bomb.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from edgemm.runtime.errors import BundleCorrupt

MIB = 1 << 20
LIMITS = {".json": 64 * MIB, ".jsonl": 1024 * MIB, ".npy": 4096 * MIB, ".npz": 1024 * MIB, ".onnx": 2048 * MIB}
"""Bytes by kind of file. The largest tokenizers have 35 MB, an ONNX file can hold no more, a gallery of a million
float16 embeddings of width 1024 has 2 GB."""
LABELS_LIMIT = 32 * MIB  # a list of strings takes twenty times its bytes once it is read
TOTAL_LIMIT = 16384 * MIB  # all files of one bundle
LARGEST_RATIO = 50  # bytes unpacked by byte packed; weights reach 2, text 10, deflate could reach 1,032
FREE = MIB  # what may unpack at any ratio


def check_size(name: str, size: int, where: str, *, limit: int | None = None) -> None:
    """Raise BundleCorrupt where a file is larger than its kind may be, or than ``limit``."""
    most = LIMITS.get(PurePosixPath(name).suffix) if limit is None else limit
    if most is not None and size > most:
        raise BundleCorrupt(f"{where}: {name}: {size} bytes, expected at most {most} of such a file")


def is_bomb(packed: int, unpacked: int) -> bool:
    """Return whether so few packed bytes unpack to more than a file of a bundle does."""
    return unpacked > max(FREE, LARGEST_RATIO * packed)
