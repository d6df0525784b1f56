"""A teacher of one's own code: found by its recipe in run and verbs, never imported because a folder names it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgemm.__main__ import main
from edgemm.models.store import load_model
from edgemm.runtime import Bundle
from tests.pipeline.shapes_recipe import write_recipe

pytestmark = pytest.mark.slow

MODULE = """
from dataclasses import replace
from pathlib import Path

from edgemm.models.builders import build_model
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
TOWERS = """
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from edgemm.models.builders import build_model
from edgemm.models.model import Model
from edgemm.recipe import load_recipe


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(3, 16)

    def forward(self, pixels):
        return nn.functional.normalize(self.out(pixels.mean((2, 3))), dim=-1)


class Words(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.table = nn.Embedding(words, 16)

    def forward(self, input_ids, attention_mask):
        kept = self.table(input_ids) * attention_mask[:, :, None]
        return nn.functional.normalize(kept.sum(1), dim=-1)


def make():
    recipe = load_recipe(Path(__file__).parent / "recipe.toml")
    model = build_model(recipe.teacher, family=recipe.family, seed=0)
    torch.manual_seed(5)
    own = {"image": Colours(), "text": Words(32)}
    parts = [
        replace(part, kind="mine", config={}, module=own[part.name]) if part.name in own else part
        for part in model.chain
    ]
    made = Model(model.family, parts, inputs=model.inputs, outputs=model.outputs)
    made.tokenizer_json = model.tokenizer_json
    return made
"""
SENSORS = """
import torch
from torch import nn

from edgemm.runtime.signature import DimRange, Signature, TensorSpec

class Mixed(nn.Module):
    signature = Signature(
        (
            TensorSpec("words", "int64", ("batch", 5)), TensorSpec("place", "int32", ("batch", 6)),
            TensorSpec("shade", "uint8", ("batch", 4)), TensorSpec("valid", "bool", ("batch", 3)),
            TensorSpec("reading", "float32", ("batch", 3)),
        ),
        (TensorSpec("state", "float32", ("batch", 4)),),
        {"batch": DimRange(1, 1, 8)},
    )

    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(20, 32), nn.Embedding(3, 32)
        self.shades, self.readings = nn.Linear(4, 32), nn.Linear(3, 32)
        self.hidden, self.head = nn.Linear(32, 64), nn.Linear(64, 4)

    def forward(self, words, place, shade, valid, reading):
        x = self.words(words).mean(1) + self.places(place).mean(1) + self.shades(shade.float() / 255)
        x = x + self.readings(torch.where(valid, reading, torch.zeros_like(reading)))
        return self.head(torch.relu(self.hidden(torch.relu(x))))

def make():
    torch.manual_seed(3)
    return Mixed()
"""
FACTORY = "teacher_of_my_own:make"
NAMED = ("--set", f"teacher.source=python:{FACTORY}")
SHORT = ("--set", "teach.epochs=0", "--set", "distill.epochs=1", "--set", "prune.epochs=1")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("factory")
    write_recipe(folder, each=1)
    (folder / "teacher_of_my_own.py").write_text(MODULE)
    (folder / "towers_of_my_own.py").write_text(TOWERS)
    (folder / "sensors_of_my_own.py").write_text(SENSORS)
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
    for name in ("teacher_of_my_own", "towers_of_my_own", "sensors_of_my_own"):
        sys.modules.pop(name, None)
    Path("imported").unlink(missing_ok=True)


