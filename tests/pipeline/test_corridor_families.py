"""Every family all the way: teacher, student, pruned, ONNX, int8, bundle, and a prediction from raw files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.measure.measurement import Measurement, read_measurements
from edgemm.pipeline.node import run_nodes
from edgemm.pipeline.runs import running
from edgemm.pipeline.stages import corridor_nodes
from edgemm.pipeline.store import Store
from edgemm.recipe import DataConfig, Recipe, TeacherSection
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import InputError
from edgemm.stage import Silent
from tests.pipeline.small import write_blip, write_pairs, write_text_weights
from tests.pipeline.world import write_world

CONV = {"stem": 8, "blocks": [1, 1], "channels": [8, 16], "features": 24}
SHORT = {"epochs": 4, "batch": 16, "learning_rate": 4e-3}
WORDS = {"max_tokens": 8}


def recipe_of(family: str, text: Path, modalities: tuple[str, ...], *, tokens: bool = False, **more: Any) -> Recipe:
    output = {"output": "tokens"} if tokens else {}
    towers: dict[str, Any] = {
        "image": {"input_size": 32, **CONV, **output},
        "text": {"weights": f"folder:{text}", **WORDS},
        "audio": {"sample_rate": 8000, "longest_s": 0.4, "mels": 32, **CONV, **output},
        "sensor": {"shape": [8], "hidden": [16], "features": 16},
    }
    model: dict[str, Any] = {name: towers[name] for name in modalities if name != "sensor"}
    if "sensor" in modalities:
        model["tensors"] = {"sensor": towers["sensor"]}
    fusion = more.pop("fusion", {})
    model |= {"embed_dim": 16, "head_hidden": 16, "fusion": {"width": 16, "heads": 2, "layers": 1, **fusion}}
    student = {
        **model,
        **({"text": {"layers": 1, "ffn": 16, "vocabulary": "trimmed", **WORDS}} if "text" in model else {}),
    }
    values = {
        "name": "small",
        "family": family,
        "threads": 1,
        "data": {"kind": "table", "root": "none", "tensors": ["sensor"]},
        "teacher": model,
        "student": student,
        "teach": {**SHORT, "freeze": "none", **more.pop("teach", {})},
        "distill": {**SHORT, **more.pop("distill", {})},
        "prune": {"ratios": more.pop("prune", {"image": 0.3}), "epochs": 1, "batch": 16},
        "measure": {"seconds": 0.05, "runs": 10, "cold_starts": 1},
        "capture": {"samples": 3},
        "quantize": {"samples": 8},
        "pack": {"golden": 2, "gallery": more.pop("gallery", "image")},
        "targets": [{"name": "cpu-int8", "threads": 1}],
        **more,
    }
    return Recipe.model_validate(values)


def corridor(recipe: Recipe, dataset: Dataset, folder: Path) -> tuple[Bundle, Bundle | None]:
    """The bundle that ships, and the teacher's captured one where it is measured."""
    store = Store(folder / "store")
    with running(store, recipe.name, recipe="test", overrides=()) as run:
        made = run_nodes(corridor_nodes(recipe, dataset), store=store, run=run, progress=Silent())
    teacher = Bundle.open(made["capture:teacher"].artifact.path) if "capture:teacher" in made else None
    return Bundle.open(made["pack"].artifact.path / "bundle"), teacher


def measurements(bundle: Bundle) -> list[Measurement]:
    return list(read_measurements(bundle.archive.path / "measurements.jsonl").measurements)


