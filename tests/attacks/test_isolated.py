"""``verify --isolated``: a graph that kills, hangs or floods its process is one line of the one that asked."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
from onnx import helper
from sealing import reseal, text_graph, with_graph

from edgemm.runtime import Bundle
from edgemm.runtime.__main__ import main
from edgemm.runtime.isolated import compare_isolated

N = helper.make_node
pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no limits of memory and CPU time")


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("i") / "bundle"
    bundles.dual_encoder(folder, targets=("cpu",))
    return folder


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


def allowing(*operators: str) -> Any:
    return lambda m: m["targets"][0].update(operators=list(operators))


def counted(turns: int) -> bytes:
    """The number of the ids, a Loop of so many turns for each: computed, so that nothing sees it in the file."""
    vi = helper.make_tensor_value_info
    body = helper.make_graph(
        [N("Identity", ["c"], ["c2"]), N("Sin", ["v"], ["v2"])],
        "body",
        [vi("i", 7, []), vi("c", 9, []), vi("v", 1, None)],
        [vi("c2", 9, []), vi("v2", 1, None)],
    )
    nodes = [
        N("Cast", ["input_ids"], ["x"], to=1),
        N("Size", ["input_ids"], ["n"]),
        N("Mul", ["n", "turns"], ["m"]),
        N("Loop", ["m", "t", "x"], ["text_embedding"], body=body),
    ]
    return text_graph(nodes, weights={"turns": np.array(turns), "t": np.array(True)})


def test_a_whole_bundle_is_whole_in_a_process_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder), "--isolated"]) == 0
    assert "3 golden samples agree (image_embedding off by 0, text_embedding off by 0)" in capsys.readouterr().out
    np.savez(folder / "golden/outputs.npz", image_embedding=np.zeros((3, 16), np.float32))
    assert main(["verify", str(reseal(folder)), "--isolated"]) == 2
    assert "output 'text_embedding' is off by inf" in capsys.readouterr().err


def test_a_graph_that_ends_its_process_is_a_problem_of_the_bundle(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smallest int64 by -1, both computed."""
    nodes = [
        N("Size", ["input_ids"], ["n"]),
        N("Min", ["n", "minus"], ["m"]),
        N("Mul", ["input_ids", "zero"], ["z"]),
        N("Add", ["z", "least"], ["l"]),
        N("Div", ["l", "m"], ["q"]),
        N("Cast", ["q"], ["text_embedding"], to=1),
    ]
    weights = {"minus": np.array(-1), "zero": np.array(0), "least": np.array(np.iinfo(np.int64).min)}
    with_graph(folder, "text", text_graph(nodes, weights=weights), allowing("Div"))
    assert main(["verify", str(folder), "--isolated"]) == 2
    line = capsys.readouterr().err
    assert "in a process of their own, ended it by SIGFPE" in line or "off by inf" in line  # ARM divides without a trap
    assert line.count("\n") <= 2


def test_a_graph_that_takes_all_the_time_is_stopped(folder: Path) -> None:
    with_graph(folder, "text", counted(2**50), allowing("Loop"))
    asked = {"target": Bundle.open(folder).target.name, "threads": 1, "files_bytes": 0}
    _, _, problems = compare_isolated(folder, **asked, cpu_seconds=1, wall_seconds=60)
    assert "took more than 1 s of CPU time" in problems[0]
    _, _, problems = compare_isolated(folder, **asked, wall_seconds=0.5)
    assert problems[0].endswith("took more than 0.5 s")


def test_a_graph_that_takes_all_the_memory_is_stopped(folder: Path) -> None:
    nodes = [
        N("Size", ["input_ids"], ["n"]),
        N("Mul", ["n", "many"], ["m"]),
        N("Reshape", ["m", "one"], ["s"]),
        N("ConstantOfShape", ["s"], ["c"]),
        N("ReduceSum", ["c"], ["r"], keepdims=0),
        N("Cast", ["input_ids"], ["x"], to=1),
        N("Add", ["x", "r"], ["text_embedding"]),
    ]
    weights = {"many": np.array(2**33), "one": np.array([1])}
    with_graph(folder, "text", text_graph(nodes, weights=weights))
    report = Bundle.open(folder).verify(isolated=True)
    assert not report.ok
    assert "cannot be run" in report.problems[0] or "MiB of memory" in report.problems[0]


def test_a_bundle_that_lists_python_files_runs_none_where_it_is_the_working_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json.py", "numpy.py"):
        (folder / name).write_text(f"open('{folder}/ran', 'w').close()")
    reseal(folder)
    monkeypatch.chdir(folder)
    assert main(["verify", ".", "--isolated"]) == 0
    assert not (folder / "ran").exists()