def edgemm(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    return int(left.value.code or 0)


def test_a_run_takes_its_recipes_factory_through_the_store(place):
    assert edgemm("run", "recipe.toml", *NAMED, *SHORT, "--until", "capture", "--store", "store", "--out", "out") == 0
    made = {path.name for path in (place / "store" / "artifacts").glob("*/content/*")}
    assert {"model.json", "manifest.json"} <= made


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


SINGLE_TOWERS = """
import torch
from torch import nn

from edgemm.models.builders import build_model
from edgemm.models.model import Model
from edgemm.recipe import load_recipe
from edgemm.runtime.outputs import Values
from pathlib import Path


class Encoder(nn.Module):
    \"\"\"As another library would have it: any module that makes (batch, width) of pixels.\"\"\"

    def __init__(self, width):
        super().__init__()
        self.stem, self.last = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(8, width)

    def forward(self, pixels):
        return self.last(torch.relu(self.stem(pixels)).mean((2, 3)))


def teachers():
    torch.manual_seed(0)
    return Encoder(24)


def students():
    torch.manual_seed(1)
    return Encoder(12)


def words():
    recipe = load_recipe(Path(__file__).parent / "recipe.toml")
    text = recipe.teacher.text.model_copy(update={"max_tokens": 8})
    teacher = recipe.teacher.model_copy(update={"projection": "part", "text": text})
    whole = build_model(teacher, family=recipe.family, seed=0)
    inputs = {"text": whole.inputs["text"]}
    model = Model("text-encoder", [whole.part("text")], inputs=inputs, outputs={"text_features": Values()})
    model.tokenizer_json = whole.tokenizer_json
    return model
"""

OF_CODE = (
    ("teacher.projection", "part"),
    ("teacher.image.weights", "python:one_tower_of_my_own:teachers"),
    ("teacher.text.weights", "python:one_tower_of_my_own:words"),
    ("student.projection", "part"),
    ("student.image.weights", "python:one_tower_of_my_own:students"),
    ("prune.ratios", "{ text = 0.25 }"),
)


@pytest.fixture
def towers(ground, tmp_path, monkeypatch) -> Path:
    """A folder with the data and towers of one's own code, which is where Python looks."""
    for name in ("data", "text"):
        shutil.copytree(ground / name, tmp_path / name)
    sizes = r"(?m)^(stem|blocks|channels|features|layers|width|heads|ffn|max_tokens) = .*\n"  # code brings its own
    (tmp_path / "recipe.toml").write_text(re.sub(sizes, "", (ground / "recipe.toml").read_text()))
    (tmp_path / "one_tower_of_my_own.py").write_text(SINGLE_TOWERS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("one_tower_of_my_own", None)
    return tmp_path


def given(settings: tuple[tuple[str, str], ...]) -> list[str]:
    return [word for key, value in settings for word in ("--set", f"{key}={value}")]


def test_towers_of_ones_own_code_go_all_the_way(towers, capfd):
    run = ("run", "recipe.toml", *given(OF_CODE), *SHORT, "--store", "store", "--out", "out")
    assert edgemm(*run) == 0
    parts = {role: model_of(towers, role) for role in ("teach", "distill", "prune")}
    assert {role: parts[role]["image"]["config"] for role in parts} == {
        "teach": {"factory": "one_tower_of_my_own:teachers"},
        "distill": {"factory": "one_tower_of_my_own:students"},
        "prune": {"factory": "one_tower_of_my_own:students"},
    }
    assert parts["teach"]["text"]["kind"] == "text-transformer"
    capfd.readouterr()
    query = ("infer", "out/bundle", "--image", "data/red-circle-0.png")
    assert edgemm(*query) == 0
    assert "a red" in capfd.readouterr().out

    source = towers / "one_tower_of_my_own.py"
    source.write_text(source.read_text() + "\n# another line\n")
    assert edgemm("plan", *run[1:-2], "--no-dry-run") == 0
    assert re.search(r"^teach +to do ", capfd.readouterr().out, re.MULTILINE)


def model_of(folder: Path, stage: str) -> dict[str, dict]:
    """Parts of the model that a stage left in the store, by name."""
    for manifest in folder.glob("store/artifacts/*/artifact.json"):
        if json.loads(manifest.read_text())["stage"] == stage:
            model = json.loads((manifest.parent / "content" / "model.json").read_text())
            return {part["name"]: part for part in model["parts"]}
    raise AssertionError(stage)


@pytest.mark.parametrize(
    ("key", "weights", "told"),
    [
        ("teacher.image.weights", "python:one_tower_of_my_own", "expected python:module:factory"),
        ("teacher.image.weights", "python:one_tower_of_my_own:nothing", "has no 'nothing'"),
        ("teacher.text.weights", "python:one_tower_of_my_own:teachers", "which has no tokenizer"),
        ("teacher.image.weights", "python:one_tower_of_my_own:words", "returned a Model of text with parts tower that"),
    ],
)
def test_a_tower_that_does_not_serve_is_one_line(towers, capfd, key, weights, told):
    named = given((("teacher.projection", "part"), (key, weights)))
    assert edgemm("run", "recipe.toml", *named, *SHORT, "--until", "teach", "--store", "store", "--out", "out") == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("edgemm")]
    assert len(lines) == 1
    assert told in lines[0]
    assert key in lines[0] or key.partition(".")[2] in lines[0]


def test_two_towers_of_ones_own_are_taught_and_teach_a_student_that_is_pruned(place):
    name = "towers_of_my_own:make"
    named = ("--set", f"teacher.source=python:{name}", *SHORT, "--set", "teach.epochs=2")
    assert edgemm("run", "recipe.toml", *named, "--until", "prune", "--store", "store2", "--out", "out2") == 0
    by_kind = {}
    for path in sorted((place / "store2").rglob("model.json"), key=lambda path: path.stat().st_mtime_ns):
        kinds = {part["name"]: part["kind"] for part in json.loads(path.read_text())["parts"]}
        role = "pruned" if "student" in by_kind else "student"  # made in this order
        by_kind["teacher" if kinds["image"] == kinds["text"] == "python" else role] = path.parent
    assert set(by_kind) == {"teacher", "student", "pruned"}
    teacher = load_model(by_kind["teacher"], factories=[name])
    untaught = sys.modules["towers_of_my_own"].make()
    for part in ("image", "text"):
        ours, first = (next(model.part(part).module.parameters()) for model in (teacher, untaught))
        assert not torch.equal(ours, first)
    student, pruned = load_model(by_kind["student"]), load_model(by_kind["pruned"])  # no code of one's own in them
    before, after = (sum(p.numel() for p in model.part("image").module.parameters()) for model in (student, pruned))
    assert after < before


def test_inputs_of_every_kind_of_number_are_captured_quantized_and_predicted_from(place, capfd):
    assert edgemm("capture", "python:sensors_of_my_own:make", "-o", "mixed") == 0
    rng = np.random.default_rng(0)
    samples = {
        "words": rng.integers(0, 20, (64, 5)),
        "place": rng.integers(0, 3, (64, 6)).astype(np.int32),
        "shade": rng.integers(0, 256, (64, 4), dtype=np.uint8),
        "valid": rng.integers(0, 2, (64, 3)).astype(bool),
        "reading": rng.standard_normal((64, 3)).astype(np.float32),
    }
    np.savez(place / "mixed.npz", **samples)
    assert edgemm("quantize", "mixed", "--calibration", "mixed.npz", "-o", "mixed-int8") == 0
    whole, small = Bundle.open("mixed"), Bundle.open("mixed-int8")
    part = small.manifest.parts[0]
    assert [spec.dtype for spec in part.signature.inputs] == ["int64", "int32", "uint8", "bool", "float32"]
    graph = onnx.load(place / "mixed-int8" / small.manifest.targets[0].files["model"]).graph
    assert "QuantizeLinear" in {node.op_type for node in graph.node}
    with torch.no_grad():
        expected = sys.modules["sensors_of_my_own"].make()(*map(torch.from_numpy, samples.values())).numpy()
    got = whole.predict(**samples).outputs["state"]
    np.testing.assert_allclose(got, expected, atol=1e-5)
    near = small.predict(**samples).outputs["state"]
    assert (near * expected).sum() / np.linalg.norm(near) / np.linalg.norm(expected) > 0.99
    one = {name: value[:1] for name, value in samples.items()}
    np.testing.assert_allclose(whole.predict(**one).outputs["state"], expected[:1], atol=1e-5)
    capfd.readouterr()
    tensors: list[str] = []
    for name, value in samples.items():
        np.save(place / f"{name}.npy", value[0])
        tensors += ["--tensor", f"{name}={name}.npy"]
    assert edgemm("infer", "mixed-int8", *tensors, "--json") == 0
    np.testing.assert_allclose(json.loads(capfd.readouterr().out)["outputs"]["state"], near[0], atol=1e-5)
