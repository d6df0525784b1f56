"""Shards: samples of local tars in the way of WebDataset, where members of a sample share a name up to its first dot.

Why not ``datasets``: it takes the endings of the first five samples for those of all, and drops every other member.
Nothing is written under a member's name.
"""

from __future__ import annotations

import lzma
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgemm.data.folder import IMAGES, SOUNDS
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value, one_line

Row = Mapping[str, object]
Members = Mapping[str, tarfile.TarInfo]  # ending -> member

_TEXTS = ("txt", "text", "transcript", "cls", "cls2", "index", "inx", "id")
_JSON = ("json", "jsn")
_KINDS = ({end[1:] for end in IMAGES}, {end[1:] for end in SOUNDS}, {"txt", "text"})


class Shards:
    """The samples of one split.

    Members of the same key are one sample, wherever in their tar they lie. Where a sample lacks the ending that a
    column is mapped to, its one member of another ending of that kind (``png`` for ``jpg``) is read in its place, as
    long as no sample has both.

    Args:
        paths: of the tars, in order.
        asked: the columns that are read where they are there: an ending, or ``json.caption``.

        where: begins the messages.

    Raises:
        DataError: a tar that can't be read.
    """

    def __init__(self, paths: Sequence[Path], asked: Iterable[str], *, where: str) -> None:
        self._paths, self._where = paths, where
        seen: list[set[str]] = []
        for path in paths:
            with _opened(path, where=self._where) as tar:
                seen += [set(members) for members in _samples(tar, where=f"{self._where}: {path}").values()]
        there = set().union(*seen)
        read = {name if name in there else name.partition(".")[0] for name in asked}
        self._others = {
            ending: {
                other
                for other in there - read
                if any({ending.lower(), other.lower()} <= kind for kind in _KINDS)
                and not any({ending, other} <= endings for endings in seen)
            }
            for ending in read
        }
        self._read = {ending for ending in read if ending in there or self._others[ending]}
        self.endings = sorted(there | self._read)
        self.unread: Counter[str] = Counter()

    def rows(self) -> Iterator[Row]:
        """Yield every sample: its key, and by ending the bytes, the string (``txt``, ``cls``) or the object (``json``).

        ``unread`` then says how many samples have members that no column reads, while they lack one that is read.
        """
        for path in self._paths:
            with _opened(path, where=self._where) as tar:
                for key, members in _samples(tar, where=f"{self._where}: {path}").items():
                    chosen, used = dict(members), set[str]()
                    for ending, others in self._others.items():
                        if ending not in members and len(found := sorted(others & set(members))) == 1:
                            chosen[ending] = members[found[0]]
                            used.add(found[0])
                    if any(ending not in chosen for ending in self._read):
                        self.unread.update(set(members) - self._read - used)
                    where = f"{self._where}: {path}"
                    wanted = {ending: member for ending, member in chosen.items() if ending in self._read}
                    yield {"__key__": key, **{end: _content(tar, member, where) for end, member in wanted.items()}}


def _opened(path: Path, *, where: str) -> tarfile.TarFile:
    try:
        return tarfile.open(path)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{where}: {path} is no tar, or cut ({one_line(error)})") from error


def _samples(tar: tarfile.TarFile, *, where: str) -> Mapping[str, Members]:
    """Key -> its members by ending, as ``webdataset`` splits names: ``a/b.seg.png`` is ``seg.png`` of ``a/b``."""
    found: dict[str, dict[str, tarfile.TarInfo]] = {}
    try:
        for member in tar:
            folder, slash, name = member.name.rpartition("/")
            stem, dot, ending = name.partition(".")
            if not member.isfile() or not dot or not stem or stem.startswith("__"):
                continue
            if ending in (members := found.setdefault(f"{folder}{slash}{stem}", {})):
                raise DataError(f"{where} has '{member.name}' twice; take one out")
            members[ending] = member
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{where} is cut ({one_line(error)})") from error
    return found


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, where: str) -> object:
    kind = member.name.rpartition(".")[2].lower()
    try:
        file = tar.extractfile(member)
        data = file.read() if file is not None else b""
        if kind in _TEXTS:
            return data.decode("utf-8-sig")
        return json_value(data) if kind in _JSON else data
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise DataError(f"{where}: can't read '{member.name}' ({one_line(error)})") from error
