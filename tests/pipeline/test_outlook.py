"""A verb says at once what it is about to do, and how long that took before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgemm.pipeline.announce import announce_recipe, last_run
from edgemm.pipeline.outlook import outlook
from edgemm.pipeline.planned_stage import PlannedStage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "r.toml"
    path.write_text('name = "toy"\n')
    return path


def write_run(store: Path, moment: str, *, status: str = "done", name: str = "toy", seconds: float = 30.0) -> None:
    stages = [
        {"node": "teach", "key": "a", "seconds": seconds, "cached": False},
        {"node": "quantize", "key": "b", "seconds": 2 * seconds, "cached": True},
        {"node": "quantize:teacher", "key": "c", "seconds": 1.0, "cached": True},
    ]
    (store / "runs").mkdir(parents=True, exist_ok=True)
    run = {"id": f"{moment}-{name}-ab12", "name": name, "status": status, "stages": stages}
    (store / "runs" / f"{run['id']}.json").write_text(json.dumps(run))


def said(recipe: Path, store: Path, capsys: pytest.CaptureFixture[str], **given: str) -> str:
    announce_recipe("run", recipe, store=store, **given)
    return capsys.readouterr().out.removeprefix(f"run: toy, {recipe}; ").rstrip()


def test_a_first_run_has_no_estimate(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(recipe, tmp_path / "store", capsys) == "first run here: no estimate"


@pytest.mark.parametrize("takes", ["no dry run: seconds", "a dry run takes a minute or so"])
def test_a_verb_that_knows_how_long_it_takes_says_that_alone(
    takes: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "store", "20260101-000000")
    assert said(recipe, tmp_path / "store", capsys, takes=takes) == takes


def test_that_there_is_no_earlier_run_is_said_once(tmp_path: Path) -> None:
    nodes = [PlannedStage("teach", "teach", {}, {}, lambda *_: None)]
    assert outlook(nodes, {}, tmp_path, name="toy", announced=True) == "1 stage: 0 cached, 1 to do"
    assert outlook(nodes, {}, tmp_path, name="toy").endswith("; no earlier run to estimate from")
    write_run(tmp_path, "20260101-000000")
    assert outlook(nodes, {}, tmp_path, name="toy", announced=True).endswith(", about 30 s by the last run")


def test_the_last_run_that_went_through_is_the_estimate(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    write_run(store, "20260101-000000", seconds=99)
    write_run(store, "20260102-000000", seconds=30)
    write_run(store, "20260103-000000", status="failed", seconds=1)
    write_run(store, "20260104-000000", name="toy-other", seconds=1)
    assert said(recipe, store, capsys) == "its last run took 1 min 31 s"
    assert said(recipe, store, capsys, stage="quantize") == "stage quantize of its last run took 1 min 01 s"
    (store / "artifacts" / "a").mkdir(parents=True)
    assert "of which 1 of 3 stages are kept" in said(recipe, store, capsys)


def test_a_file_among_the_runs_that_is_none_is_passed_over(recipe: Path, tmp_path: Path) -> None:
    write_run(tmp_path, "20260101-000000")
    for number, text in enumerate(["", "[]", '{"name": "toy", "status": "done", "stages": 3}', "\x00"]):
        (tmp_path / "runs" / f"2027010{number}-000000-toy-ab12.json").write_text(text)
    run = last_run(tmp_path, "toy")
    assert run is not None
    assert str(run["id"]).startswith("20260101")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "r.toml"),
        ("plan", "r.toml"),
        ("measure", "b", "--recipe", "r.toml", "-o", "o"),
        ("quantize", "m.onnx", "--calibration", "c.npz", "-o", "o"),
        ("explain", "b", "--data", "r.toml", "-o", "o"),
    ],
)
def test_the_first_line_comes_before_anything_heavy_is_imported(recipe: Path, arguments: tuple[str, ...]) -> None:
    code = (
        "import sys\n"
        "class Stop:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'torch', 'numpy', 'onnx', 'onnxruntime', 'transformers', 'rich'}:\n"
        "            print('heavy', flush=True); import os; os._exit(0)\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from edgemm.__main__ import main; main(sys.argv[1:])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=recipe.parent, capture_output=True, text=True, env=environment
    )
    first, *others = shown.stdout.splitlines()
    assert first.startswith(f"{arguments[0]}: "), shown
    assert others == ["heavy"]
