"""Files: bytes that have no file of their own (in Parquet, tar, a stream) are kept once, named by their content.

Why: whatever is downstream reads samples from disk, one at a time, and knows them by their bytes. Names come from
the content alone, so that no name in an archive can reach out of the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

from edgemm.runtime.errors import StoreError

_ENDINGS = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
    (b"fLaC", ".flac"),
    (b"OggS", ".ogg"),
    (b"ID3", ".mp3"),
    (b"\xff\xfb", ".mp3"),
    (b"\xff\xf3", ".mp3"),
    (b"\x93NUMPY", ".npy"),
)


def ending_of(data: bytes) -> str:
    """Return the usual ending of a file with these bytes, by its first ones; ``.bin`` where they say nothing."""
    if data[:4] == b"RIFF":
        return {b"WAVE": ".wav", b"WEBP": ".webp"}.get(data[8:12], ".bin")
    return next((ending for start, ending in _ENDINGS if data.startswith(start)), ".bin")


def keep_bytes(data: bytes, cache: Path) -> Path:
    """``<cache>/files/<sha256><ending>`` with these bytes: found whole, or written whole or not at all.

    Law: ``keep_bytes(data, cache).read_bytes() == data``.

    Raises:
        StoreError: the folder can't be written, or the disk is full.
    """
    folder = cache / "files"
    path = folder / f"{hashlib.sha256(data).hexdigest()}{ending_of(data)}"
    with contextlib.suppress(OSError):  # not there, or a sector of the disk that can't be read any more
        if path.read_bytes() == data:
            return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix=".", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            os.replace(partial, path)
        except BaseException:
            Path(partial).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"{folder}: can't keep the files of the data ({error.strerror or error}); free some space, or choose "
            "another store with --store"
        ) from error
    return path
