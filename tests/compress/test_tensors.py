"""Tensors in training: any numbers, as they are, and the frames of a video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.compress import distill, prune, teach
from edgemm.compress.distill import distillation
from edgemm.compress.teach import teach_
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.data.batches import raw_value_stream
from edgemm.models.builders import build_model
from edgemm.models.store import load_model
from edgemm.recipe import (
    DataConfig,
    DistillConfig,
    PruneConfig,
    StudentSection,
    TeachConfig,
    TeacherSection,
    TensorTower,
)
from edgemm.runtime.arrays import as_dtype
from edgemm.runtime.errors import DataError, InputError, ModelError
from edgemm.runtime.outputs import Classes
from edgemm.stage import Context

FRAMES = TensorTower(kind="frames-cnn", shape=(4, 8, 8, 3), hidden=(8, 16), features=16)
PRESSURE = TensorTower(shape=(2,), hidden=(8,), features=8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Bright and dark films (uint8), and air pressures in pascals, which no float16 holds."""
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    lines = ["film,pressure,label"]
    for index in range(32):
        label = ("dark", "bright")[index % 2]
        film = rng.integers(0, 100, (4, 8, 8, 3), dtype="uint8") + np.uint8(100 * (index % 2))
        np.save(folder / f"film-{index}.npy", film)
        np.save(folder / f"pressure-{index}.npy", rng.normal(101_325, 500, 2))  # float64
        lines.append(f"film-{index}.npy,pressure-{index}.npy,{label}")
    (folder / "films.csv").write_text("\n".join(lines) + "\n")
    config = DataConfig(kind="table", root=str(folder / "films.csv"), tensors=("film", "pressure"))
    return open_dataset(config, cache=folder / "cache")


def test_numbers_reach_a_tower_as_they_are(dataset: Dataset, tmp_path: Path) -> None:
    section = TeacherSection(tensors={"film": FRAMES, "pressure": PRESSURE})
    model = build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)
    feeds = feeds_of(model, corpus_of(dataset), Context(scratch=tmp_path), frozen=(), title="model")
    for name in ("film", "pressure"):
        files = [sample.tensors[name] for sample in dataset.split("train")]
        given = feeds.values(name, torch.arange(len(files)))[name]
        expected = np.stack([np.load(path) for path in files]).astype(np.float32)
        assert given.dtype == torch.float32
        np.testing.assert_array_equal(given, expected)
        first = next(iter(raw_value_stream(dataset.split("train"), model)))[name]
        np.testing.assert_array_equal(first, expected[:1])
        assert first.dtype == np.float32


def test_a_modality_that_comes_with_no_other_is_told_unless_the_teacher_has_it_too(
    dataset: Dataset, tmp_path: Path
) -> None:
    towers = {name: TensorTower(shape=(2,), hidden=(8,), features=8) for name in ("near", "pressure", "far")}
    section = TeacherSection(tensors=towers, embed_dim=8, projection="tower")
    samples = [
        replace(s, tensors=dict.fromkeys(("near", "pressure") if index % 2 else ("far",), s.tensors["pressure"]))
        for index, s in enumerate(dataset.split("train"))
    ]
    lone = replace(dataset, splits={"train": samples})
    teacher, student = (build_model(section, family="dual-encoder", seed=seed) for seed in (0, 1))
    context = Context(scratch=tmp_path / "scratch", cache=tmp_path / "cache")
    told = "'far' comes with no other modality in split 'train', so nothing teaches it; give 2 samples or more"
    with pytest.raises(DataError, match=f"teach: {told}"):
        teach_(teacher, TeachConfig(freeze="none"), Training(lone, context), section=section)
    with pytest.raises(DataError, match=f"distill: {told}"):
        distillation(student, teacher, DistillConfig(feature=0), Training(lone, context))
    distillation(student, teacher, DistillConfig(feature=1), Training(lone, context))
    apart = replace(dataset, splits={"train": [s for s in samples if "far" in s.tensors]})
    with pytest.raises(DataError, match="no sample of split 'train' has 'near', which the model learns from"):
        teach_(teacher, TeachConfig(freeze="none"), Training(apart, context), section=section)


