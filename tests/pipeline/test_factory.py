"""A teacher of one's own code: found by its recipe in run and verbs, never imported because a folder names it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgemm.__main__ import main
from tests.pipeline.small import write_recipe

MODULE = """
from dataclasses import replace
from pathlib import Path

from edgemm.models.families import build_model
from edgemm.models.model import Model
from edgemm.recipe import load_recipe

HERE = Path(__file__).parent
(HERE / "imported").touch()


def make():
    recipe = load_recipe(HERE / "recipe.toml")
    model = build_model(recipe.teacher, family=recipe.family, seed=0)
    parts = [replace(part, kind="mine") if part.name == "image" else part for part in model.chain]
    made = Model(model.family, parts, inputs=model.inputs, outputs=model.outputs)
    made.tokenizer_json = model.tokenizer_json
    return made
"""
FACTORY = "teacher_of_my_own:make"
NAMED = ("--set", f"teacher.source=python:{FACTORY}")
SHORT = ("--set", "teach.epochs=0", "--set", "distill.epochs=1", "--set", "prune.epochs=1")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("factory")
    write_recipe(folder, each=1)
    (folder / "teacher_of_my_own.py").write_text(MODULE)
    return folder


@pytest.fixture
def place(ground, monkeypatch) -> Path:
    """The working folder, where nothing is imported yet."""
    monkeypatch.chdir(ground)
    monkeypatch.syspath_prepend(str(ground))
    forget()
    return ground


@pytest.fixture(scope="module")
def taught(ground) -> Path:
    """The teacher's folder, which names the factory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ground)
        patch.syspath_prepend(str(ground))
        assert edgemm("teach", "recipe.toml", *NAMED, *SHORT, "-o", "teacher") == 0
    forget()
    return ground / "teacher"


def forget() -> None:
    sys.modules.pop("teacher_of_my_own", None)
    Path("imported").unlink(missing_ok=True)


def edgemm(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_a_run_takes_its_recipes_factory_through_the_store(place):
    assert edgemm("run", "recipe.toml", *NAMED, *SHORT, "--until", "capture", "--store", "store", "--out", "out") == 0
    made = {path.name for path in (place / "store" / "artifacts").glob("*/content/*")}
    assert {"model.json", "pruning.json", "manifest.json"} <= made


def test_a_verb_takes_the_factory_that_its_recipe_names(place, taught):
    assert edgemm("distill", "recipe.toml", *NAMED, *SHORT, "--teacher", "teacher", "-o", "student") == 0
    models = ("--teacher", "teacher", "--student", "student")
    assert edgemm("prune", "recipe.toml", *NAMED, *SHORT, *models, "-o", "pruned") == 0


def test_a_verb_imports_no_factory_that_only_the_folder_names(place, taught, capfd):
    shutil.copytree(taught, place / "given")
    capfd.readouterr()
    for arguments in (
        ("distill", "recipe.toml", "--teacher", "given", "-o", "new"),
        ("prune", "recipe.toml", "--student", "given", "--teacher", "given", "-o", "new"),
        ("capture", "given", "-o", "new"),
        ("capture", "given", "--factory", "another:make", "-o", "new"),
        ("teach", "recipe.toml", "--set", "teacher.source=folder:given", "-o", "new"),
    ):
        assert edgemm(*arguments) == 2
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1
        assert f"given: part 'image' names Python code, '{FACTORY}', which is run only where you name it" in lines[0]
    assert not (place / "imported").exists()
    assert not (place / "new").exists()


def test_capture_takes_the_factory_that_is_named_to_it(place, taught):
    assert edgemm("capture", "teacher", "--factory", FACTORY, "-o", "captured") == 0
    assert (place / "captured" / "manifest.json").is_file()


def in_a_script(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run edgemm as an installed script does: its own folder is on the path, and the working one isn't."""
    script = folder / "bin" / "edgemm"
    script.parent.mkdir(exist_ok=True)
    script.write_text("from edgemm.__main__ import main\nmain()\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(script), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_script_finds_a_factory_in_the_working_folder(ground, tmp_path):
    shutil.copytree(ground / "data", tmp_path / "data")
    shutil.copytree(ground / "text", tmp_path / "text")
    for name in ("recipe.toml", "teacher_of_my_own.py"):
        shutil.copy(ground / name, tmp_path / name)
    shown = in_a_script(tmp_path, "capture", f"python:{FACTORY}", "-o", "captured")
    assert shown.returncode == 0, shown.stderr


def test_the_script_finds_a_factory_beside_the_recipe_and_names_its_bytes_in_the_key(ground, tmp_path):
    recipe = str(ground / "recipe.toml")
    for verb in (("run", recipe, *NAMED, *SHORT, "--until", "teach"), ("plan", recipe, *NAMED, *SHORT, "--no-dry-run")):
        shown = in_a_script(tmp_path, *verb, "--store", "store")
        assert shown.returncode == 0, shown.stderr
    assert re.search(r"^teach +cached ", shown.stdout, re.MULTILINE)
    assert any("teacher_of_my_own:make " in path.read_text() for path in (tmp_path / "store").rglob("*.json"))


def test_a_package_that_is_not_there_is_one_line(place, capfd):
    named = ("--set", "teacher.source=python:no_package.teacher:make")
    assert edgemm("run", "recipe.toml", *named, *SHORT, "--until", "teach", "--store", "s", "--out", "o") == 2
    assert "can't import 'no_package.teacher'" in capfd.readouterr().err
