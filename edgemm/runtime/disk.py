"""Disk: files and folders replaced whole or not at all, sealed where they are read back, and what errors of it say.

Why: a process can be killed at any instruction, several can write one place, a disk can fill. So what is to take a
place is made beside it, in a hidden folder that is locked; the system lets go of the lock when the process dies, and
the next one that writes to that place removes what is left. A folder changes places with the one that was there in one
step, so that at every moment either the old or the new one is there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

_TRIES = 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_WORDS = re.compile(
    "No space left on device|File too large"  # safetensors and torch: errors of their own, in the system's words
    r"|problem writing element|requested and \d+ written"  # numpy.ndarray.tofile: an OSError without errno
)


def disk_is_full(error: BaseException) -> bool:
    """Return whether a full disk, a quota or a limit on the size of files is what ``error`` is about."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return bool(_WORDS.search(str(error)))


def system_fault(error: BaseException) -> str | None:
    """What an error says of a disk, a file or another thing of the system, in one line; None for any other error.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, with the system's number in the text.
    """
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])
    if disk_is_full(error) or number in FULL:
        words = "no space left on device; free some and run the same command again"
    elif number is None or number in (errno.EBADF, errno.EINVAL, errno.EFAULT):  # a fault of the program's
        return None
    else:
        words = os.strerror(number).lower()
    place = getattr(error, "filename", None)
    return words if place is None else f"{place}: {words}"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write a file at: synced and renamed over ``path`` if the block ends well, else removed."""
    with beside(path) as folder:
        partial = folder / path.name
        yield partial
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
        partial.replace(path)


@contextmanager
def beside(place: Path) -> Iterator[Path]:
    """A new hidden folder beside ``place``, for what is to take its place; removed at the end, with all that is in it.

    The name is drawn, so that two processes may write to one place, those of two containers too. What killed
    processes have left beside the place is removed first.
    """
    _sweep(place)
    for _ in range(_TRIES):
        folder = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
        folder.mkdir()
        held = _locked(folder)
        if _is(folder, held):
            break  # else another process has swept it before it was locked, or nothing can be locked here
    try:
        folder.mkdir(exist_ok=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def put_in_place(made: Path, place: Path) -> None:
    """Move a folder, made in one that ``beside`` gave, to ``place``; what was there is then gone.

    At every moment the old or the new one is at ``place``, where the system can exchange two names in one step (Linux,
    macOS). Elsewhere there is a moment between two renames, and the next process that writes there mends what a kill in
    it has left.
    """
    for _ in range(_TRIES):  # other processes may be moving theirs there meanwhile
        try:
            made.rename(place)  # nothing is there, or an empty folder
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR, errno.EACCES) or not place.exists():
                raise
        if _exchange(made, place):
            return  # the old one is now where ``made`` was, and goes with the folder around it
        old = place.with_name(f".{place.name}.{secrets.token_hex(4)}.old")
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it
            place.rename(old)
        try:
            made.rename(place)
            return
        except OSError:
            if not place.exists():
                if old.exists():
                    old.rename(place)
                raise
        finally:
            if place.exists():
                shutil.rmtree(old, ignore_errors=True)
    raise OSError(errno.EBUSY, "other processes keep writing there", str(place))


def _sweep(place: Path) -> None:
    """Remove what killed processes have left beside ``place``, and bring back what one had moved out of the way."""
    name = re.escape(place.name)
    try:
        with os.scandir(place.parent) as entries:
            names = [entry.name for entry in entries]
    except OSError:  # no such folder: what is tried next says so
        return
    for left in (place.with_name(n) for n in names if re.fullmatch(rf"\.{name}\.[0-9a-f]{{8}}\.(partial|old)", n)):
        if left.suffix == ".old" and not place.exists():
            with contextlib.suppress(OSError):
                left.rename(place)
        elif (held := _locked(left)) is not None:
            shutil.rmtree(left, ignore_errors=True)
            os.close(held)


def _locked(folder: Path) -> int | None:
    """Return an open handle that holds the folder's lock; None where another process holds it, or it is gone."""
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        import fcntl  # not on Windows

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _is(folder: Path, handle: int | None) -> bool:
    """Return whether the folder is there, and the handle is its own."""
    try:
        return handle is not None and os.path.samestat(folder.stat(), os.fstat(handle))
    except OSError:
        return False


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where the system or the file system can't."""
    import ctypes

    try:
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            done = library.renamex_np(os.fsencode(one), os.fsencode(other), 2)  # RENAME_SWAP
        else:
            done = library.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2)  # AT_FDCWD, RENAME_EXCHANGE
    except (AttributeError, OSError, TypeError):  # another C library, another system
        return False
    return bool(done == 0)


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
    """Return digest of both: sha256, which CPUs have an instruction for."""
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


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an ``.npz`` file, whatever its arrays are called: ``numpy.savez`` takes none called ``file``."""
    import zipfile

    with zipfile.ZipFile(path, "w") as packed:
        for name, array in arrays.items():
            packed.writestr(zipfile.ZipInfo(f"{name}.npy"), array_bytes(array))
