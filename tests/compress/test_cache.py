"""Cached rows: made once, resumed by chunk, never half written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgemm.compress.cache import Rows, cache_key, cached_rows
from edgemm.stage import Context, Silent


def squares(rows: range) -> Rows:
    return {"square": np.array([[r * r] for r in rows], dtype=np.float16)}


def test_rows_are_computed_once_and_then_found(tmp_path: Path) -> None:
    context = Context(scratch=tmp_path)
    asked: list[range] = []

    def compute(rows: range) -> Rows:
        asked.append(rows)
        return squares(rows)

    for _ in range(2):
        made = cached_rows(context, "k", ["square"], compute, count=10, chunk=4, title="squares")
        assert made["square"].dtype == np.float16
        assert made["square"][:, 0].tolist() == [r * r for r in range(10)]
    assert asked == [range(0, 4), range(4, 8), range(8, 10)]


def test_a_run_that_died_goes_on_at_the_chunk_it_died_in(tmp_path: Path) -> None:
    context = Context(scratch=tmp_path)

    def dies(rows: range) -> Rows:
        if rows.start == 4:
            raise KeyboardInterrupt
        return squares(rows)

    with pytest.raises(KeyboardInterrupt):
        cached_rows(context, "k", ["square"], dies, count=10, chunk=4, title="squares")
    asked: list[range] = []

    def compute(rows: range) -> Rows:
        asked.append(rows)
        return squares(rows)

    cached_rows(context, "k", ["square"], compute, count=10, chunk=4, title="squares")
    assert asked == [range(4, 8), range(8, 10)]
    assert not list(tmp_path.rglob("*.partial"))


def test_another_key_is_another_table(tmp_path: Path) -> None:
    context = Context(scratch=tmp_path)
    first = cached_rows(context, cache_key(a=1), ["square"], squares, count=3, chunk=4, title="squares")
    other = cached_rows(
        context, cache_key(a=2), ["square"], lambda r: {"square": squares(r)["square"] + 1}, count=3, chunk=4, title=""
    )
    assert first["square"][2, 0] == 4
    assert other["square"][2, 0] == 5


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def flipped(path: Path, other: Path) -> None:
    data = bytearray(path.read_bytes())
    data[140] ^= 0x40  # behind the header, in the numbers
    path.write_bytes(data)


def cut(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def emptied(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def swapped(path: Path, other: Path) -> None:
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


@pytest.mark.parametrize(("damage", "files"), [(flipped, 1), (cut, 1), (emptied, 1), (swapped, 2)])
def test_a_damaged_chunk_is_made_again_and_said(tmp_path: Path, damage: Callable[..., None], files: int) -> None:
    said = Said()
    context = Context(scratch=tmp_path, progress=said)
    asked: list[range] = []

    def compute(rows: range) -> Rows:
        asked.append(rows)
        return squares(rows)

    def table() -> list[float]:
        return cached_rows(context, "k", ["square"], compute, count=8, chunk=4, title="squares")["square"][
            :, 0
        ].tolist()

    right = table()
    damage(*sorted(tmp_path.rglob("*.npy")))
    assert table() == right == [r * r for r in range(8)]
    assert asked == [range(0, 4), range(4, 8), *([range(0, 4), range(4, 8)][:files])]
    (line,) = said.lines
    assert line.startswith(f"squares: {tmp_path}")
    assert line.endswith(f"{' and 1 more' if files == 2 else ''}: damaged since it was written; made again")
    table()
    assert len(said.lines) == 1


def test_the_shared_cache_is_taken_where_there_is_one(tmp_path: Path) -> None:
    context = Context(scratch=tmp_path / "scratch", cache=tmp_path / "cache")
    cached_rows(context, "k", ["square"], squares, count=3, chunk=4, title="squares")
    assert list((tmp_path / "cache").rglob("*.npy"))
    assert not (tmp_path / "scratch").exists()


def test_a_chunk_that_does_not_fit_on_the_disk_leaves_nothing_and_raises_the_systems_own_error(tmp_path: Path) -> None:
    limit = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
        "from pathlib import Path; import numpy as np; from edgemm.compress.cache import cached_rows; "
        "from edgemm.stage import Context; "
        "cached_rows(Context(scratch=Path('.')), 'k', ['x'], lambda r: {'x': np.zeros((len(r), 1024), np.float32)}, "
        "count=4, chunk=4, title='rows')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    shown = subprocess.run([sys.executable, "-c", limit], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert shown.stderr.splitlines()[-1].endswith("File too large")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
