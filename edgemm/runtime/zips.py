"""Zips: a bundle's folder packed into one zip, so that the same input gives the same bytes."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from edgemm.runtime.archive import open_archive
from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import BundleError
from edgemm.runtime.fields import one_line
from edgemm.runtime.paths import MANIFEST
from edgemm.runtime.sizes import FREE, is_bomb


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
