"""Regular files: a path is opened only where a file lies, so that nothing waits for ever.

A FIFO waits for a writer, a device has no end, and a folder is no file. Each is one line.
"""

from __future__ import annotations

import io
import os
import stat
from typing import Any, BinaryIO

from edgemm.runtime.errors import InputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_given(raw: Any, *, where: str, largest: int, expected: str) -> tuple[BinaryIO, str]:
    """Open a file or its bytes to read them; the caller closes it.

    Args:
        raw: a path, or the bytes.
        where: names the sample in messages.
        largest: bytes that a file may have.
        expected: what else could have been given, for the message on something that is neither.

    Returns:
        The open file, and the sample's name for messages on what it holds: with the path, where there is one.

    Raises:
        InputError: neither a path nor bytes, or what ``open_regular`` raises.
    """
    if isinstance(raw, (str, os.PathLike)):
        name = f"{where} ({raw})"
        return open_regular(raw, where=name, largest=largest), name
    if isinstance(raw, (bytes, bytearray, memoryview)):
        return io.BytesIO(raw), where
    raise InputError(f"{where}: got {type(raw).__name__}, expected a path, bytes or {expected}")


def open_regular(path: str | os.PathLike[str], *, where: str, largest: int) -> BinaryIO:
    """Open a file to read its bytes; the caller closes it.

    Args:
        where: begins the messages.
        largest: bytes that the file may have.

    Raises:
        InputError: no such file, something else than a regular file, one that can't be read, or one that is larger.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a FIFO doesn't wait for a writer
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0))
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or half a character
        reason = getattr(error, "strerror", None) or "not the name of a file"
        raise InputError(f"{where}: can't be read ({reason})") from error
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
            raise InputError(f"{where}: {kind}, expected a regular file")
        if found.st_size > largest:
            raise InputError(f"{where}: {found.st_size} bytes, expected at most {largest}")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
