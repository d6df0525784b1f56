"""Every family all the way: teacher, student, pruned, ONNX, int8, bundle, and a prediction from raw files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemm.data import Dataset, open_dataset
from edgemm.pipeline.plan import smaller
from edgemm.recipe import AudioTower, DataConfig, ImageTower, TeacherSection, TextTower
from edgemm.runtime.errors import InputError
from tests.pipeline.family_recipes import CALIBRATED, CONV, corridor, measurements, raws, recipe_of
from tests.pipeline.shapes_in_four_modalities import write_world
from tests.pipeline.shapes_recipe import REVERSED, VOCABULARY, write_blip, write_pairs, write_text_weights

pytestmark = pytest.mark.corridor


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
        distill={"modality_dropout": 0.2, "gram": 1.0, "unimodal": 0.5 if mode == "hybrid" else 0.0},
        prune={"image": 0.3, "head": 0.3},
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


@pytest.mark.parametrize("mode", ["hadamard", "concat", "mean", "hierarchical", "late"])
def test_fusions_of_pooled_features(tmp_path: Path, text: Path, world: Dataset, mode: str) -> None:
    modalities = ("image", "text", "sensor")
    late = mode == "late"  # each modality has a head, and no other
    recipe = recipe_of(
        "fusion-classifier", text, modalities, fusion={"mode": mode}, distill={"unimodal": 0.5 if late else 0.0},
        prune={"image": 0.3, "image_head" if late else "head": 0.3}, quantize=CALIBRATED,
    )  # fmt: skip
    bundle, _ = corridor(recipe, world, tmp_path)
    answered = {m.variant for m in measurements(bundle) if m.details.get("task") == "answers"}
    assert answered == {"teacher", "student", "pruned", "int8"}
    given = raws(world, modalities)
    whole = bundle.predict(**given).outputs["logits"]
    assert whole.shape == (16, 16)
    for modality in modalities:  # each is listened to
        turned = bundle.predict(**given | {modality: given[modality][::-1]}).outputs["logits"]
        assert np.abs(turned - whole).max() > 1e-3
    assert bundle.verify().ok


def test_a_student_that_hears_sees_and_reads_otherwise_than_its_teacher(
    tmp_path: Path, text: Path, world: Dataset
) -> None:
    modalities = ("image", "text", "audio")
    recipe = recipe_of(
        "dual-encoder",
        text,
        modalities,
        gallery="text",
        quantize=CALIBRATED,
        distill={"feature": 1.0, "extra_texts": 8, "extra_batch": 4},
    )
    read = write_text_weights(tmp_path / "read", vocabulary=REVERSED, seed=1)
    student = recipe.student.model_copy(
        update={
            "image": ImageTower.model_validate({"input_size": 24, **CONV}),
            "text": TextTower(weights=f"folder:{read}", max_tokens=6, vocabulary="trimmed"),
            "audio": AudioTower.model_validate({"sample_rate": 4000, "longest_s": 0.3, "mels": 16, **CONV}),
        }
    )
    recipe = recipe.model_copy(
        update={"student": student, "pack": recipe.pack.model_copy(update={"gallery_encoder": "teacher"})}
    )
    assert smaller(recipe).student.text == recipe.student.text  # weights of two layers fit no tower of one
    bundle, teacher = corridor(recipe, world, tmp_path)
    assert teacher is not None
    words = ["[CLS]", "a", "red", "bar", "[SEP]"]
    theirs, ours = (found.values(text="a red bar")["input_ids"][0].tolist() for found in (teacher, bundle))
    assert theirs == [VOCABULARY[word] for word in words]
    kept = sorted(REVERSED[word] for word in VOCABULARY)  # special tokens stay, whether a text holds them or not
    assert ours == [kept.index(REVERSED[word]) for word in words]
    assert [found.manifest.inputs["audio"].sample_rate for found in (teacher, bundle)] == [8000, 4000]  # type: ignore[union-attr]
    for modality in modalities:
        made = bundle.predict(**{modality: raws(world, modalities)[modality]})
        assert made.outputs[f"{modality}_embedding"].shape == (16, 16)
        assert made.matches is not None
    assert bundle.verify().ok


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
    longer = {"epochs": 16}  # after four a quantity is hardly told better than by its mean
    recipe = recipe_of(
        "fusion-classifier", text, ("image", "sensor"), fusion={"mode": "sum"}, task=task, teach=longer, distill=longer
    )
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
        assert tuple(found.archive.read_strings(found.manifest.labels["logits"])) == tuple(truth)
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
