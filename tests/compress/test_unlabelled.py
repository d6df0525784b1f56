"""Samples without a label: the student learns from them what the teacher makes of them, and nobody else does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from edgemm.compress.distill import distillation
from edgemm.compress.family_objectives import extra_texts
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.models.builders import build_model
from edgemm.pipeline.key_inputs import dataset_facts
from edgemm.recipe import AugmentConfig, DataConfig, DistillConfig, TeacherSection
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import answer_of
from edgemm.stage import Context

STILL = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)


def opened(table: Path, name: str, **columns: Any) -> Dataset:
    """The first eight samples with ``columns``, and all after them unlabelled, every third of these a picture alone."""
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    made = []
    for index, row in enumerate(rows):
        kept = {key: row.get(key) for key in ("image", "text", "label")} | {k: v[index % 2] for k, v in columns.items()}
        if index >= 8:
            kept |= {key: None for key in kept if key not in ("image", "text")} | {"split": "unlabelled"}
            kept["text"] = None if index % 3 == 0 else kept["text"]
        made.append({"split": "train", **kept})
    if columns:
        for row in made:
            del row["label"]
    path = table.with_name(f"{name}.jsonl")
    path.write_text("\n".join(json.dumps(row) for row in made))
    return open_dataset(DataConfig(kind="table", root=str(path)), cache=path.parent / "cache")


@pytest.fixture(scope="module")
def pairs_and_more(table: Path) -> Dataset:
    return opened(table, "more")


def test_they_are_in_no_split_that_is_measured_or_taught(pairs_and_more: Dataset) -> None:
    assert pairs_and_more.evaluate == ("train",)
    assert len(corpus_of(pairs_and_more)) == 8
    assert len(pairs_and_more.unlabelled) > 8
    assert None not in {sample.label for sample in pairs_and_more.split("train")}
    assert {sample.label for sample in pairs_and_more.unlabelled} == {None}


def test_a_folders_name_is_no_label_of_theirs_and_nothing_measures_on_them(tmp_path: Path) -> None:
    for name in ("train/cat/1.png", "train/dog/2.png", "unlabelled/recordings/3.png", "unlabelled/cat/4.png"):
        path = tmp_path / "animals" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (len(name), 9, 9)).save(path)
    config = DataConfig(kind="folder", root=str(tmp_path / "animals"))
    data = open_dataset(config, cache=tmp_path / "cache")
    assert [sample.label for sample in data.unlabelled] == [None, None]
    assert data.labels == ("cat", "dog")
    with pytest.raises(DataError, match=r"data\.evaluate: 'unlabelled' has no labels to measure on"):
        open_dataset(config.model_copy(update={"evaluate": ("unlabelled",)}), cache=tmp_path / "cache")


def test_a_number_of_theirs_is_no_label(pairs_and_more: Dataset) -> None:
    first = next(sample for sample in pairs_and_more.unlabelled if sample.text is None)
    labelled = [replace(s, text=None, label=first.id) for s in pairs_and_more.split("train")]
    same = replace(pairs_and_more, splits={**pairs_and_more.splits, "train": labelled})
    concept = corpus_of(same, unlabelled=True).concept.tolist()
    assert len(set(concept[:8])) == 1
    assert concept[8 + pairs_and_more.unlabelled.index(first)] not in concept[:8]


def test_names_that_are_held_back_are_not_made_up_even_where_they_are_not_evaluated(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection
) -> None:
    teacher = build_model(teacher_section, family="dual-encoder", seed=0)
    held = [replace(shapes.split("unseen")[0], id=word, text=word) for word in ("house", "tree")]
    data = replace(shapes, splits={**shapes.splits, "held": held}, evaluate=("unseen",))
    assert {"house", "tree"} <= set(extra_texts(teacher, Training(shapes, Context(tmp_path)), count=40))
    assert not {"house", "tree"} & set(extra_texts(teacher, Training(data, Context(tmp_path)), count=40))


def test_only_distilling_depends_on_them(pairs_and_more: Dataset) -> None:
    fewer = replace(pairs_and_more, splits={**pairs_and_more.splits, "unlabelled": pairs_and_more.unlabelled[1:]})
    assert dataset_facts(pairs_and_more) == dataset_facts(fewer)
    assert dataset_facts(pairs_and_more, unlabelled=True) != dataset_facts(fewer, unlabelled=True)


def test_a_dual_encoder_compares_each_modality_that_they_have(
    tmp_path: Path, pairs_and_more: Dataset, teacher_section: TeacherSection
) -> None:
    teacher, student = (build_model(teacher_section, family="dual-encoder", seed=seed) for seed in (0, 1))
    config = DistillConfig(feature=1.0, hidden=0.0, affinity=1.0, interactive=0.0, augment=STILL)
    objective = distillation(
        student, teacher, config, Training(pairs_and_more, Context(scratch=tmp_path, cache=tmp_path))
    )
    count = len(pairs_and_more.unlabelled)
    assert len(objective.corpus) == 8 + count
    lone = [8 + i for i, sample in enumerate(pairs_and_more.unlabelled) if sample.text is None]
    loss = objective(torch.tensor(lone), torch.Generator().manual_seed(0))
    loss.backward()
    assert float(loss.detach()) > 0
    grown = {
        name: any(p.grad is not None and bool(p.grad.any()) for p in student.part(name).module.parameters())
        for name in ("image", "text")
    }
    assert grown == {"image": True, "text": False}


@pytest.mark.parametrize(
    ("task", "columns"),
    [("single-label", {}), ("multi-label", {"labels": (["a"], ["a", "b"])}), ("regression", {"value": (1.0, 3.0)})],
)
def test_what_is_not_known_of_them_is_no_part_of_the_tasks_loss(
    tmp_path: Path, table: Path, teacher_section: TeacherSection, task: Any, columns: dict[str, Any]
) -> None:
    dataset = opened(table, task, **columns)
    fusion = teacher_section.fusion.model_copy(update={"missing": "placeholder"})
    section = teacher_section.model_copy(update={"fusion": fusion})
    teacher, student = (
        build_model(section, family="fusion-classifier", answer=answer_of(task, dataset.labels), seed=seed)
        for seed in (0, 1)
    )

    def loss(rows: list[int], **weights: float) -> torch.Tensor:
        config = DistillConfig(feature=0, modality_dropout=0, augment=STILL, **{"kd": 0, "task": 0} | weights)
        objective = distillation(
            student, teacher, config, Training(dataset, Context(scratch=tmp_path, cache=tmp_path))
        ).eval()
        with torch.no_grad():
            return objective(torch.tensor(rows), torch.Generator().manual_seed(0))

    known, unknown = list(range(8)), list(range(8, 14))
    torch.testing.assert_close(loss(known + unknown, task=1.0), loss(known, task=1.0))
    assert float(loss(unknown, task=1.0)) == 0
    assert float(loss(unknown, kd=1.0)) > 0
