"""``edgemm measure A B``: bundles side by side, all with the same number of threads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from edgemm.measure import table
from edgemm.measure.measurement import read_measurements
from edgemm.pipeline.verbs import measure
from edgemm.runtime import open_archive, seal
from tests.pipeline.shapes_recipe import RECIPE, write_data

V1 = Path(__file__).parents[1] / "formats" / "v1" / "bundle"
FAST = ["measure.seconds=0.05", "measure.runs=10", "measure.cold_starts=1", "measure.examples=0"]


def bundle(folder: Path, engine: str, threads: int) -> Path:
    """The released bundle with one target; the engine is part of a target's digest, so each is measured."""
    shutil.copytree(V1, folder)
    manifest = open_archive(folder).manifest
    target = replace(manifest.targets[0], name=f"cpu-{engine}", engine=engine, threads=threads)
    seal(folder, replace(manifest, targets=(target,), golden=(), golden_outputs={}))
    return folder


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A bundle that leaves the threads to its engine, as a captured one does, and one that names its threads."""
    write_data(tmp_path / "data", each=1)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return bundle(tmp_path / "a", "onnxruntime", 0), bundle(tmp_path / "b", "openvino", 1)


@pytest.mark.parametrize(("asked", "threads"), [(None, 1), (2, 2)])
def test_all_bundles_are_measured_with_the_same_threads(
    two: tuple[Path, Path], asked: int | None, threads: int, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(two, Path("out"), Path("recipe.toml"), FAST, threads=asked)
    found = table.rows(read_measurements(Path("out/measurements.jsonl")))
    assert [(row.variant, row.threads) for row in found] == [("a", threads), ("b", threads)]
    assert "thread" not in capsys.readouterr().out
    _, body = table.cells([replace(found[0], threads=0), found[1]])
    assert [line[0].small for line in body] == [
        "cpu-onnxruntime, all threads",
        "cpu-openvino, 1 thread" if threads == 1 else "cpu-openvino, 2 threads",
    ]
