"""Hugging Face models all the way: teacher, student, pruned, ONNX, int8, bundle, and a prediction from raw files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.data.batches import raw_value_stream
from edgemm.models.huggingface import model_from_hub
from edgemm.recipe import DataConfig, Recipe, StudentSection, TeacherSection
from edgemm.runtime.bundle import Bundle
from edgemm.stage import Context
from tests.models import hf_folders
from tests.pipeline.family_recipes import CALIBRATED, corridor, measurements, raws, recipe_of
from tests.pipeline.shapes_in_four_modalities import write_world
from tests.pipeline.shapes_recipe import write_pairs, write_text_weights

pytestmark = pytest.mark.corridor

ONCE = {"epochs": 1, "learning_rate": 1e-3}
LEAN = {"stem": 16, "blocks": [1], "channels": [8], "features": 16}
AUDIO: Mapping[str, Callable[[Path], Any]] = {
    "ast": hf_folders.ast, "wav2vec2": hf_folders.wav2vec2, "hubert": hf_folders.hubert, "whisper": hf_folders.whisper,
}  # fmt: skip
DUAL_ENCODERS: Mapping[str, Callable[[Path], Any]] = {
    "siglip": hf_folders.siglip,
    "altclip": hf_folders.altclip,
    "chinese-clip": hf_folders.chinese_clip,
    "vision-text": hf_folders.vision_text,
    "blip": hf_folders.blip,
    "clap": lambda folder: hf_folders.clap(folder, fusion=False),
}


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_weights(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_world(tmp_path_factory.mktemp("world"), each=1)


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer each: exporting takes time by the layer."""
    for sizes in (hf_folders.VISION, hf_folders.TEXT):
        monkeypatch.setitem(sizes, "num_hidden_layers", 1)


def with_teacher(recipe: Recipe, teacher: Mapping[str, Any], **student: Any) -> Recipe:
    """The recipe with another teacher, whose tokenizer need not be one that can be trimmed, and a leaner student."""
    fields = recipe.student.model_dump(exclude_unset=True) | student
    for modality in ("image", "audio"):
        if modality in fields and "weights" not in fields[modality]:
            fields[modality] |= LEAN
    if isinstance(fields.get("text"), dict) and "weights" not in fields["text"]:
        fields["text"] |= {"vocabulary": "full"}
    return recipe.model_copy(
        update={"teacher": TeacherSection.model_validate(teacher), "student": StudentSection.model_validate(fields)}
    )


