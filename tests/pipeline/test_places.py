"""Places: bundles are found and told apart by name, and a run leaves what explain and measure need."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgemm.data import open_dataset
from edgemm.measure.examples import read_examples
from edgemm.measure.measurement import read_measurements
from edgemm.models.checkpoint import read_json
from edgemm.models.sentence import sentence_of
from edgemm.models.store import load_model
from edgemm.pipeline.announce import last_run
from edgemm.pipeline.explain import explain
from edgemm.pipeline.places import RUN, Left, bundles_at, leave_run, recipe_left, run_left_in
from edgemm.pipeline.run import check_out
from edgemm.pipeline.runs import list_runs
from edgemm.pipeline.store import Store
from edgemm.recipe import load_recipe
from edgemm.runtime.errors import EdgemmError, InputError, RecipeError
from edgemm.runtime.fields import json_value
from tests.pipeline.shapes_recipe import RECIPE


def bundle(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The out folder of a run whose recipe has relative paths, its models in a store beside it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.toml").write_text(RECIPE)
    recipe = load_recipe(Path("recipes/recipe.toml"), ["seed=5"])
    bundle(tmp_path / "out" / "shapes" / "bundle")
    names = ("capture:teacher", "quantize:teacher", "capture:student", "quantize", "draft")
    made = {name: bundle(tmp_path / "store" / name.replace(":", "-") / "content") for name in names}
    made["capture:pruned"] = tmp_path / "store" / "nothing"
    leave_run(Path("out/shapes"), recipe, made, file=Path("recipes/recipe.toml"))
    return tmp_path / "out" / "shapes"


def test_a_runs_folder_is_its_teacher_and_its_bundle(run: Path) -> None:
    found = bundles_at([run])
    assert list(found.items()) == [
        ("teacher", run.parents[1] / "store" / "capture-teacher" / "content"), ("shapes", run / "bundle"),
    ]  # fmt: skip
    assert list(bundles_at([run], every=True)) == ["teacher", "teacher, int8 only", "student", "shapes"]


def test_a_model_of_a_run_is_called_by_its_name(run: Path) -> None:
    assert list(bundles_at([run / "student", run])) == ["student", "shapes"]
    assert list(bundles_at([run / "teacher, int8 only"])) == ["teacher, int8 only"]
    with pytest.raises(InputError, match=r"no model 'pruned'; it has teacher, teacher, int8 only, student"):
        bundles_at([run / "pruned"])


def test_a_place_where_nothing_is_is_said(tmp_path: Path) -> None:
    for look in (
        lambda: explain([tmp_path / "out" / "shapes"], None, [], split=None, out=None),
        lambda: recipe_left([tmp_path / "out" / "shapes"], [], option="--recipe"),
    ):
        with pytest.raises(InputError, match=r"out/shapes: no such file or folder; expected a bundle"):
            look()


def test_a_model_that_the_store_dropped_is_said(run: Path) -> None:
    shutil.rmtree(run.parents[1] / "store")
    with pytest.raises(InputError, match=r"its teacher is no longer in the store .*; run the recipe again"):
        bundles_at([run])
    assert list(bundles_at([run / "bundle"])) == ["shapes"]


def test_the_recipe_of_a_run_is_found_from_any_folder_and_file_of_it(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = load_recipe(Path("recipes/recipe.toml"), ["seed=5"])
    (tmp_path / "recipes" / "recipe.toml").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for place in (run, run / "bundle", run / "student"):
        found = recipe_left([place], ["measure.runs=70"], option="--data")
        assert (found.seed, found.measure.runs, found.name) == (5, 70, "shapes")
        assert found.data.root == str(tmp_path / "recipes/data/samples.jsonl")
        assert found.teacher.text is not None
        assert found.teacher.text.weights == f"folder:{tmp_path}/recipes/text"
        assert found.distill == before.distill
    with pytest.raises(InputError, match="no run left its recipe there; name one with --data RECIPE"):
        recipe_left([tmp_path], [], option="--data")


def test_the_reader_of_a_run_is_found_beside_its_recipe(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    code = """
from edgemm.data import Sample, from_splits

