"""The store: whole or not at all, among processes, after kills, on full and read-only disks."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgemm.pipeline.gc import collect
from edgemm.pipeline.listing import print_runs
from edgemm.pipeline.planned_stage import run_stages
from edgemm.pipeline.runs import list_runs, running
from edgemm.pipeline.store import Store
from edgemm.runtime.errors import StoreError
from edgemm.stage import Silent
from tests.pipeline.small_disks import mounted, mounted_read_only, needs_mount
from tests.pipeline.three_toy_stages import EPOCHS, toy_nodes

TOY = [sys.executable, "-m", "tests.pipeline.three_toy_stages"]
ROOT = Path(__file__).parents[2]


def write(text: str):
    def work(out: Path, scratch: Path) -> None:
        (out / "file.txt").write_text(text)

    return work


def start(store: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*TOY, str(store), *more], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[dict[str, str], str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out), err


def silent(line: str) -> None:
    pass


def test_an_artifact_is_found_again_with_the_same_digest(tmp_path):
    store = Store(tmp_path / "store")
    made = store.make("k" * 64, "toy", write("a"), facts={}, say=silent)
    found = Store(tmp_path / "store").find("k" * 64)
    assert not made.cached
    assert found is not None
    assert found.cached
    assert found.artifact == made.artifact


def test_the_digest_depends_on_bytes_and_names_only(tmp_path):
    one = Store(tmp_path / "1").make("a" * 64, "toy", write("x"), facts={"n": 1}, say=silent)
    two = Store(tmp_path / "2").make("b" * 64, "toy", write("x"), facts={"n": 2}, say=silent)
    other = Store(tmp_path / "2").make("c" * 64, "toy", write("y"), facts={}, say=silent)
    assert one.artifact.digest == two.artifact.digest != other.artifact.digest


def test_a_failing_stage_leaves_nothing_but_its_scratch(tmp_path):
    store = Store(tmp_path)

    def fails(out: Path, scratch: Path) -> None:
        (out / "half.txt").write_text("half")
        (scratch / "epoch.txt").write_text("3")
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        store.make("k" * 64, "toy", fails, facts={}, say=silent)
    assert store.find("k" * 64) is None
    assert not list((tmp_path / "partial").iterdir())
    assert (tmp_path / "scratch" / ("k" * 64) / "epoch.txt").read_text() == "3"


@pytest.mark.parametrize("how", ["change", "remove", "add"])
def test_a_tampered_artifact_is_detected(tmp_path, how):
    record = Store(tmp_path).make("k" * 64, "toy", write("abc"), facts={}, say=silent)
    path = record.artifact.path / "file.txt"
    if how == "change":
        path.chmod(0o644)
        path.write_text("abd")  # as long as before: only the hash tells
    elif how == "remove":
        path.unlink()
    else:
        (record.artifact.path / "more.txt").write_text("more")
    with pytest.raises(StoreError, match=r"since stage 'toy' made it; remove .* and run again"):
        Store(tmp_path).find("k" * 64)


def spoil(record: dict, key: str, value: object) -> str:
    return json.dumps({**record, key: value})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda record: "{}", "'stage' is missing or of another type"),
        (lambda record: "", "Expecting value"),
        (lambda record: "[]", "a list, expected an object"),
        (lambda record: "[" * 100_000, "nested deeper than"),
        (lambda record: json.dumps(record)[:-20], "line "),
        (lambda record: spoil(record, "files", {}), "'files' is empty"),
        (lambda record: spoil(record, "files", {"file.txt": 3}), "'files' holds something else"),
        (lambda record: spoil(record, "files", {"file.txt": {"bytes": "3", "sha256": ""}}), "'files' holds"),
        (lambda record: spoil(record, "files", []), "'files' is missing or of another type"),
        (lambda record: spoil(record, "seconds", None), "'seconds' is missing or of another type"),
        (lambda record: spoil(record, "content", "../../other"), "'content' is \"../../other\""),
        (lambda record: spoil(record, "content", ["content"]), "'content' is "),
    ],
)
def test_a_damaged_record_is_one_line_that_says_what_to_do(tmp_path, damage, reason):
    store = Store(tmp_path)
    store.make("k" * 64, "toy", write("abc"), facts={}, say=silent)
    path = tmp_path / "artifacts" / ("k" * 64) / "artifact.json"
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(StoreError, match=r"artifact\.json: unreadable \(.*\); remove .* and run again") as caught:
        Store(tmp_path).find("k" * 64)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert store.superseded("k" * 64) == []


def changed(content: Path, record: Path) -> None:
    (content / "file.txt").chmod(0o644)
    (content / "file.txt").write_text("abd")  # as long as before: only the hash tells


def emptied(content: Path, record: Path) -> None:
    (content / "file.txt").chmod(0o644)
    (content / "file.txt").write_text("")


def removed(content: Path, record: Path) -> None:
    (content / "file.txt").unlink()


def added(content: Path, record: Path) -> None:
    (content / "more.txt").write_text("more")


def forged(content: Path, record: Path) -> None:
    record.write_text(spoil(json.loads(record.read_text()), "digest", "0" * 64))


def swapped(content: Path, record: Path) -> None:
    """The whole artifact of another key in its place."""
    Store(record.parents[2]).make("o" * 64, "other", write("other"), facts={}, say=silent)
    shutil.rmtree(record.parent)
    (record.parents[1] / ("o" * 64)).rename(record.parent)


def cut(content: Path, record: Path) -> None:
    record.write_bytes(record.read_bytes()[:-9])


def replaced_by_a_file(content: Path, record: Path) -> None:
    shutil.rmtree(record.parent)
    record.parent.write_text("a file")


@pytest.mark.parametrize(
    "damage", [changed, emptied, removed, added, forged, swapped, cut, replaced_by_a_file], ids=lambda f: f.__name__
)
def test_what_was_damaged_since_it_was_made_is_made_again_and_said(tmp_path, damage):
    said: list[str] = []
    made = Store(tmp_path).make("k" * 64, "toy", write("abc"), facts={}, say=said.append)
    damage(made.artifact.path, tmp_path / "artifacts" / ("k" * 64) / "artifact.json")
    again = Store(tmp_path).make("k" * 64, "toy", write("abc"), facts={}, say=said.append)
    assert not again.cached
    assert again.artifact.digest == made.artifact.digest
    assert (again.artifact.path / "file.txt").read_text() == "abc"
    (line,) = said
    assert re.fullmatch(r"toy: /\S+: .*; made again", line)
    assert Store(tmp_path).make("k" * 64, "toy", write("abc"), facts={}, say=said.append).cached
    assert len(said) == 1


def test_a_second_run_makes_nothing(tmp_path):
    log = tmp_path / "log"
    first, _ = finish(start(tmp_path / "store", "--log", str(log)))
    again, _ = finish(start(tmp_path / "store", "--log", str(log)))
    assert first == again
    assert log.read_text().splitlines() == ["train from 0", "double", "join"]


def test_two_processes_on_one_store_make_each_artifact_once_and_the_second_says_that_it_waits(tmp_path):
    log, hold = tmp_path / "log", tmp_path / "hold"
    first = start(tmp_path / "store", "--log", str(log), "--hold", str(hold))
    while not log.exists():  # it is in its first stage
        assert first.poll() is None
        time.sleep(0.01)
    second = start(tmp_path / "store", "--log", str(log), "--hold", str(hold))
    assert second.stderr is not None
    waits = "another process is making this; waiting for its result"
    said = next((line for line in second.stderr if waits in line), None)
    hold.touch()
    (one, _), (two, _) = finish(first), finish(second)
    assert said is not None
    assert one == two
    assert sorted(log.read_text().splitlines()) == ["double", "join", "train from 0"]


@pytest.mark.slow
def test_killed_at_any_file_it_touches_a_run_resumes_to_the_same_digests(tmp_path):
    undisturbed, _ = finish(start(tmp_path / "undisturbed"))
    starts: set[int] = set()
    for point in range(3, 400, 11):
        store, log = tmp_path / f"store-{point}", tmp_path / f"log-{point}"
        process = start(store, "--die-at", str(point), "--log", str(log))
        process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        resumed, _ = finish(start(store, "--log", str(log)))
        assert resumed == undisturbed, f"killed before touching file number {point}"
        assert not list((store / "partial").iterdir())
        assert not list((store / "scratch").iterdir())
        starts |= {int(line.split()[-1]) for line in log.read_text().splitlines() if line.startswith("train from")}
        assert {run["status"] for run in list_runs(Store(store))} <= {"killed", "done"}
    assert point > 100, "the run touches fewer files than it has steps"
    assert any(0 < epoch < EPOCHS for epoch in starts), "kills inside the long stage must resume where they were"


def test_made_again_on_purpose_replaces_the_artifact(tmp_path):
    store = Store(tmp_path)
    store.make("k" * 64, "toy", write("old"), facts={}, say=silent)
    store.make("k" * 64, "toy", write("new"), facts={}, say=silent, again=True)
    found = Store(tmp_path).find("k" * 64)
    assert found is not None
    assert (found.artifact.path / "file.txt").read_text() == "new"
    assert not list((tmp_path / "partial").iterdir())


READS = """
import sys
from pathlib import Path
from edgemm.pipeline.runs import running
from edgemm.pipeline.store import Store