def tower(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The modality of a single encoder, and its section of a recipe once its folder is written."""
    folder = folder / kind
    if kind in AUDIO:
        AUDIO[kind](folder)
        return "audio", {"weights": f"hf:{folder}", **({} if kind == "ast" else {"longest_s": 0.4})}
    if kind in hf_folders.IMAGES:
        hf_folders.IMAGES[kind](folder)
        return "image", {"weights": f"hf:{folder}"}
    hf_folders.saved(folder, hf_folders.TEXT_ENCODERS[kind]())
    return "text", {"weights": f"hf:{folder}", "max_tokens": 8}


def check_classifier(bundle: Bundle, world: Dataset, modalities: tuple[str, ...]) -> None:
    assert {m.variant for m in measurements(bundle) if m.kind == "answers"} == {
        "teacher", "student", "pruned", "int8",
    }  # fmt: skip
    made = bundle.predict(**raws(world, modalities))
    assert made.outputs["logits"].shape == (16, 16)
    assert np.isfinite(made.outputs["logits"]).all()
    assert bundle.verify().ok


@pytest.mark.parametrize("kind", DUAL_ENCODERS)
def test_a_dual_encoder_goes_through_every_stage(kind: str, tmp_path: Path, text: Path, world: Dataset) -> None:
    DUAL_ENCODERS[kind](tmp_path / "hf")
    shown = "audio" if kind == "clap" else "image"
    width = 32 if kind == "siglip" else 24
    recipe = recipe_of(
        "dual-encoder",
        text,
        (shown, "text"),
        teach=ONCE,
        distill=ONCE,
        quantize=CALIBRATED,
        prune={shown: 0.3},
        gallery=shown,
    )
    bundle, teacher = corridor(
        with_teacher(recipe, {"source": f"hf:{tmp_path / 'hf'}"}, embed_dim=width), world, tmp_path
    )
    assert teacher is not None
    assert {m.variant for m in measurements(bundle) if m.kind == "ranks"} == {"teacher", "student", "pruned", "int8"}
    for found in (teacher, bundle):
        for modality in (shown, "text"):
            made = found.predict(**{modality: raws(world, (modality,))[modality]}).outputs[f"{modality}_embedding"]
            assert made.shape == (16, width)
            np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-3)
    assert bundle.verify().ok


def test_a_tower_of_one_length_gets_texts_of_that_length(tmp_path: Path, world: Dataset) -> None:
    hf_folders.siglip(tmp_path / "hf")
    model = model_from_hub(str(tmp_path / "hf"))
    feeds = feeds_of(model, corpus_of(world), Context(scratch=tmp_path / "scratch"), frozen=[], title="teacher")
    assert feeds.values("text", torch.arange(2))["input_ids"].shape == (2, 18)
    assert next(raw_value_stream(world.split("test"), model))["input_ids"].shape == (1, 18)


def test_a_vilt_that_answers_questions_goes_through_every_stage(tmp_path: Path, text: Path, world: Dataset) -> None:
    hf_folders.vilt(tmp_path / "hf", labels=world.labels[::-1])
    recipe = recipe_of("fusion-classifier", text, ("image", "text"), teach=ONCE, distill=ONCE, quantize=CALIBRATED)
    bundle, teacher = corridor(with_teacher(recipe, {"source": f"hf:{tmp_path / 'hf'}"}), world, tmp_path)
    assert teacher is not None
    assert [part.name for part in teacher.parts] == ["image_frontend", "fusion"]
    assert tuple(bundle.archive.read_strings(bundle.manifest.labels["logits"])) == world.labels[::-1]
    check_classifier(bundle, world, ("image", "text"))


def test_a_blip_that_ranks_answers_goes_through_every_stage(tmp_path: Path, text: Path, world: Dataset) -> None:
    hf_folders.blip_for_questions(tmp_path / "hf")
    recipe = recipe_of("fusion-classifier", text, ("image", "text"), teach=ONCE, distill=ONCE, quantize=CALIBRATED)
    bundle, teacher = corridor(with_teacher(recipe, {"source": f"hf:{tmp_path / 'hf'}"}), world, tmp_path)
    assert teacher is not None
    assert [part.name for part in teacher.parts] == ["image_frontend", "image", "fusion"]
    assert teacher.predict(**raws(world, ("image", "text"))).outputs["logits"].max() < 0  # logarithms of probabilities
    check_classifier(bundle, world, ("image", "text"))


def test_a_vilt_that_matches_goes_through_every_stage(tmp_path: Path, text: Path) -> None:
    hf_folders.vilt_for_matching(tmp_path / "hf")
    pairs = DataConfig(kind="table", root=str(write_pairs(tmp_path / "data")))
    dataset = open_dataset(pairs, cache=tmp_path / "cache")
    recipe = recipe_of("fusion-classifier", text, ("image", "text"), teach=ONCE, distill=ONCE, quantize=CALIBRATED)
    bundle, teacher = corridor(with_teacher(recipe, {"source": f"hf:{tmp_path / 'hf'}"}), dataset, tmp_path)
    assert teacher is not None
    for found in (teacher, bundle):
        assert tuple(found.archive.read_strings(found.manifest.labels["logits"])) == ("no match", "match")
        assert found.predict(**raws(dataset, ("image", "text"))).outputs["logits"].shape == (32, 2)
    assert bundle.verify().ok


@pytest.mark.parametrize(
    ("kinds", "freeze"),
    [
        (("vit", "bert", "ast"), "towers"),
        (("resnet", "roberta", "wav2vec2"), "none"),
        (("mobilenet_v2", "distilbert", "hubert"), "none"),
        (("mobilevit", "mpnet", "whisper"), "none"),
        (("convnextv2", "albert"), "none"),
        (("efficientnet", "xlm-roberta"), "none"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_single_encoders_are_the_towers_of_a_teacher(
    kinds: tuple[str, ...], freeze: str, tmp_path: Path, text: Path, world: Dataset
) -> None:
    towers = dict(tower(kind, tmp_path) for kind in kinds)
    recipe = recipe_of(
        "fusion-classifier",
        text,
        tuple(towers),
        fusion={"mode": "sum"},
        teach={**ONCE, "freeze": freeze},
        distill=ONCE,
        quantize=CALIBRATED,
    )
    teacher = recipe.teacher.model_dump(exclude_unset=True) | towers
    bundle, captured = corridor(with_teacher(recipe, teacher), world, tmp_path)
    assert captured is not None
    assert captured.predict(**raws(world, tuple(towers))).outputs["logits"].shape == (16, 16)
    check_classifier(bundle, world, tuple(towers))


def test_single_encoders_are_the_towers_of_a_student(tmp_path: Path, text: Path, world: Dataset) -> None:
    towers = dict(tower(kind, tmp_path) for kind in ("mobilevit", "distilbert", "wav2vec2"))
    recipe = recipe_of(
        "fusion-classifier",
        text,
        tuple(towers),
        fusion={"mode": "sum"},
        teach=ONCE,
        distill=ONCE,
        quantize=CALIBRATED,
        prune={"head": 0.3},
    )
    teacher = recipe.teacher.model_dump(exclude_unset=True)
    bundle, _ = corridor(with_teacher(recipe, teacher, **towers), world, tmp_path)
    check_classifier(bundle, world, tuple(towers))
