"""Collecting keeps the limit, drops the longest unused first, and never takes what a run uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgemm.pipeline.gc import collect, parse_size
from edgemm.pipeline.listing import print_collected
from edgemm.pipeline.runs import running
from edgemm.pipeline.store import Store
from edgemm.runtime.errors import InputError


def fill(store: Store, names: str, size: int = 1000) -> None:
    for age, name in enumerate(names):

        def work(out: Path, scratch: Path, name: str = name) -> None:
            (out / "data.bin").write_bytes(name.encode() * size)

        store.make(name * 64, "toy", work, facts={}, say=lambda line: None)
        os.utime(store.root / "artifacts" / (name * 64) / "artifact.json", (1e9 + age, 1e9 + age))


def left(store: Store) -> str:
    return "".join(sorted(path.name[0] for path in (store.root / "artifacts").iterdir()))


def test_the_longest_unused_goes_first(tmp_path):
    store = Store(tmp_path)
    fill(store, "abcd")
    store.touch("a" * 64)  # used just now
    one = sum(f.stat().st_size for f in (tmp_path / "artifacts" / ("a" * 64)).rglob("*") if f.is_file())
    done = collect(store, 2 * one + 40)  # records differ by a few digits: how long each took
    assert left(store) == "ad"
    assert [entry.key and entry.key[0] for entry in done.dropped] == ["b", "c"]
    assert done.left == pytest.approx(2 * one, abs=40)


def test_a_dry_run_drops_nothing(tmp_path):
    store = Store(tmp_path)
    fill(store, "ab")
    assert len(collect(store, 0, dry_run=True).dropped) == 2
    assert left(store) == "ab"


def test_what_would_go_is_listed_with_its_stage(tmp_path, capsys):
    fill(Store(tmp_path), "a")
    print_collected(tmp_path, "0", dry_run=True)
    assert capsys.readouterr().out.startswith(f"would drop artifacts of stage toy, {'a' * 16} (")


def test_what_a_run_in_progress_uses_stays(tmp_path):
    store = Store(tmp_path)
    fill(store, "abc")
    with running(store, "toy", recipe="toy", overrides=()) as run:
        run.pin("b" * 64)
        done = collect(store, 0)
        assert left(store) == "b"
        assert done.in_use > 0
    collect(store, 0)
    assert left(store) == ""


def test_what_is_being_made_stays_and_what_was_abandoned_goes(tmp_path):
    store = Store(tmp_path)
    for name in "ab":
        (tmp_path / "partial" / (name * 64)).mkdir()
        (tmp_path / "partial" / (name * 64) / "half.bin").write_bytes(b"half")
    with store.lock("a" * 64):
        collect(store, 10**9)
    assert [path.name[0] for path in (tmp_path / "partial").iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("text", "size"), [("0", 0), ("20GB", 20 * 10**9), ("1.5 GiB", 3 * 2**29), ("500m", 5 * 10**8), ("12", 12)]
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "ten", "5 apples"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(InputError, match="expected a number and a unit"):
        parse_size(text)


def test_caches_that_a_process_reads_stay_until_it_ends(tmp_path):
    store = Store(tmp_path)
    (store.cache / "files").mkdir(parents=True)
    (store.cache / "files" / "a.png").write_bytes(b"picture")
    reading = (
        "import sys; from pathlib import Path; from edgemm.pipeline.runs import cache_in_use; "
        "cache_in_use(Path(sys.argv[1])); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", reading, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        assert collect(store, 0).in_use == len(b"picture")
        reader.kill()
    assert collect(store, 0).left == 0
    assert not list((tmp_path / "locks").glob("reader-*"))
