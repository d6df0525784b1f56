"""Zips: a bundle as one zip, read in place without extracting, written so that the same input gives the same bytes."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgemm.runtime.archive import open_archive
from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import BundleCorrupt, BundleError, EdgemmError
from edgemm.runtime.fields import one_line
from edgemm.runtime.paths import MANIFEST, check_names, check_path
from edgemm.runtime.sizes import FREE, LARGEST_RATIO, is_bomb

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
        """Every file but the manifest."""
        return [name for name in self._members if name != MANIFEST]

    def size(self, name: str) -> int:
        """What the zip says a file unpacks to."""
        if name in self._members:
            return self._members[name].file_size
        if name == MANIFEST:
            raise BundleError(f"{self._path}: no {MANIFEST} in the zip; expected a bundle")
        raise BundleCorrupt(f"{self._path}: {name}: not in the zip; the manifest lists it")

    def blocks(self, name: str, limit_bytes: int, block_bytes: int) -> Iterator[bytes]:
        """At most ``limit_bytes + 1`` bytes of one file, in blocks that are not empty."""
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


def zip_bundle(folder: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Pack a sealed bundle folder into one zip, deterministically: sorted names, no timestamps, digests checked.

    Returns:
        The path of the zip, complete or not there at all.

    Raises:
        BundleError, BundleCorrupt: the folder is not a whole bundle.
    """
    archive = open_archive(folder)
    target = Path(out)
    try:
        with replacing(target) as partial, zipfile.ZipFile(partial, "w", allowZip64=True) as packed:
            manifest = (Path(folder) / MANIFEST).read_bytes()
            _add_member(packed, MANIFEST, manifest)
            for name in sorted(archive.manifest.files):
                _add_member(packed, name, archive.read(name))
    except OSError as error:
        raise BundleError(f"{target}: cannot be written: {one_line(error)}") from error
    return target


def _add_member(packed: zipfile.ZipFile, name: str, data: bytes) -> None:
    member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    member.create_system = 3  # Unix, on every machine
    member.external_attr = 0o100644 << 16
    # What packs like a bomb is stored as it is, since no reader would unpack it.
    stored = len(data) > FREE and is_bomb(2 * len(zlib.compress(data, 6)), len(data))
    member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    packed.writestr(member, data, compresslevel=6)
