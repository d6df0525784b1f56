"""A loss of one's own: a function and a marked key of ``[distill]`` are all that it takes."""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import torch
from pydantic import Field
from torch import Tensor

from edgemm.compress.distill import distillation
from edgemm.compress.objective import weighted
from edgemm.compress.training import Training
from edgemm.data import Dataset
from edgemm.models.builders import build_model
from edgemm.recipe import AugmentConfig, Compared, DistillConfig, Loss, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes
from edgemm.stage import Context

STILL = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)
NOTHING = {"affinity": 0.0, "interactive": 0.0, "feature": 0.0, "task": 0.0, "kd": 0.0}


def one(student: Tensor, teacher: Tensor) -> Tensor:
    """1, of whatever is compared."""
    assert len(student) == len(teacher)
    return student.new_ones(())


def softened(student: Tensor, teacher: Tensor, *, temperature: float, task: str) -> Tensor:
    """Its temperature."""
    assert task == "single-label"
    return student.new_tensor(temperature)


class Own(DistillConfig):
    of_embeddings: Annotated[float, Loss(f"{__name__}:one", "embeddings")] = Field(0.0, ge=0)
    of_features: Annotated[float, Loss(f"{__name__}:one", "features")] = Field(0.0, ge=0)
    of_answers: Annotated[float, Loss(f"{__name__}:softened", "answers")] = Field(0.0, ge=0)
    of_voices: Annotated[float, Loss(f"{__name__}:softened", "voices")] = Field(0.0, ge=0)


def test_every_loss_of_a_recipe_is_a_function_of_this_package() -> None:
    every = DistillConfig(feature=1, similarity=1, gram=1, unimodal=1, kd=1)
    found = [path for of in get_args(Compared) for _, _, path in every.losses(of)]
    assert len(found) == 5
    for path in found:
        assert callable(pkgutil.resolve_name(path))
        assert path.startswith("edgemm.compress.")  # whose code a stage's key holds


def test_a_loss_without_weight_is_not_asked() -> None:
    assert weighted(DistillConfig(feature=0), "embeddings") == []
    (pair,) = weighted(DistillConfig(feature=2), "embeddings")
    assert pair[0] == 2


def test_a_function_that_is_not_there_is_told_by_its_key() -> None:
    class Lost(DistillConfig):
        of_features: Annotated[float, Loss(f"{__name__}:two", "features")] = Field(1.0, ge=0)

    message = rf"distill.of_features: can't import '{__name__}:two' \(module .* has no attribute 'two'\); expected mod"
    with pytest.raises(ModelError, match=message):
        weighted(Lost(), "features")


def test_a_loss_of_voices_that_there_are_none_of_is_told_by_its_key(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher, student = (
        build_model(teacher_section, family="fusion-classifier", answer=Classes(questions.labels), seed=0) for _ in "ab"
    )
    with pytest.raises(ModelError, match=r"distill.of_voices: .* or set distill.of_voices = 0"):
        distillation(
            student,
            teacher,
            Own(**NOTHING, of_voices=1.0, augment=STILL),
            Training(questions, Context(scratch=tmp_path, cache=tmp_path)),
        )


@pytest.mark.parametrize(
    ("family", "mode", "weights", "expected"),
    [
        ("dual-encoder", "hadamard", {"of_embeddings": 3.0}, 3.0),
        ("fusion-classifier", "hadamard", {"of_features": 3.0, "of_embeddings": 5.0}, 3.0),
        ("fusion-classifier", "hadamard", {"of_answers": 0.5, "temperature": 6.0}, 3.0),
        ("fusion-classifier", "late", {"of_voices": 0.5, "temperature": 4.0, "of_answers": 1.0}, 6.0),
    ],
)
def test_a_marked_key_weighs_its_function(
    tmp_path: Path,
    questions: Dataset,
    teacher_section: TeacherSection,
    family: str,
    mode: str,
    weights: dict[str, Any],
    expected: float,
) -> None:
    fusion = teacher_section.fusion.model_copy(update={"mode": mode})
    section = teacher_section.model_copy(update={"fusion": fusion})
    teacher, student = (build_model(section, family=family, answer=Classes(questions.labels), seed=0) for _ in "ab")
    objective = distillation(
        student,
        teacher,
        Own(**NOTHING, **weights, augment=STILL),
        Training(questions, Context(scratch=tmp_path, cache=tmp_path)),
    )
    with torch.no_grad():
        loss = objective(torch.arange(6), torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss, torch.tensor(expected))
