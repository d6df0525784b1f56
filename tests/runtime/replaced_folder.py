"""Replaces a folder and is killed at its ``n``-th change of the disk, for n from 1 until it gets through."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from edgemm.pipeline.run import replace_with_copy
from edgemm.runtime import disk

CHANGES = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.copyfile", "shutil.rmtree", "ctypes.dlsym", "open")


def content(place: Path) -> str:
    """``"old"`` or ``"new"`` where each file of the folder is, else what is wrong."""
    files = sorted(place.rglob("*.txt"))
    kinds = {file.read_text() for file in files}
    return kinds.pop() if len(files) == 3 and len(kinds) == 1 else f"{len(files)} files, {sorted(kinds)}"


def child(source: Path, place: Path, die_at: int) -> None:
    left = die_at

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in CHANGES:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    replace_with_copy(source, place)
    os._exit(0)


def main(folder: Path, *, exchange: bool) -> None:
    if not exchange:
        disk._exchange = lambda one, other: False
    sources = {}
    for kind in ("old", "new"):
        sources[kind] = folder / kind
        (sources[kind] / "in").mkdir(parents=True)
        for name in ("a.txt", "b.txt", "in/c.txt"):
            (sources[kind] / name).write_text(kind)
    place = folder / "out" / "bundle"
    place.parent.mkdir()
    replace_with_copy(sources["old"], place)
    for die_at in range(1, 500):
        before = content(place) if place.exists() else "none"
        other = sources["new" if before == "old" else "old"]
        pid = os.fork()
        if pid == 0:
            child(other, place, die_at)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        after = content(place) if place.exists() else "none"
        hidden = len([path for path in place.parent.iterdir() if path.name.startswith(".")])
        print(f"{status} {before} {after} {hidden}", flush=True)
        if status == 0:
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), exchange=sys.argv[2] == "exchange")
