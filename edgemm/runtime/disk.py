"""Disk: whether an error says that there is no room left, in whose words ever."""

from __future__ import annotations

import errno
import re

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
