"""Disk: whether an error says that there is no room left, in whose words ever; arrays written so that it can say it."""

from __future__ import annotations

import errno
import io
import re
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


def write_array(path: Path, array: np.ndarray) -> None:
    """Write an ``.npy`` file, through memory.

    Into a real file numpy writes past Python, and its error for a full disk has neither errno nor path.
    """
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    path.write_bytes(buffer.getbuffer())
