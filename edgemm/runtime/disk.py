"""Disk: files written whole or not at all, sealed where they are read back, and whether an error says: no room."""

from __future__ import annotations

import errno
import hashlib
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


def write_sealed(path: Path, data: bytes | memoryview, *, about: str) -> None:
    """Write ``data`` with a digest of it and of ``about`` behind it, whole or not at all.

    Law: ``read_sealed`` gives the same bytes for the same ``about``, or None where a bit of either is another.

    Args:
        about: what the data is; so a file that was renamed or moved to another place is not taken for that one.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.write(_seal(data, about))


def read_sealed(path: Path, *, about: str) -> memoryview | None:
    """Return what ``write_sealed`` wrote there; None where it is damaged, cut, of something else, or can't be read.

    Raises:
        FileNotFoundError: there is no such file.
    """
    try:
        whole = memoryview(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError:  # a sector of the disk that can't be read any more: what is kept can be made again
        return None
    data, seal = whole[:-_SEAL_BYTES], whole[-_SEAL_BYTES:]
    return data if seal == _seal(data, about) else None


_SEAL_BYTES = 32


def _seal(data: bytes | memoryview, about: str) -> bytes:
    """Digest of both: sha256, which CPUs have an instruction for."""
    digest = hashlib.sha256(f"{len(about)} {about} ".encode())
    digest.update(data)
    return digest.digest()


def array_bytes(array: np.ndarray) -> memoryview:
    """Return the bytes of an ``.npy`` file; its reader passes over what may stand behind them."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getbuffer()


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file, through memory.

    Into a real file numpy writes past Python, and its error for a full disk has neither errno nor path.
    """
    path.write_bytes(array_bytes(array))