def read(config):
    return from_splits({"train": [Sample("a", text="one", label="x")]})
"""
    (tmp_path / "recipes" / "data_of_the_run.py").write_text(code)
    file = Path("recipes/recipe.toml")
    leave_run(run, load_recipe(file, ["data.kind=python:data_of_the_run:read"]), {}, file=file)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = recipe_left([run], [], option="--data")
    assert open_dataset(recipe.data, cache=tmp_path / "cache").labels == ("x",)


def test_bundles_of_one_name_are_told_apart_and_none_is_lost(tmp_path: Path) -> None:
    paths = [bundle(tmp_path / place) for place in ("x/a", "y/a", "x/a 2", "z/c/bundle", "w/c/bundle", "z/d")]
    found = bundles_at([*paths, paths[5], paths[5]])
    assert list(found) == ["x/a", "y/a", "a 2", "z/c", "w/c", "d", "d (2)", "d (3)"]
    assert list(found.values()) == [*paths, paths[5], paths[5]]


def test_an_artifact_of_a_store_is_called_by_its_stage(tmp_path: Path) -> None:
    content = bundle(tmp_path / "0123" / "content")
    (tmp_path / "0123" / "artifact.json").write_text('{"stage": "capture:student"}')
    assert bundles_at([content]) == bundles_at([tmp_path / "0123"]) == {"student": content}


def test_a_file_of_the_users_is_not_taken_for_the_record_of_a_run(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text(json.dumps({"mine": 1}))
    assert run_left_in(tmp_path) is None
    with pytest.raises(InputError, match=r"run.json: not of a former run, and would be replaced"):
        check_out(tmp_path, "shapes")
    (tmp_path / RUN).write_text(json.dumps({"made_by": "edgemm run", "recipe": {}}))
    with pytest.raises(InputError, match=r"run.json: not the record of a run"):
        run_left_in(tmp_path)
    (tmp_path / RUN).write_text(json.dumps({"made_by": "edgemm run", "recipe": {}, "models": {}}))
    assert run_left_in(tmp_path) == Left(tmp_path, {}, {})


DEEP = '{"made_by": "edgemm run", "stage": "x", "id": "r", "models": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("run.json", lambda folder: recipe_left([folder], [], option="--recipe")),
        ("artifact.json", lambda folder: bundles_at([folder])),
        ("model.json", load_model),
        ("modules.json", lambda folder: sentence_of(folder, name="hf:tower")),
        ("config.json", lambda folder: read_json(folder / "config.json")),
        ("examples.json", read_examples),
        ("measurements.jsonl", lambda folder: read_measurements(folder / "measurements.jsonl")),
    ],
)
def test_a_file_that_nests_without_end_is_one_line(tmp_path: Path, name: str, ask: Callable[[Path], object]) -> None:
    (tmp_path / name).write_text(DEEP)
    (tmp_path / "content").mkdir()
    (tmp_path / "content" / "manifest.json").write_text("{}")
    with pytest.raises(EdgemmError) as caught:
        ask(tmp_path)
    assert "\n" not in str(caught.value)


def test_records_of_runs_that_nest_without_end_are_no_runs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (tmp_path / "runs").mkdir(exist_ok=True)
    (tmp_path / "runs" / "r-name-1.json").write_text(DEEP)
    assert list_runs(store) == []
    assert last_run(tmp_path, "name") is None


@pytest.mark.parametrize("key", ["name", "seed"])
def test_a_recipe_that_nests_without_end_is_one_line(tmp_path: Path, key: str) -> None:
    (tmp_path / "recipe.toml").write_text(f"{key} = " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(RecipeError, match="nested deeper than any recipe's") as caught:
        load_recipe(tmp_path / "recipe.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"[" * 300 + b"]" * 300, b"9" * 5000, b"\xff\xff", b"", b"{}x", b'{"a": \x00}']
)
def test_whatever_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  json's own messages
        json_value(data)