store = Store(Path(sys.argv[1]))
with running(store, "reader", recipe="toy", overrides=()) as run:
    run.pin("k" * 64)
    found = store.find("k" * 64)
    print("found", flush=True)
    sys.stdin.readline()
    print((found.artifact.path / "file.txt").read_text(), flush=True)
"""


def make_again(store: Store, text: str) -> None:
    with running(store, "writer", recipe="toy", overrides=()) as run:
        run.pin("k" * 64)
        store.make("k" * 64, "toy", write(text), facts={}, say=silent, again=True)
        run.drop_superseded("k" * 64)


def content(store: Store) -> list[str]:
    return sorted(path.read_text() for path in store.root.glob("artifacts/*/content*/file.txt"))


def test_made_again_what_another_process_reads_stays_until_it_has_ended(tmp_path):
    store = Store(tmp_path / "store")
    store.make("k" * 64, "toy", write("old"), facts={}, say=silent)
    reader = subprocess.Popen(
        [sys.executable, "-c", READS, store.root], cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout is not None
    assert reader.stdout.readline() == "found\n"
    make_again(store, "new")
    found = Store(store.root).find("k" * 64)
    assert found is not None
    assert (found.artifact.path / "file.txt").read_text() == "new"
    collect(store, 10**9)
    assert content(store) == ["new", "old"]
    assert reader.communicate("go on\n", timeout=60)[0] == "old\n"
    assert reader.returncode == 0
    assert [entry.kind for entry in collect(store, 10**9).dropped] == ["superseded"]
    assert content(store) == ["new"]


def test_made_again_what_nobody_reads_goes_at_once(tmp_path):
    store = Store(tmp_path / "store")
    for text in ("one", "two", "three"):
        make_again(store, text)
    assert content(store) == ["three"]


def test_a_run_notes_its_stages_and_how_it_ended(tmp_path):
    store = Store(tmp_path)
    with running(store, "toy", recipe="toy.toml", overrides=["seed=1"]) as run:
        run_stages(toy_nodes(seed=1), store=store, run=run, progress=Silent())
        assert list_runs(store)[0]["status"] == "running"
    with pytest.raises(KeyboardInterrupt), running(store, "toy", recipe="toy.toml", overrides=[]):
        raise KeyboardInterrupt
    done, interrupted = sorted(list_runs(store), key=lambda run: run["status"])
    assert done["status"] == "done"
    assert [stage["node"] for stage in done["stages"]] == ["train", "double", "join"]
    assert interrupted["status"] == "interrupted"


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"id": "another"}'])
def test_a_file_of_somebody_else_among_the_runs_is_passed_over(tmp_path, content):
    store = Store(tmp_path)
    (store.root / "runs" / "notes.json").write_text(content)
    assert list_runs(store) == []


@needs_mount
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    disk = tmp_path / "disk"
    if not mounted(disk, "size=2m"):
        pytest.skip("mounting is not allowed here")
    try:
        store = Store(disk / "store")
        store.make("a" * 64, "small", write("fits"), facts={}, say=silent)

        def large(out: Path, scratch: Path) -> None:
            (out / "large.bin").write_bytes(bytes(4 << 20))

        with pytest.raises(StoreError, match=r"^large: no space left for the store .* finished stages are kept$"):
            store.make("b" * 64, "large", large, facts={}, say=silent)
        assert store.find("b" * 64) is None
        assert not list((disk / "store" / "partial").iterdir())
        assert Store(disk / "store").find("a" * 64) is not None
    finally:
        subprocess.run(["umount", disk], check=True)


@needs_mount
def test_a_read_only_store_is_one_line_for_those_who_write_and_open_to_those_who_read(tmp_path, capsys):
    store, shown = Store(tmp_path / "store"), tmp_path / "shown"
    store.make("a" * 64, "toy", write("a"), facts={}, say=silent)
    with running(store, "earlier", recipe="toy.toml", overrides=()):
        pass
    if not mounted_read_only(store.root, shown):
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StoreError, match=r"read-only file system; the store must be writable") as caught:
            Store(shown)
        assert "\n" not in str(caught.value)
        reading = Store(shown, only_read=True)
        assert reading.find("a" * 64) is not None
        with pytest.raises(StoreError, match="read-only file system"):
            reading.make("b" * 64, "toy", write("b"), facts={}, say=silent)
        with running(store, "toy", recipe="toy.toml", overrides=()):
            assert sorted(run["status"] for run in list_runs(reading)) == ["done", "running"]
        print_runs(shown)
        assert capsys.readouterr().out.count("toy.toml") == 2
    finally:
        subprocess.run(["umount", shown], check=True)


def test_a_store_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="not a folder; choose another with --store"):
        Store(tmp_path / "store")
