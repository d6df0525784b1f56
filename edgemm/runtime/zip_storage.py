"""Zip storage: the files of a bundle's zip, read in place without extracting; ``zips.zip_bundle`` writes one."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemm.runtime.errors import BundleCorrupt, BundleError, EdgemmError
from edgemm.runtime.fields import one_line
from edgemm.runtime.paths import MANIFEST, check_names, check_path
from edgemm.runtime.sizes import LARGEST_RATIO, is_bomb

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipStorage:
    """The files of one zip; see ``archive.Storage``. Raises BundleCorrupt for a damaged zip or unsafe names in it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._open() as archive:
            self._members: dict[str, zipfile.ZipInfo] = {}
            for member in archive.infolist():
                if member.is_dir():
                    check_path(member.filename.rstrip("/"), f"{path}: a folder of the zip")
                    continue
                if member.filename != MANIFEST:
                    check_path(member.filename, f"{path}: a member of the zip")
                if member.filename in self._members:
                    raise BundleCorrupt(f"{path}: '{member.filename}' is in the zip twice")
                if member.compress_type not in _METHODS:
                    raise BundleCorrupt(
                        f"{path}: '{member.filename}' is packed by method {member.compress_type}; expected it stored "
                        "or deflated"
                    )
                if member.orig_filename != member.filename:
                    raise BundleCorrupt(f"{path}: unsafe path {member.orig_filename[:80]!r} in the zip")
                if (kind := (member.external_attr >> 16) & 0o170000) not in (0, stat.S_IFREG):
                    what = "a symbolic link" if kind == stat.S_IFLNK else "no regular file"
                    raise BundleCorrupt(f"{path}: '{member.filename}' is {what}; expected a file")
                self._members[member.filename] = member
        check_names(self._members, f"{path}")
        packed = sum(member.compress_size for member in self._members.values())
        if packed > (whole := path.stat().st_size):  # each packed byte belongs to one file
            raise BundleCorrupt(f"{path}: its files say that they take {packed} of {whole} bytes")

    @contextmanager
    def _open(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                yield archive
        except EdgemmError:
            raise
        except (
            Exception
        ) as error:  # of a dozen types: zlib.error, struct.error, RuntimeError where it is encrypted, ...
            why = one_line(error)
            detail = "cut off, or another kind of file" if why == "File is not a zip file" else why
            raise BundleCorrupt(f"{self._path}: not a whole zip: {detail}") from error

    def names(self) -> list[str]:
        """Return every file but the manifest."""
        return [name for name in self._members if name != MANIFEST]

    def size(self, name: str) -> int:
        """Return what the zip says a file unpacks to."""
        if name in self._members:
            return self._members[name].file_size
        if name == MANIFEST:
            raise BundleError(f"{self._path}: no {MANIFEST} in the zip; expected a bundle")
        raise BundleCorrupt(f"{self._path}: {name}: not in the zip; the manifest lists it")

    def blocks(self, name: str, limit_bytes: int, block_bytes: int) -> Iterator[bytes]:
        """Yield at most ``limit_bytes + 1`` bytes of one file, in blocks that are not empty."""
        member = self._members[name]
        if is_bomb(member.compress_size, member.file_size):
            raise BundleCorrupt(
                f"{self._path}: {name}: {member.compress_size} bytes unpack to {member.file_size}, expected at most "
                f"{LARGEST_RATIO} times as many"
            )
        # Read by the size the manifest states, never by what the zip's own header claims: a bomb stops here.
        with self._open() as archive, archive.open(member) as file:
            while limit_bytes > 0 and (block := file.read(min(block_bytes, limit_bytes))):
                limit_bytes -= len(block)
                yield block
            if tail := file.read(1):  # reading on runs the zip's CRC check at the end of the file
                yield tail
