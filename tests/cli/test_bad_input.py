"""Bad input: one clear line on stderr for each problem, exit code 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgemm.__main__ import main
from edgemm.runtime.outputs import Embedding
from tests.bundles import audio_and_sensor
from tests.cli import bad_families
from tests.data.media import png, write
from tests.pipeline.shapes_recipe import RECIPE, write_data, write_text_weights
from tests.pipeline.small_disks import mounted, mounted_read_only


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """Data, text weights, a model, a bundle and an ONNX file to spoil copies of."""
    folder = tmp_path_factory.mktemp("ground")
    write_data(folder / "data", each=1)
    write_text_weights(folder / "text")
    (folder / "recipe.toml").write_text(RECIPE)
    _write_onnx(folder / "model.onnx")
    _write_bundle(folder / "bundle", folder / "model.onnx")
    _write_model(folder / "model")
    np.savez(folder / "calibration.npz", x=np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32))
    return folder


def _write_onnx(path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)


def _write_bundle(folder: Path, graph: Path) -> None:
    from edgemm.runtime.archive import seal
    from edgemm.runtime.manifest import Manifest, PartEntry, TargetEntry
    from edgemm.runtime.readers import TensorInput
    from edgemm.runtime.signature import DimRange, Signature, TensorSpec

    (folder / "graphs").mkdir(parents=True)
    shutil.copyfile(graph, folder / "graphs" / "head.onnx")
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 8)),),
        (TensorSpec("y", "float32", ("batch", 4)),),
        {"batch": DimRange(1, 1, 4)},
    )
    manifest = Manifest(
        "small",
        "test",
        (PartEntry("head", "head", None, signature, 32),),
        {"x": TensorInput("x")},
        {"y": Embedding()},
        (TargetEntry("cpu", "onnxruntime", "float32", {"head": "graphs/head.onnx"}),),
    )
    seal(folder, manifest)


def _write_model(folder: Path) -> None:
    from edgemm.models.builders import build_model
    from edgemm.models.store import save_model
    from edgemm.recipe import load_recipe

    recipe = load_recipe(folder.parent / "recipe.toml")
    save_model(build_model(recipe.teacher, family=recipe.family, texts=["a red bar"], seed=0), folder)


@pytest.fixture
def place(ground, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy to spoil, as the working folder."""
    shutil.copytree(ground, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path / "here")  # where a factory of the user's own is looked for
    monkeypatch.delenv("EDGEMM_STORE", raising=False)
    yield tmp_path / "here"
    if (disk := tmp_path / "here" / "disk").exists():  # is_mount sees no folder that is shown on another
        subprocess.run(["umount", disk], check=True)


def edit(old: str, new: str):
    def spoil(place: Path) -> None:
        text = (place / "recipe.toml").read_text()
        assert old in text
        (place / "recipe.toml").write_text(text.replace(old, new, 1))

    return spoil


def nothing(place: Path) -> None:
    pass


def rows(change):
    """Change the rows of the data."""

    def spoil(place: Path) -> None:
        path = place / "data" / "samples.jsonl"
        data = [json.loads(line) for line in path.read_text().splitlines()]
        change(data)
        path.write_text("".join(json.dumps(row) + "\n" for row in data))

    return spoil


def corrupt_image(place: Path) -> None:
    path = place / "data" / "red-circle-0.png"
    path.write_bytes(path.read_bytes()[:60])