def raws(dataset: Dataset, modalities: tuple[str, ...]) -> dict[str, Any]:
    samples = dataset.split("test")
    return {m: [s.raw(m) for s in samples] for m in modalities}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_weights(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_world(tmp_path_factory.mktemp("world"))


def test_three_towers_in_one_space(tmp_path: Path, text: Path, world: Dataset) -> None:
    modalities = ("image", "text", "audio")
    recipe = recipe_of("dual-encoder", text, modalities, prune={"image": 0.3, "audio": 0.3})
    bundle, _ = corridor(recipe, world, tmp_path)
    for modality in modalities:
        made = bundle.predict(**{modality: raws(world, modalities)[modality]})
        assert made.outputs[f"{modality}_embedding"].shape == (16, 16)
        np.testing.assert_allclose(np.linalg.norm(made.outputs[f"{modality}_embedding"], axis=1), 1, rtol=1e-3)
        assert made.matches is not None  # the gallery can be searched from each
    assert bundle.verify().ok


@pytest.mark.parametrize("mode", ["gated", "early", "hybrid", "cross-attention"])
def test_fusions_of_four_modalities_with_sounds_missing(tmp_path: Path, text: Path, mode: str) -> None:
    modalities = ("image", "text", "audio", "sensor")
    world = write_world(tmp_path / "world", lacking=True)
    recipe = recipe_of(
        "fusion-classifier", text, modalities, tokens=mode in ("early", "cross-attention"),
        fusion={"mode": mode, "missing": "placeholder"},
        teach={"modality_dropout": 0.2},
        distill={"modality_dropout": 0.2, "gram": 1.0, "unimodal": 0.5 if mode in ("late", "hybrid") else 0.0},
        prune={"image": 0.3, **({} if mode == "late" else {"head": 0.3})},
    )  # fmt: skip
    bundle, teacher = corridor(recipe, world, tmp_path)
    tasks = {measured.details.get("task") for measured in measurements(bundle)}
    assert {"answers", "answers, without audio", "answers, without image and text"} <= tasks
    given = raws(world, modalities)
    whole = bundle.predict(**given).outputs["logits"]
    assert whole.shape == (16, 16)
    without = {m: raw for m, raw in given.items() if m != "audio"}
    silent = bundle.predict(**without).outputs["logits"]
    assert silent.shape == whole.shape
    assert not np.allclose(silent, whole)
    assert bundle.verify().ok
    assert teacher is not None
    assert teacher.predict(**without).outputs["logits"].shape == whole.shape


def test_a_missing_modality_without_placeholder_is_an_error(tmp_path: Path, text: Path, world: Dataset) -> None:
    recipe = recipe_of("fusion-classifier", text, ("image", "sensor"), fusion={"mode": "concat"}, stages=STAGES)
    bundle, _ = corridor(recipe, world, tmp_path)
    with pytest.raises(InputError, match="'logits' also needs 'sensor'"):
        bundle.predict(image=world.split("test")[0].image)


STAGES = ["teach", "distill", "prune", "capture", "quantize", "pack"]


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_several_labels_and_quantities(tmp_path: Path, text: Path, world: Dataset, task: str) -> None:
    labels = tuple(sorted({label for s in world.split("train") for label in s.labels}))
    dataset = replace(world, labels=labels)
    recipe = recipe_of("fusion-classifier", text, ("image", "sensor"), fusion={"mode": "sum"}, task=task)
    bundle, _ = corridor(recipe, dataset, tmp_path)
    made = bundle.predict(**raws(dataset, ("image", "sensor")))
    if task == "multi-label":
        assert made.matches is not None
        assert made.outputs["logits"].shape == (16, 8)
        probability = dict(made.matches[0])
        assert all(0 <= p <= 1 for p in probability.values())
    else:
        truth = np.array([[s.value] for s in dataset.split("test")])
        assert np.abs(made.outputs["value"] - truth).mean() < np.abs(truth.mean() - truth).mean()


def test_a_blip_that_matches_is_a_teacher(tmp_path: Path, text: Path) -> None:
    recipe = recipe_of(
        "fusion-classifier", text, ("image", "text"), fusion={"mode": "concat"},
        teach={"freeze": "towers", "epochs": 1}, distill={"mixed": 1, "gram": 1.0},
    ).model_copy(update={"teacher": TeacherSection(source=f"hf:{write_blip(tmp_path / 'blip')}")})  # fmt: skip
    dataset = open_dataset(DataConfig(kind="table", root=str(write_pairs(tmp_path / "data"))), cache=tmp_path / "cache")
    assert dataset.labels == ("match", "no match")  # sorted; the model's own order is the other
    bundle, teacher = corridor(recipe, dataset, tmp_path)
    assert teacher is not None
    assert [part.name for part in teacher.parts] == ["image_frontend", "image", "fusion"]
    given = raws(dataset, ("image", "text"))
    truth = {"no match": 0, "match": 1}
    for found in (teacher, bundle):
        assert found.predict(**given).outputs["logits"].shape == (32, 2)
        assert tuple(found.archive.read_strings(found.manifest.labels or "")) == tuple(truth)
    whole = next(m for m in measurements(bundle) if m.details.get("task") == "answers")
    assert whole.details["truth"] == [truth[str(s.label)] for s in dataset.split("test")]
    assert {m.details.get("task") for m in measurements(bundle)} >= {
        "image only (text shuffled)", "text only (image shuffled)",
    }  # fmt: skip
    assert bundle.verify().ok


def test_an_embedder_of_one_tower(tmp_path: Path, text: Path, world: Dataset) -> None:
    recipe = recipe_of("embedder", text, ("image",), distill={"similarity": 4.0}, gallery="none")
    colours = {name: [replace(s, label=s.group) for s in samples] for name, samples in world.splits.items()}
    identities = replace(world, splits=colours, labels=tuple(sorted({str(s.group) for s in world.split("train")})))
    bundle, _ = corridor(recipe, identities, tmp_path)
    made = bundle.predict(image=raws(world, ("image",))["image"]).outputs["image_embedding"]
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-3)