def test_features_that_no_float16_holds_are_told(dataset: Dataset, tmp_path: Path) -> None:
    section = TeacherSection(tensors={"film": FRAMES, "pressure": PRESSURE})
    model = build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)
    message = r"pressure: 'pressure_features' reaches .*e\+\d+ after part 'pressure', .* scale the values of pressure"
    with torch.no_grad():
        model.part("pressure").module.norm.running_var.fill_(1e-12)
    with pytest.raises(DataError, match=message):
        feeds_of(model, corpus_of(dataset), Context(scratch=tmp_path), frozen=["pressure"], title="model")


@pytest.mark.parametrize(
    ("given", "dtype", "told"),
    [
        (np.asarray([300], np.uint16), "uint8", "too large for uint8"),
        (np.asarray([2**40]), "int32", "too large for int32"),
        (np.asarray([1e30]), "float16", "too large for float16"),
        (np.asarray([0.5]), "int64", "got dtype float64, expected int64"),
    ],
)
def test_a_number_that_does_not_fit_is_told(given: np.ndarray, dtype: str, told: str) -> None:
    with pytest.raises(InputError, match=rf"sensor: .*{told}"):
        as_dtype(given, dtype, where="sensor")


def test_numbers_that_fit_are_given_as_they_are() -> None:
    assert as_dtype(np.asarray([255], np.uint16), "uint8", where="sensor").tolist() == [255]
    assert as_dtype(np.asarray([0.1]), "float32", where="sensor").dtype == np.float32
    assert np.isinf(as_dtype(np.asarray([np.inf]), "float32", where="sensor")).all()  # NaN and the like: said elsewhere


def test_films_are_taught_distilled_and_pruned(dataset: Dataset, tmp_path: Path) -> None:
    towers = {"film": FRAMES, "pressure": PRESSURE}
    context = Context(scratch=tmp_path / "scratch", cache=tmp_path / "cache")
    config, section = TeachConfig(epochs=6, batch=8, learning_rate=3e-3, freeze="none"), TeacherSection(tensors=towers)
    teach.run(
        config, Training(dataset, context, threads=1), tmp_path / "t", teacher=section, family="fusion-classifier"
    )
    distilling = DistillConfig(epochs=2, batch=8)
    distill.run(
        distilling,
        Training(dataset, context, threads=1),
        tmp_path / "s",
        teacher=tmp_path / "t",
        student=StudentSection(tensors=towers),
        family="fusion-classifier",
    )
    pruning = PruneConfig(ratios={"film": 0.5}, epochs=1, batch=8, round_to=4)
    prune.run(
        pruning,
        Training(dataset, context, threads=1),
        tmp_path / "p",
        teacher=tmp_path / "t",
        student=tmp_path / "s",
        distill=distilling,
    )

    widths = {role: load_model(tmp_path / role).part("film").module for role in ("t", "p")}
    assert sum(p.numel() for p in widths["p"].parameters()) < 0.7 * sum(p.numel() for p in widths["t"].parameters())
    model = load_model(tmp_path / "t")
    samples = dataset.split("train")
    for sample, values in zip(samples, raw_value_stream(samples, model), strict=True):
        logits = model({name: torch.from_numpy(value) for name, value in values.items()})["logits"]
        assert model.outputs["logits"].labels[int(logits.argmax())] == sample.label


def test_steps_of_frames_are_kept_as_tokens() -> None:
    section = TeacherSection(
        tensors={"film": FRAMES.model_copy(update={"output": "tokens"}), "pressure": PRESSURE},
        fusion={"mode": "cross-attention", "query": "pressure", "width": 16, "heads": 2},
    )
    model = build_model(section, family="fusion-classifier", answer=Classes(("a", "b")), seed=0)
    assert model.part("film").signature.outputs[0].shape == ("batch", 4, 16)


@pytest.mark.parametrize(
    ("tower", "message"),
    [
        (TensorTower(kind="frames-cnn", shape=(4, 8)), r"shape \[4, 8\]; expected \[frames, height, width, channels\]"),
        (TensorTower(shape=(4, 8, 8, 3)), r"shape \[4, 8, 8, 3\]; expected .* or kind = \"frames-cnn\""),
    ],
)
def test_a_shape_that_is_no_film_is_told(tower: TensorTower, message: str) -> None:
    section = TeacherSection(tensors={"film": tower})
    with pytest.raises(ModelError, match=message):
        build_model(section, family="fusion-classifier", answer=Classes(("a", "b")), seed=0)