def other_architecture(place: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = place / "model" / "weights.safetensors"
    state = load_file(path)
    state.pop(sorted(state)[0])
    save_file(state, path)


def nan_calibration(place: Path) -> None:
    np.savez(place / "calibration.npz", x=np.full((4, 8), np.nan, np.float32))


def pickled_calibration(place: Path) -> None:
    np.savez(place / "calibration.npz", x=np.array([{"a": 1}], dtype=object))


def one_array(place: Path) -> None:
    np.save(place / "one.npy", np.zeros((4, 8), np.float32))


def samples(**changed: np.ndarray):
    """Samples for the model's raw values, some of them changed."""

    def spoil(place: Path) -> None:
        ids = np.full((2, 4), 5)
        good = {"image": np.zeros((2, 32, 32, 3), np.uint8), "input_ids": ids, "attention_mask": np.ones_like(ids)}
        np.savez(place / "samples.npz", **{**good, **changed})

    return spoil


def nan_in_audio(place: Path) -> None:
    import soundfile

    audio_and_sensor(place / "sound")
    wave = np.zeros(16000, np.float32)
    wave[100:103] = np.nan
    soundfile.write(place / "nan.wav", wave, 16000, subtype="FLOAT")


ODD_MODEL = """
import torch
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

class Odd(torch.nn.Module):
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),),
        (TensorSpec("y", "float32", ("batch", 4)),),
        {"batch": DimRange(1, 1, 4)},
    )

    def forward(self, x):
        return torch.linalg.eigvals(x[:, None] * x[:, :, None]).real
"""


def no_onnx_form(place: Path) -> None:
    (place / "odd_model.py").write_text(ODD_MODEL)


def full_disk(place: Path) -> None:
    if not mounted(place / "disk", "size=16k"):
        pytest.skip("mounting is not allowed here")


def read_only_disk(place: Path) -> None:
    (place / "store").mkdir()
    if not mounted_read_only(place / "store", place / "disk"):
        pytest.skip("mounting is not allowed here")


def no_text_to_train_on(place: Path) -> None:
    rows(lambda data: [row.update(text=None) for row in data if row["split"] == "train"])(place)


def truncated(name: str):
    def spoil(place: Path) -> None:
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[: len(data) // 2])

    return spoil


def zipped_and_truncated(place: Path) -> None:
    with pytest.raises(SystemExit):
        main(["pack", "bundle", "-o", "bundle.zip"])
    truncated("bundle.zip")(place)


def zip_that_climbs_out(place: Path) -> None:
    import zipfile

    with zipfile.ZipFile(place / "bundle.zip", "w") as archive:
        archive.writestr("manifest.json", (place / "bundle" / "manifest.json").read_bytes())
        archive.writestr("../../climbed.txt", b"out")


def int8_without_quantize(place: Path) -> None:
    edit("seed = 1", 'seed = 1\nstages = ["teach", "distill", "prune", "capture", "measure", "pack"]')(place)


def store_is_a_file(place: Path) -> None:
    (place / "store").write_text("a file")


def no_tensorrt(place: Path) -> None:
    edit('engine = "onnxruntime"', 'engine = "tensorrt"\ncompute_capability = "8.6"')(place)


def text_weights_without_width(place: Path) -> None:
    path = place / "text" / "config.json"
    config = json.loads(path.read_text())
    del config["hidden_size"]
    path.write_text(json.dumps(config))


def tampered_graph(place: Path) -> None:
    path = place / "bundle" / "graphs" / "head.onnx"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def nan_tensor(place: Path) -> None:
    np.save(place / "nan.npy", np.full(8, np.nan, np.float32))


def pickled_tensor(place: Path) -> None:
    np.save(place / "nan.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)


def factory(path: str):
    """A recipe whose teacher comes from a factory of the user's own."""

    def spoil(place: Path) -> None:
        text = (place / "recipe.toml").read_text()
        towers = text[text.index("[teacher]") : text.index("[student]")]
        (place / "recipe.toml").write_text(text.replace(towers, f'[teacher]\nsource = "python:{path}"\n\n'))

    return spoil


def failing_package(place: Path) -> None:
    (place / "failing").mkdir()
    (place / "failing" / "__init__.py").write_text("raise OSError('it is on fire')")
    factory("failing.mod:build")(place)


def someones_files(name: str):
    """A file of the user's where a run would write."""

    def spoil(place: Path) -> None:
        (place / "mine" / name).parent.mkdir(parents=True)
        (place / "mine" / name).write_text("years of work")

    return spoil


V1 = Path(__file__).parents[1] / "formats" / "v1" / "bundle"
RUN = ("run", "recipe.toml")
MINE = (*RUN, "--out", "mine")
QUANTIZE = ("quantize", "model.onnx", "--calibration", "calibration.npz", "-o", "new")
CAPTURE = ("capture", "model", "--samples", "samples.npz", "-o", "new")
NO_CALIBRATION = ("quantize", "model.onnx", "--calibration", "no.npz", "-o", "new")
CASES = {
    "missing recipe": (nothing, ("run", "nope.toml"), "nope.toml: no such recipe file"),
    "a folder as recipe": (nothing, ("run", "data"), "data: is a folder; give the recipe's TOML file"),
    "not TOML": (edit('name = "shapes"', "name = shapes"), RUN, "recipe.toml: not valid TOML"),
    "wrong key": (
        edit("input_size = 32", "input_siez = 32"), RUN, "image.input_siez: unknown key; did you mean 'input_size'?",
    ),
    "wrong type": (edit("seed = 1", 'seed = "one"'), RUN, 'recipe.toml: seed: expected an integer, got "one"'),
    "number as text": (edit("threads = 1", 'threads = "1"'), RUN, 'threads: expected an integer, got "1"'),
    "out of range": (edit("epochs = 12", "epochs = -1"), RUN, "teach.epochs: expected at least 0, got -1"),
    "missing key": (edit('kind = "table"', ""), RUN, "recipe.toml: data.kind: missing, and needed"),
    "unknown choice": (edit('"dual-encoder"', '"dual-encodr"'), RUN, "got 'dual-encodr'; did you mean 'dual-encoder'?"),
    "unknown --set key": (nothing, (*RUN, "--set", "distill.epoch=3"), "unknown key; did you mean 'epochs'?"),
    "--set without value": (nothing, (*RUN, "--set", "seed"), "--set seed: expected KEY=VALUE"),
    "unknown stage": (nothing, (*RUN, "--until", "quantise"), "no stage 'quantise'; did you mean 'quantize'?"),
    "stage of no name": (nothing, (*RUN, "--from", "train"), "no stage 'train'; there are teach, distill, prune"),
    "unknown target": (nothing, (*RUN, "--target", "cpu-int4"), "no target 'cpu-int4'; did you mean 'cpu-int8'?"),
    "stages out of order": (
        edit("seed = 1", 'seed = 1\nstages = ["distill", "teach"]'), RUN, "stages: expected each once and in the order",
    ),
    "no stages": (edit("seed = 1", "seed = 1\nstages = []"), RUN, "stages: expected at least 1, got []"),
    "no block": (nothing, (*RUN, "--set", "student.image.blocks=[0]"), "image.blocks.0: expected at least 1, got 0"),
    "no deviation": (edit("stem = 8", "std = [0.5, 0, 0.5]"), RUN, "image.std.1: expected more than 0.0, got 0"),
    "pruned away": (edit("image = 0.25", "image = 1.5"), RUN, "prune.ratios.image: expected less than 1.0, got 1.5"),
    "pruned part unknown": (edit("image = 0.25", "txet = 0.2"), RUN, "no part of the student; did you mean 'text'?"),
    "wrong target": (nothing, (*RUN, "--set", "targets.0=3"), "targets.0: expected a section, got 3"),
    "no labels for a gallery": (rows(lambda data: [r.pop("label") for r in data]), RUN, "pack.gallery: no image with"),
    "gallery of no split": (edit("[pack]", '[pack]\ngallery_splits = ["tset"]'), RUN, "no split 'tset' in the data"),
    "nothing to verify with": (
        rows(lambda data: [r.update(split="train") for r in data] and data[0].update(split="test", text=None)), RUN,
        "split 'test': no sample has image and text and may be shipped; none has text",
    ),
    "a column of another name": (
        rows(lambda data: [r.update(caption=r.pop("text")) for r in data]), ("plan", "recipe.toml"),
        "samples.jsonl: no sample has 'text', and the recipe's models take image and text; add a column 'text', or "
        'name yours, data.columns.text = "YOURS"',
    ),
    "engine not installed": (no_tensorrt, RUN, 'pip install "cuda-bindings>='),
    "int8 target without quantize": (int8_without_quantize, RUN, "'int8' needs the stage 'quantize'"),
    "gpu target without capability": (
        edit('engine = "onnxruntime"', 'engine = "tensorrt-rtx"'), RUN, "targets.0.compute_capability: missing",
    ),
    "heads that don't divide the width": (
        nothing, (*RUN, "--set", "student.text.heads=3"), "text: width 16 is no multiple of heads 3; change one",
    ),
    "embeddings of two widths": (
        nothing, (*RUN, "--set", "student.embed_dim=8"), "embed_dim: 8, and the teacher's is 16, which distill.f",
    ),
    "an image under two labels": (
        rows(lambda data: data.append({**data[-1], "label": "another", "text": "a bar"})), ("plan", "recipe.toml"),
        "yellow-cross-1.png' stands under two labels, 'a yellow cross' and 'another'; retrieval needs one each",
    ),
    "a label missing for a classifier": (
        rows(lambda data: data[-1].update(label=None)), (*RUN, "--set", "family=fusion-classifier"),
        "row 32: label is empty; mend it, or raise data.max_broken",
    ),
    "missing data": (edit("data/samples", "data/nope"), RUN, "nope.jsonl"),
    "corrupt image": (corrupt_image, RUN, "red-circle-0.png"),
    "missing image": (lambda place: (place / "data" / "red-bar-0.png").unlink(), RUN, "red-bar-0.png"),
    "empty text": (rows(lambda data: data[0].update(text=" ")), RUN, "text"),
    "no training split": (rows(lambda data: [r.update(split="test") for r in data]), RUN, "no row of split 'train'"),
    "store is a file": (store_is_a_file, (*RUN, "--store", "store"), "not a folder; choose another with --store"),
    "out is a file": (nothing, (*RUN, "--out", "recipe.toml"), "can't write there"),
    "out holds someone's folder": (someones_files("bundle/thesis.txt"), MINE, "mine/bundle: not of a former run"),
    "out holds someone's zip": (someones_files("shapes.zip"), MINE, "mine/shapes.zip: not of a former run"),
    "out holds someone's report": (someones_files("report.html"), MINE, "mine/report.html: not of a former run"),
    "--from after --until": (nothing, (*RUN, "--from", "pack", "--until", "teach"), "comes after --until teach"),
    "no runs": (nothing, ("runs", "--store", "nope"), "nope: no store there"),
    "gc size": (nothing, ("gc", "--limit", "lots"), "size 'lots': expected a number and a unit"),
    "weights of another model": (other_architecture, ("capture", "model", "-o", "new"), "of another model?"),
    "model.json of nothing": (nothing, ("capture", "bundle", "-o", "new"), "this is a bundle, give the model"),
    "a graph to measure": (
        nothing, ("measure", "model.onnx", "--recipe", "recipe.toml", "-o", "new"),
        "model.onnx: an ONNX graph, and not a bundle; expected a bundle folder or a bundle .zip",
    ),
    "a source that can't be captured": (
        nothing, ("capture", "python:no_such_module:build", "-o", "new"), "can't import 'no_such_module'",
    ),
    "a factory in no package": (
        factory("nopkg.mod:build"), RUN, "'python:nopkg.mod:build': can't import 'nopkg.mod' (No module named 'nopkg')",
    ),
    "a factory in no module": (factory("nomod:build"), RUN, "can't import 'nomod' (No module named 'nomod')"),
    "a factory of no module": (
        factory(":build"), ("plan", "recipe.toml"), "got 'python::build', expected python:module:factory",
    ),
    "a module without a factory": (factory("json"), RUN, "got 'python:json', expected python:module:factory"),
    "a factory that is a path": (factory("./mine.py:build"), RUN, "expected python:module:factory"),
    "a module that fails where it is found": (
        failing_package, RUN, "can't import 'failing.mod' (it is on fire); is its folder on PYTHONPATH?",
    ),
    "a source without a module": (
        nothing, ("capture", "python::build", "-o", "new"), "got 'python::build', expected hf:NAME_OR_FOLDER, folder:",
    ),
    "no model": (nothing, ("capture", "nope", "-o", "new"), "nope: no such folder"),
    "text weights without a width": (text_weights_without_width, RUN, "config.json: no usable 'hidden_size'"),
    "tokenizer of nothing": (
        lambda place: (place / "model" / "tokenizer.json").write_text("x"), ("capture", "model", "-o", "new"),
        "tokenizer.json: not a tokenizer",
    ),
    "teacher of another family": (
        edit('"dual-encoder"', '"fusion-classifier"'), ("distill", "recipe.toml", "--teacher", "model", "-o", "new"),
        "model: a model of family 'dual-encoder', the recipe says 'fusion-classifier'",
    ),
    "bundles of two families": (
        nothing, ("measure", "bundle", str(V1), "--recipe", "recipe.toml", "-o", "new"), "compare bundles of one",
    ),
    "text as image": (
        lambda place: (place / "data" / "red-bar-0.png").write_text("hello"), RUN, "not an image of a format that",
    ),
    "out climbs": (nothing, ("capture", "model", "-o", "nodir/../.."), "..: exists already"),
    "out exists": (nothing, ("capture", "model", "-o", "data"), "data: exists already"),
    "neither graph nor bundle": (
        nothing, ("quantize", "recipe.toml", "--calibration", "calibration.npz", "-o", "new"), "recipe.toml: neither a",
    ),
    "calibration missing": (nothing, NO_CALIBRATION, "no.npz: no such file"),
    "calibration with NaN": (
        nan_calibration, QUANTIZE, "nan",
    ),
    "pickled calibration": (
        pickled_calibration, QUANTIZE, "pickle",
    ),
    "truncated graph": (
        truncated("model.onnx"), QUANTIZE, "not an ONNX model",
    ),
    "calibration of one array": (
        one_array, ("quantize", "model.onnx", "--calibration", "one.npy", "-o", "new"), "one.npy: one array; expected",
    ),
    "calibration of one array, for a bundle": (
        one_array, ("quantize", "bundle", "--calibration", "one.npy", "-o", "new"), "one.npy: one array; expected",
    ),
    "samples of one array": (one_array, (*CAPTURE[:3], "one.npy", "-o", "new"), "one.npy: one array; expected"),
    "samples of four channels": (
        samples(image=np.zeros((2, 32, 32, 4), np.uint8)), CAPTURE, "'image' is uint8 [1, 32, 32, 4], expected uint8",
    ),
    "ids as floats": (samples(input_ids=np.ones((2, 4), np.float32)), CAPTURE, "is float32 [1, 4], expected int64"),
    "ids out of range": (samples(input_ids=np.full((2, 4), 9999)), CAPTURE, "on input_ids [1, 4] of 9999..9999"),
    "too many tokens": (
        samples(input_ids=np.full((2, 40), 5), attention_mask=np.ones((2, 40), np.int64)), CAPTURE, "tokens 1..8",
    ),
    "samples of words": (samples(image=np.array(["a", "b"])), CAPTURE, "sample 0: 'image' is an array of <U1"),
    "operator without an ONNX form": (
        no_onnx_form, ("capture", "python:odd_model:Odd", "-o", "new"), "operator 'aten.linalg_eig' has no ONNX form",
    ),
    "nothing to calibrate on": (no_text_to_train_on, RUN, "target 'cpu-int8': no sample of split 'train' has 'text'"),
    "full disk": (full_disk, (*RUN, "--store", "disk/store"), "teach: no space left for the store"),
    "read-only store": (read_only_disk, (*RUN, "--store", "disk"), "read-only file system; the store must be writable"),
    "pack over someone's file": (
        someones_files("thesis.zip"), ("pack", "bundle", "-o", "mine/thesis.zip"), "thesis.zip: not a bundle, and",
    ),
    "pack to a folder": (nothing, ("pack", "bundle", "-o", "data"), "data: a folder; pack writes one zip"),
    "unknown engine": (
        nothing, (*QUANTIZE, "--engine", "tpu"), "no engine 'tpu'",
    ),
    "truncated file in a bundle": (truncated("bundle/graphs/head.onnx"), ("verify", "bundle"), "head.onnx"),
    "tampered file in a bundle": (tampered_graph, ("verify", "bundle"), "the file was changed after the bundle"),
    "NaN in audio": (
        nan_in_audio, ("infer", "sound", "--audio", "nan.wav"), "audio (nan.wav): 3 samples are NaN or infinite",
    ),
    "text as audio": (
        nan_in_audio, ("infer", "sound", "--audio", "recipe.toml"), "audio (recipe.toml): not a sound file",
    ),
    "NaN tensor": (nan_tensor, ("infer", "bundle", "--tensor", "x=nan.npy"), "holds NaN or infinite values"),
    "pickled tensor": (
        pickled_tensor, ("infer", "bundle", "--tensor", "x=nan.npy"), "not a .npy array of numbers: an array of object",
    ),
    "a table as tensor": (
        nothing, ("infer", "bundle", "--tensor", "x=recipe.toml"), "recipe.toml: not a .npy array of numbers: it does",
    ),
    "truncated manifest": (truncated("bundle/manifest.json"), ("infer", "bundle"), "manifest.json"),
    "truncated zip": (zipped_and_truncated, ("verify", "bundle.zip"), "bundle.zip: not a whole zip: cut off"),
    "zip that climbs out": (zip_that_climbs_out, ("inspect", "bundle.zip"), "climbed.txt"),
    "no bundle": (nothing, ("verify", "nope"), "nope: no such file or folder"),
    "nothing to ask": (nothing, ("infer", "bundle"), "nothing to ask"),
    "unknown option": (nothing, ("run", "recipe.toml", "--stroe", "x"), "No such option: --stroe"),
    "unknown verb": (nothing, ("rnu",), "No such command 'rnu'"),
    "missing argument": (nothing, ("run",), "Missing argument 'RECIPE'"),
    **bad_families.CASES,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_line_with_exit_code_2_and_nothing_half_written(case, place, capfd):
    spoil, arguments, expected = CASES[case]
    spoil(place)
    before = {path for path in place.rglob("*") if path.is_file()}
    capfd.readouterr()
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    shown = capfd.readouterr()
    assert left.value.code == 2, shown.err
    lines = shown.err.splitlines()
    assert len(lines) == 1, shown.err
    assert lines[0].startswith("edgemm: error: ")
    assert expected in shown.err
    assert "Traceback" not in shown.err
    assert " object at 0x" not in shown.err
    written = {path for path in place.rglob("*") if path.is_file()} - before
    kept = {path for path in written if "locks" in path.parts or "runs" in path.parts}  # a store's own notes
    assert written == kept


def test_an_unusable_store_leaves_no_out_folder(place):
    store_is_a_file(place)
    with pytest.raises(SystemExit) as left:
        main(["run", "recipe.toml", "--store", "store", "--out", "new/out"])
    assert left.value.code == 2
    assert not (place / "new").exists()


def test_all_problems_of_a_recipe_come_at_once(place, capfd):
    edit("seed = 1", 'sed = 1\nthreads = "2"')(place)
    text = (place / "recipe.toml").read_text().replace("threads = 1\n", "", 1)
    (place / "recipe.toml").write_text(text)
    with pytest.raises(SystemExit):
        main(["run", "recipe.toml", "--set", "pack.goldn=3"])
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("edgemm: error: ") for line in lines)


def test_a_hub_that_is_not_asked_is_one_line(place, capfd, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    bad_families.recipe(data='kind = "datasets"\nname = "nobody/nothing"')(place)
    with pytest.raises(SystemExit) as left:
        main(["run", "recipe.toml"])
    lines = capfd.readouterr().err.splitlines()
    assert (left.value.code, len(lines)) == (2, 1)
    assert "data.name: 'nobody/nothing' is on the hub, and HF_HUB_OFFLINE is set; unset it, or download it" in lines[0]
    assert not (place / "nobody").exists()


def test_a_column_that_was_perhaps_meant_is_noted(place, capfd):
    bad_families.both(
        bad_families.table(label=bad_families.parity, clutser=str),
        bad_families.recipe(),
    )(place)
    with pytest.raises(SystemExit):
        main(["plan", "recipe.toml", "--no-dry-run"])
    assert "left out: rows.jsonl: column 'clutser'; did you mean 'cluster'?" in "".join(capfd.readouterr())


def test_classes_that_no_training_sample_has_are_noted(place, capfd):
    bad_families.both(
        bad_families.table(label=lambda number: "neither" if number == 7 else bad_families.parity(number)),
        bad_families.recipe(),
    )(place)
    with pytest.raises(SystemExit):
        main(["plan", "recipe.toml", "--no-dry-run"])
    said = "note: 1 of 2 samples of split 'test' are of classes that no training sample has ('neither'), and"
    assert said in "".join(capfd.readouterr())


@pytest.mark.corridor
def test_a_dry_run_asks_no_more_of_an_embedders_data_than_a_run(place, capfd):
    rows = []
    for number in range(40):  # two pictures of each of twenty people, of which a stride finds one at most
        split, name = "train" if number < 20 else "test", f"rows/{number}.png"
        write(place / name, png(6 * number))
        rows.append(json.dumps({"image": name, "label": f"person {number // 2}", "split": split}) + "\n")
    (place / "rows.jsonl").write_text("".join(rows))
    bad_families.recipe("embedder")(place)
    with pytest.raises(SystemExit) as left:
        main(["plan", "recipe.toml"])
    said = capfd.readouterr()
    assert left.value.code == 0, said.err
    assert "dry run passed" in said.out


def test_pack_replaces_what_it_wrote_before(place):
    for _ in range(2):
        with pytest.raises(SystemExit) as left:
            main(["pack", "bundle", "-o", "bundle.zip"])
        assert left.value.code == 0


@pytest.mark.corridor
def test_a_dry_run_finds_the_few_samples_that_have_what_is_learnt_from(place, capfd):
    rows = []
    for number in range(60):  # most of no class, and of the few with one an even stride would find none
        name = f"rows/{number}.png"
        write(place / name, png(4 * number))
        labels = ["even"] if number % 7 == 3 else []
        rows.append(json.dumps({"image": name, "labels": labels, "split": "test" if number > 50 else "train"}) + "\n")
    (place / "rows.jsonl").write_text("".join(rows))
    bad_families.recipe(task="multi-label")(place)
    with pytest.raises(SystemExit) as left:
        main(["plan", "recipe.toml"])
    assert left.value.code == 0, capfd.readouterr().err


@pytest.mark.corridor
def test_a_dry_run_distils_a_quantity_by_features_alone(place, capfd):
    bad_families.both(bad_families.table(value=lambda number: 1990 + number), bad_families.recipe(task="regression"))(
        place
    )
    recipe = (place / "recipe.toml").read_text()
    (place / "recipe.toml").write_text(f"{recipe}\n[distill]\nkd = 0.0\ntask = 0.0\n")
    with pytest.raises(SystemExit) as left:
        main(["plan", "recipe.toml"])
    assert left.value.code == 0, capfd.readouterr().err


def test_a_link_and_a_mounted_disk_are_refused_before_the_work_and_not_after(place, capfd):
    (place / "elsewhere").mkdir()
    (place / "link").symlink_to("elsewhere")
    outs = {"link": "link: a link, which"}
    if mounted(place / "disk", "size=1m"):  # as a container's volume is
        outs["disk"] = "disk: where a disk is mounted, which"
    for out, said in outs.items():
        with pytest.raises(SystemExit) as left:
            main(["quantize", "bundle", "--calibration", "calibration.npz", "-o", out])
        assert left.value.code == 2
        assert said in capfd.readouterr().err


def test_a_quantized_bundle_is_named_as_its_folder(place, capfd):
    with pytest.raises(SystemExit) as left:
        main(["quantize", "bundle", "--calibration", "calibration.npz", "-o", "small-Int8"])
    assert left.value.code == 0
    with pytest.raises(SystemExit):
        main(["inspect", "small-Int8"])
    assert "\nsmall-int8: test, 1 file, " in f"\n{capfd.readouterr().out}"


def test_quantize_says_beside_its_ratio_when_the_machine_was_busy(place, capfd, monkeypatch):
    calibration = "calibration.npz"
    for source, out in (("model.onnx", "graph"), ("bundle", "other")):
        monkeypatch.setattr("os.getloadavg", lambda: (512.0, 1.0, 1.0))
        with pytest.raises(SystemExit):
            main(["quantize", source, "--calibration", calibration, "-o", out])
        assert "the machine was busy when measuring began: load 512.0 on" in capfd.readouterr().out
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    with pytest.raises(SystemExit):
        main(["quantize", "model.onnx", "--calibration", calibration, "-o", "quiet", "--json"])
    assert json.loads(capfd.readouterr().out)["warnings"] == []


def test_debug_shows_the_traceback(place):
    from edgemm.runtime.errors import RecipeError

    with pytest.raises(RecipeError):
        main(["run", "nope.toml", "--debug"])
