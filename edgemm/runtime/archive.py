"""Archive: a bundle's bytes, from a folder or one zip, checked against the manifest before anybody uses them.

Nothing is ever extracted. The size of every file is compared with the manifest before it is read, and its sha256
after, so a tampered, truncated or inflated bundle ends in one BundleCorrupt line. Writing goes through
``seal`` (the manifest last, so a folder with a manifest is complete) and ``zips.zip_bundle``.
Law: ``open_archive(folder).read(name) == open_archive(zip_bundle(folder, z)).read(name)``.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol

from edgemm.runtime.disk import replacing
from edgemm.runtime.engines import compiles
from edgemm.runtime.errors import BundleCorrupt, BundleError, EngineError
from edgemm.runtime.fields import json_value, one_line, parse_json, show
from edgemm.runtime.manifest import FileEntry, Manifest, TargetEntry
from edgemm.runtime.paths import MANIFEST, check_path
from edgemm.runtime.sizes import LABELS_LIMIT, check_size

MANIFEST_LIMIT_BYTES = 16 << 20  # a manifest is a few kB; a larger one is an attack on memory
BLOCK_BYTES = 4 << 20


class Storage(Protocol):
    """Where the bytes lie. ``size`` raises BundleCorrupt for a file that is not there."""

    def names(self) -> list[str]:
        """Return every file but the manifest."""
        ...

    def size(self, name: str) -> int:
        """Return bytes of one file, before reading it."""
        ...

    def blocks(self, name: str, limit_bytes: int, block_bytes: int) -> Iterator[bytes]:
        """Return at most ``limit_bytes + 1`` bytes of one file, in blocks that are not empty."""
        ...


class Archive:
    """An open bundle: its manifest, and the bytes of its files.

    Raises:
        BundleError: the manifest is missing or does not validate.
        BundleCorrupt: it names files that are not there, or the zip is damaged.
    """

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self._storage = storage
        size = storage.size(MANIFEST)
        if size > MANIFEST_LIMIT_BYTES:
            raise BundleCorrupt(f"{path}: {MANIFEST} is {size} bytes, expected at most {MANIFEST_LIMIT_BYTES}")
        data = b"".join(storage.blocks(MANIFEST, size, size + 1))
        self.manifest = Manifest.from_bytes(data, file=f"{path}/{MANIFEST}")
        self.manifest_bytes = len(data)
        self.manifest_sha256 = hashlib.sha256(data).hexdigest()
        check_references(self.manifest, f"{path}/{MANIFEST}")

    def read(self, name: str, *, limit: int | None = None) -> bytes:
        """Return the bytes of one file of the bundle.

        Args:
            name: as in the manifest's table.
            limit: bytes it may have; None takes the limit of its kind (``sizes``).

        Raises:
            BundleError: the manifest does not list it.
            BundleCorrupt: its size or sha256 differs from the manifest's, it is too large, or it is not there.
        """
        return b"".join(self._checked(name, limit, block_bytes=sys.maxsize))  # one block: nothing is held twice

    def check(self, name: str) -> None:
        """Read one file in blocks and compare its size and sha256, whatever its size; raises what ``read`` raises."""
        for _ in self._checked(name, None, block_bytes=BLOCK_BYTES):
            pass

    def _checked(self, name: str, limit: int | None, *, block_bytes: int) -> Iterator[bytes]:
        """Yield the blocks of one file; raises after the last where they are not what the manifest says."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: no file '{name}' in the manifest's table")
        size = self._storage.size(name)
        if size != entry.bytes:
            raise BundleCorrupt(f"{self.path}: {name}: got {size} bytes, expected {entry.bytes} by the manifest")
        check_size(name, size, str(self.path), limit=limit)
        hashed = hashlib.sha256()
        got = 0
        for block in self._storage.blocks(name, entry.bytes, block_bytes):
            hashed.update(block)
            got += len(block)
            yield block
        if got != entry.bytes:
            raise BundleCorrupt(
                f"{self.path}: {name}: got {got} bytes{'' if got < entry.bytes else ' or more'}, "
                f"expected {entry.bytes} by the manifest"
            )
        digest = hashed.hexdigest()
        if digest != entry.sha256:
            raise BundleCorrupt(
                f"{self.path}: {name}: got sha256 {digest[:16]}…, expected {entry.sha256[:16]}…; "
                "the file was changed after the bundle was made"
            )

    def read_strings(self, name: str) -> tuple[str, ...]:
        """Return a JSON list of strings (labels). Raises BundleError where it is anything else."""
        value = parse_json(self.read(name, limit=LABELS_LIMIT), file=f"{self.path}/{name}")
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise BundleError(f"{self.path}/{name}: got {show(value)}, expected a non-empty array of strings")
        return tuple(value)

    def unlisted(self) -> list[str]:
        """Files, and links to folders, that lie in the bundle but that the manifest does not list."""
        return sorted(name for name in self._storage.names() if name not in self.manifest.files)

    def problems(self) -> list[str]:
        """Return one line for each file that is missing, differs or is not listed; empty where the bundle is whole."""
        found: list[str] = []
        for name in self.manifest.files:
            try:
                self.check(name)
            except BundleError as error:
                found.append(str(error))
        try:
            found += [f"{self.path}: {name}: not listed in the manifest" for name in self.unlisted()]
        except OSError as error:
            found.append(f"{self.path}: cannot be listed: {one_line(error)}")
        return found


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Open a bundle folder or a bundle zip.

    Raises:
        BundleError: there is nothing, or nothing that is a bundle.
        BundleCorrupt: a damaged zip or unsafe names in it.
    """
    place = Path(path)
    try:
        if place.is_dir():
            return Archive(place, _Folder(place))
        if place.is_file():
            if place.suffix == ".onnx":
                raise BundleError(
                    f"{place}: an ONNX graph, and not a bundle; expected a bundle folder or a bundle .zip, as edgemm "
                    "run, capture and quantize write them"
                )
            from edgemm.runtime.zip_storage import ZipStorage  # zipfile costs 12 ms; a folder does without

            return Archive(place, ZipStorage(place))
        found = "not a regular file" if place.exists() else "no such file or folder"
    except (OSError, ValueError) as error:
        raise BundleError(f"{place}: cannot be read: {one_line(error)}") from error
    raise BundleError(f"{place}: {found}; expected a bundle folder or a bundle .zip")


def check_references(manifest: Manifest, file: str) -> None:
    """Raise BundleCorrupt where a file that the manifest speaks of is not in its table of digests."""
    for name, key in manifest.referenced_files():
        if name not in manifest.files:
            raise BundleCorrupt(f"{file}: {key}: '{name}' is not in the table 'files'")


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root
        self._real = root.resolve()

    def place(self, name: str) -> Path:
        place = self._root / name
        try:
            real = place.resolve(strict=True)
        except (OSError, RuntimeError, ValueError) as error:  # missing, a loop of links, a NUL
            if name == MANIFEST:
                raise BundleError(f"{self._root}: no {MANIFEST}; expected a bundle folder") from error
            raise BundleCorrupt(f"{self._root}: {name}: not there; the manifest lists it") from error
        if not real.is_relative_to(self._real):
            raise BundleCorrupt(f"{self._root}: {name}: a link that leads out of the bundle, to {real}")
        if not real.is_file():
            raise BundleCorrupt(f"{self._root}: {name}: not a regular file")
        return real

    def names(self) -> list[str]:
        return [name for name in _files_under(self._root) if name != MANIFEST]

    def size(self, name: str) -> int:
        return self.place(name).stat().st_size

    def blocks(self, name: str, limit_bytes: int, block_bytes: int) -> Iterator[bytes]:
        left = limit_bytes + 1
        try:
            with self.place(name).open("rb", buffering=0) as file:
                while left > 0 and (block := file.read(min(block_bytes, left))):
                    left -= len(block)
                    yield block
        except OSError as error:
            raise BundleCorrupt(f"{self._root}: {name}: cannot be read: {one_line(error)}") from error


def seal(folder: str | os.PathLike[str], manifest: Manifest) -> Manifest:
    """Complete a bundle folder: list every file with size and sha256, then write ``manifest.json``, atomically.

    Args:
        folder: holds every file but the manifest already.
        manifest: its ``files`` are replaced by the table made here, and each target's ``operators`` by those that its
            graphs have: who seals a bundle answers for its graphs.

    Returns:
        The manifest as written.

    Raises:
        BundleError: the manifest does not validate, or names a file that is not in the folder.
        BundleCorrupt: a file that is too large to be read again.
    """
    root = Path(folder)
    inside = _Folder(root)
    names = inside.names()
    labels = {*manifest.labels.values(), *(gallery.labels for gallery in manifest.galleries.values())}
    entries: dict[str, FileEntry] = {}
    for name in names:
        check_path(name, str(root))
        inside.place(name)
        digest = hashlib.sha256()
        size = 0
        with (root / name).open("rb") as file:
            while chunk := file.read(BLOCK_BYTES):
                digest.update(chunk)
                size += len(chunk)
        check_size(name, size, str(root), limit=LABELS_LIMIT if name in labels else None)
        entries[name] = FileEntry(digest.hexdigest(), size)
    targets = tuple(_naming_operators(root, target, manifest) for target in manifest.targets)
    sealed = replace(manifest, files=entries, targets=targets)
    # What is written has to be readable: the same checks as on the device, on the JSON itself.
    again = Manifest.from_json(json_value(sealed.to_bytes()), file=f"{root}/{MANIFEST}")
    check_references(again, f"{root}/{MANIFEST}")
    try:
        with replacing(root / MANIFEST) as partial:
            partial.write_bytes(sealed.to_bytes())
    except OSError as error:
        raise BundleError(f"{root / MANIFEST}: cannot be written: {one_line(error)}") from error
    return again


def _naming_operators(root: Path, target: TargetEntry, manifest: Manifest) -> TargetEntry:
    """The target with the names of what is out of the ordinary in its graphs; a graph that no reader takes has none."""
    from edgemm.runtime.onnx_limits import graph_operators

    found: set[str] = set()
    graphs = {target.files.get(p.name) for p in manifest.parts if not compiles(target.engine_of(p))}
    for name in graphs - {None}:
        try:
            found.update(graph_operators((root / str(name)).read_bytes(), what=str(name)))
        except (EngineError, OSError):
            continue
    return replace(target, operators=tuple(sorted(found)))


def _files_under(root: Path) -> list[str]:
    """Everything below a folder but the folders that are walked: files, pipes, sockets, links to files and folders."""
    found: list[str] = []
    for folder, inner, names in os.walk(root, onerror=_raise):
        relative = Path(folder).relative_to(root)
        links = [name for name in inner if (Path(folder) / name).is_symlink()]
        found += [(relative / name).as_posix() for name in [*names, *links]]
    return sorted(found)


def _raise(error: OSError) -> NoReturn:
    raise error
