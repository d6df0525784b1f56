"""Disk: files written whole or not at all, and whether an error, in any library's words, says that there is no room."""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_WORDS = re.compile(
    "No space left on device|File too large"  # safetensors and torch: errors of their own, in the system's words
    r"|problem writing element|requested and \d+ written"  # numpy.ndarray.tofile: an OSError without errno
)


def disk_is_full(error: BaseException) -> bool:
    """Whether a full disk, a quota or a limit on the size of files is what ``error`` is about."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return bool(_WORDS.search(str(error)))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file at: synced and renamed over ``path`` if the block ends well, else removed.

    The neighbour's name is drawn, so that two processes may write the same file, those of two containers too.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file, through memory.

    Into a real file numpy writes past Python, and its error for a full disk has neither errno nor path.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())
