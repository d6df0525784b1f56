"""Data as it comes: quantities of any size, modalities that few samples have, questions that aren't names."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from edgemm.compress import distill, prune, teach
from edgemm.compress.distill import distillation
from edgemm.compress.objective import Fed, augmentation_of
from edgemm.compress.tower_inputs import feeds_of, view_parameters
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset, open_dataset
from edgemm.models.builders import build_model
from edgemm.models.store import load_model
from edgemm.recipe import (
    DataConfig,
    DistillConfig,
    Fusion,
    PruneConfig,
    StudentSection,
    TeachConfig,
    TeacherSection,
    TensorTower,
)
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes, answer_of
from edgemm.stage import Context


def tower(width: int = 16) -> TensorTower:
    return TensorTower(shape=(3,), hidden=(32,), features=width)


def written(folder: Path, rows: list[dict[str, object]], names: tuple[str, ...]) -> Dataset:
    """A table of vectors: those that a row has are drawn from its number, or are its own."""
    folder.mkdir(exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [",".join(columns)]
    for number, row in enumerate(rows):
        cells = []
        for column in columns:
            value = row.get(column, "")
            if isinstance(value, np.ndarray):
                np.save(folder / f"{column}-{number}.npy", value.astype(np.float32))
                value = f"{column}-{number}.npy"
            cells.append(str(value))
        lines.append(",".join(cells))
    (folder / "d.csv").write_text("\n".join(lines) + "\n")
    config = DataConfig(kind="table", root=str(folder / "d.csv"), tensors=names)
    return open_dataset(config, cache=folder / "cache")


# --- quantities ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[(1990.0, 11.0), (0.0, 1e5), (5e-6, 1e-6)], ids=["years", "cents", "small"])
def amounts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """A quantity that the first two numbers of a vector add up to, in some unit."""
    mean, spread = request.param
    rng = np.random.default_rng(0)
    vectors = rng.normal(0, 1, (96, 3))
    rows = [
        {"sensor": v, "value": repr(float(mean + spread * (v[0] + v[1]))), "split": "test" if i >= 64 else "train"}
        for i, v in enumerate(vectors)
    ]
    return written(tmp_path_factory.mktemp("amounts"), rows, ("sensor",))


def explained(folder: Path, dataset: Dataset, scratch: Path) -> float:
    """R² on the test split."""
    model = load_model(folder).eval()
    corpus = corpus_of(dataset, "test", answer=answer_of("regression"))
    feeds = feeds_of(model, corpus, Context(scratch=scratch), frozen=[], title="")
    with torch.no_grad():
        answer = model(feeds.values("sensor", torch.arange(len(corpus))))["value"].double()
    assert corpus.truth is not None
    truth = torch.tensor([[s.value] for s in dataset.split("test")], dtype=torch.float64)
    return float(1 - ((answer - truth) ** 2).mean() / truth.var(correction=0))


def test_a_regression_learns_in_any_unit_and_so_does_a_student_with_a_head_of_its_own(
    tmp_path: Path, amounts: Dataset
) -> None:
    towers = {"sensor": tower()}
    short = {"epochs": 60, "batch": 16, "learning_rate": 1e-2}
    for name in ("teacher", "student"):
        (tmp_path / name).mkdir()
    teach.run(
        TeachConfig(freeze="none", **short),
        Training(amounts, Context(scratch=tmp_path / "1"), threads=1),
        tmp_path / "teacher",
        teacher=TeacherSection(tensors=towers, head_hidden=16),
        task="regression",
        family="fusion-classifier",
    )
    distill.run(
        DistillConfig(feature=0.0, **short),
        Training(amounts, Context(scratch=tmp_path / "2"), threads=1),
        tmp_path / "student",
        teacher=tmp_path / "teacher",
        student=StudentSection(tensors=towers, head_hidden=8),
        family="fusion-classifier",
    )
    assert explained(tmp_path / "teacher", amounts, tmp_path) > 0.9
    assert explained(tmp_path / "student", amounts, tmp_path) > 0.9


# --- modalities that few samples have --------------------------------------------------------------------------------


def test_a_modality_of_one_sample_in_a_batch_is_trained_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"a": rng.normal(0, 1, 3), "b": rng.normal(0, 1, 3) if i == 5 else "", "label": "xy"[i % 2]} for i in range(16)
    ]
    dataset = written(tmp_path, rows, ("a", "b"))
    section = TeacherSection(tensors={"a": tower(), "b": tower()}, fusion=Fusion(missing="placeholder"))
    model = build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)
    teach.teach_(
        model,
        TeachConfig(freeze="none", epochs=2, batch=8),
        Training(dataset, Context(scratch=tmp_path)),
        section=section,
    )
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_parts_that_no_sample_has_together_are_pruned_all_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {name: rng.normal(0, 1, 3) for name in "abc" if name != "abc"[i % 3]} | {"label": f"label {i % 4}"}
        for i in range(24)
    ]
    dataset = written(tmp_path / "d", rows, ("a", "b", "c"))
    towers = {name: TensorTower(kind="tensor-mlp", shape=(3,), hidden=(32,), features=16) for name in "abc"}
    section = {"embed_dim": 8, "tensors": towers}
    for name in ("teacher", "student", "pruned"):
        (tmp_path / name).mkdir()
    teach.run(
        TeachConfig(freeze="none", epochs=1, batch=12),
        Training(dataset, Context(scratch=tmp_path / "1"), threads=1),
        tmp_path / "teacher",
        teacher=TeacherSection(**section),
        family="dual-encoder",
    )
    config = DistillConfig(epochs=1, batch=12)
    distill.run(
        config,
        Training(dataset, Context(scratch=tmp_path / "2"), threads=1),
        tmp_path / "student",
        teacher=tmp_path / "teacher",
        student=StudentSection(**section),
        family="dual-encoder",
    )
    pruning = PruneConfig(ratios={"a": 0.5}, epochs=1, batch=12)
    with pytest.raises(ModelError, match="part 'a' of kind 'tensor-mlp' has no channels to remove"):
        prune.run(
            pruning,
            Training(dataset, Context(scratch=tmp_path / "3"), threads=1),
            tmp_path / "pruned",
            teacher=tmp_path / "teacher",
            student=tmp_path / "student",
            distill=config,
        )


# --- what the student sees -------------------------------------------------------------------------------------------


def objective_of(
    folder: Path, dataset: Dataset, section: TeacherSection, family: str = "fusion-classifier", **config: object
) -> Fed:
    """Of a student like its teacher, but for the width of its image features."""
    answer = Classes(dataset.labels)
    teacher = build_model(section, family=family, answer=answer, seed=0)
    assert section.image is not None
    wider = section.model_copy(update={"image": section.image.model_copy(update={"features": 48})})
    student = build_model(wider, family=family, answer=answer, seed=1)
    context = Context(scratch=folder, cache=folder)
    return distillation(student, teacher, DistillConfig.model_validate(config), Training(dataset, context))


def test_what_losses_draw_for_themselves_depends_on_the_seed_alone(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    weights = []
    for state in (1, 2):
        torch.manual_seed(state)
        objective = objective_of(tmp_path, questions, teacher_section)
        weights.append([value.clone() for value in objective.adapters.state_dict().values()])
    assert len(weights[0]) == 2
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_a_student_sees_the_view_that_its_teacher_has_answered_for(
    tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection
) -> None:
    objective = objective_of(tmp_path, shapes, teacher_section, "dual-encoder", views=3)
    feeds, items, generator = objective.feeds, torch.tensor([0, 1, 2, 0]), torch.Generator().manual_seed(0)
    views = torch.tensor([0, 1, 2, 2])
    (seen,) = objective.values("image", items, views, generator).values()
    (again,) = objective.values("image", items, views, generator).values()
    torch.testing.assert_close(seen, again, atol=0, rtol=0)  # nothing is drawn anew
    parameters = torch.stack(
        [view_parameters(augmentation_of(objective.config), len(feeds.sources["image"].table), int(v), seed=0)[i]
         for v, i in zip(views, items, strict=True)]
    )  # fmt: skip
    (expected,) = feeds.values("image", items, augment=parameters).values()
    torch.testing.assert_close(seen, expected, atol=0, rtol=0)
    (plain,) = feeds.values("image", items[:1]).values()
    torch.testing.assert_close(seen[:1], plain, atol=1e-5, rtol=1e-5)


def test_pictures_go_where_the_tower_is(tmp_path: Path, shapes: Dataset, teacher_section: TeacherSection) -> None:
    model = build_model(teacher_section, family="dual-encoder", seed=0)
    feeds = feeds_of(model, corpus_of(shapes), Context(scratch=tmp_path), frozen=[], title="")
    model.to("meta")  # as to a GPU
    (pixels,) = feeds.values("image", torch.arange(2)).values()
    assert pixels.device.type == "meta"


# --- questions -------------------------------------------------------------------------------------------------------


def test_a_question_stays_with_its_own_sample_and_nothing_that_is_held_back_is_read(
    tmp_path: Path, teacher_section: TeacherSection, table: Path
) -> None:
    for number in range(4):
        shutil.copy(table.parent / "red-bar-0.png", tmp_path / f"{number}.png")
    (tmp_path / "d.csv").write_text(
        "image,text,label,split\n0.png,what shape,bar,train\n1.png,what colour,red,train\n"
        "2.png,a shape,bar,train\n3.png,the held shape,bar,test\n"
    )
    dataset = open_dataset(DataConfig(kind="table", root=str(tmp_path / "d.csv")), cache=tmp_path / "cache")
    assert "the held shape" not in dataset.all_texts()
    rows, generator = torch.zeros(200, dtype=torch.int64), torch.Generator().manual_seed(0)
    texts = {}
    for family in ("fusion-classifier", "dual-encoder"):
        corpus = objective_of(tmp_path, dataset, teacher_section, family).corpus
        texts[family] = {corpus.texts[row] for row in corpus.choose("text", rows, generator).tolist()}
    assert texts == {"fusion-classifier": {"what shape"}, "dual-encoder": {"what shape", "a shape"}}
