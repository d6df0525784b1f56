"""Two real processes of one launch: they share the training, the first alone publishes, and no kill or flag hangs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgemm.pipeline.gc import collect
from edgemm.pipeline.launch import FOLLOWER, follow
from edgemm.pipeline.runs import list_runs, running
from edgemm.pipeline.store import Store
from edgemm.runtime.errors import StoreError
from tests.pipeline.shapes_recipe import write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
ONE = [sys.executable, "-m", "edgemm", "run"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "edgemm", "run"]
LIMIT_S = 180  # a launch that hangs fails


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("launch"))


def arguments(recipe: Path, store: Path) -> list[str]:
    sets = ["--set", "threads=2", "--set", "teach.epochs=200", "--set", "distill.epochs=2", "--until", "distill"]
    return [str(recipe), *sets, "--store", str(store), "--out", str(store.with_name("out"))]


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> tuple[Store, str]:
    """The store after two processes have run, and what they printed."""
    store = tmp_path_factory.mktemp("two") / "store"
    shown = subprocess.run(
        [*TWO, *arguments(recipe, store)], env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S
    )
    assert shown.returncode == 0, shown.stderr
    return Store(store), shown.stdout


def records(store: Store) -> dict[str, dict]:
    """The record of each node of the latest run."""
    return {
        stage["node"]: json.loads((store.root / "artifacts" / stage["key"] / "artifact.json").read_bytes())
        for stage in list_runs(store)[0]["stages"]
    }


def test_two_processes_share_the_training_and_only_the_first_publishes(undisturbed):
    store, printed = undisturbed
    made = records(store)
    assert {node: record["facts"]["processes"] for node, record in made.items()} == {"teach": 2, "distill": 2}
    assert {record["facts"]["config"]["threads"] for record in made.values()} == {1}  # they share the recipe's two
    assert len(re.findall(r"^teach ", printed, re.MULTILINE)) == 1
    assert [run["status"] for run in list_runs(store)] == ["done"]
    assert len(list((store.root / "artifacts").iterdir())) == 2
    assert not list((store.root / "partial").iterdir())


def test_two_processes_leave_the_files_that_one_does(undisturbed, recipe, tmp_path):
    quick = ["--set", "teach.epochs=1"]
    shown = subprocess.run([*ONE, *arguments(recipe, tmp_path / "store"), *quick], env=ENVIRONMENT, timeout=LIMIT_S)
    assert shown.returncode == 0
    alone = records(Store(tmp_path / "store"))
    assert {node: sorted(record["files"]) for node, record in alone.items()} == {
        node: sorted(record["files"]) for node, record in records(undisturbed[0]).items()
    }
    assert {record["facts"]["processes"] for record in alone.values()} == {1}
    assert {record["facts"]["config"]["threads"] for record in alone.values()} == {2}


def test_a_launch_killed_in_training_and_started_again_ends_in_the_undisturbed_bits(undisturbed, recipe, tmp_path):
    command = [*TWO, *arguments(recipe, tmp_path / "store")]
    launch = subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LIMIT_S
    while not list((tmp_path / "store").glob("scratch/*/*.safetensors")):
        assert launch.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(list_runs(Store(tmp_path / "store"))[0]["pid"], signal.SIGKILL)
    assert launch.wait() != 0
    (killed,) = list_runs(Store(tmp_path / "store"))
    assert (killed["status"], killed["stages"]) == ("killed", [])
    shown = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S)
    assert shown.returncode == 0, shown.stderr
    store = Store(tmp_path / "store")
    assert {n: r["digest"] for n, r in records(store).items()} == {
        n: r["digest"] for n, r in records(undisturbed[0]).items()
    }


def test_a_launch_makes_a_stage_again_where_it_is_told_to(undisturbed, recipe, tmp_path):
    shutil.copytree(undisturbed[0].root, tmp_path / "store")
    command = [*TWO, *arguments(recipe, tmp_path / "store"), "--from", "distill"]
    shown = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=LIMIT_S)
    assert shown.returncode == 0, shown.stderr
    store = Store(tmp_path / "store")
    assert [stage["cached"] for stage in list_runs(store)[0]["stages"]] == [True, False]
    assert records(store)["distill"]["digest"] == records(undisturbed[0])["distill"]["digest"]


def test_a_process_of_a_launch_ends_when_the_first_has_ended(tmp_path):
    store = Store(tmp_path)
    with running(store, "toy", recipe="toy", overrides=()) as run:
        pass
    with pytest.raises(StoreError, match="toy: the first process of this launch has ended, its run is 'done'"):
        follow(store, run.id, "a" * 64, node="toy", work=lambda out, scratch: None)


def test_collecting_leaves_alone_what_a_process_of_a_launch_writes(tmp_path):
    store, key = Store(tmp_path), "a" * 64

    def publish(out: Path, scratch: Path) -> None:
        (out / "whole.bin").write_bytes(b"whole")

    with running(store, "toy", recipe="toy", overrides=()) as run:
        run.pin(key)
        run.write(making=key)

        def work(out: Path, scratch: Path) -> None:
            (out / "half.bin").write_bytes(b"half")
            collect(store, 0)
            assert (out / "half.bin").exists()
            run.finished("toy", store.make(key, "toy", publish, facts={}, say=print))

        assert follow(store, run.id, key, node="toy", work=work).artifact.key == key
    (tmp_path / "partial" / f"{key}{FOLLOWER}killed").mkdir()
    collect(store, 10**9)
    assert not list((tmp_path / "partial").iterdir())
