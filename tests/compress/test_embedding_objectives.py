"""The distillation of a classifier: repeated images, other pairs than the labelled ones, inherited joints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from edgemm.compress.answer_objectives import AnswerDistillation
from edgemm.compress.distill import distillation
from edgemm.compress.family_objectives import check_joints
from edgemm.compress.training import Training
from edgemm.data import Dataset
from edgemm.models.builders import build_model
from edgemm.models.inherit import build_student
from edgemm.models.model import Model
from edgemm.recipe import AugmentConfig, DistillConfig, Fusion, StudentSection, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes
from edgemm.stage import Context

STILL = AugmentConfig(zoom=0, shift=0, rotate=0, colour=0)


def teacher_of(section: TeacherSection, dataset: Dataset) -> Model:
    return build_model(section, family="fusion-classifier", answer=Classes(dataset.labels), seed=0)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_any_pair(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher, student = teacher_of(teacher_section, questions), teacher_of(teacher_section, questions)
    config = DistillConfig(task=0, kd=1, mixed=3, feature=1, augment=STILL)
    objective = distillation(student, teacher, config, Training(questions, Context(scratch=tmp_path, cache=tmp_path)))
    objective.eval()
    with torch.no_grad():
        loss = objective(torch.arange(len(objective.corpus)), torch.Generator().manual_seed(0))
        assert abs(loss.item()) < 1e-3  # the teacher's features are cached in float16, its pixels rounded
        for parameter in student.part("text").module.parameters():
            parameter.add_(0.1)  # and what it forgets shows
        assert objective(torch.arange(len(objective.corpus)), torch.Generator().manual_seed(0)).item() > 0.01


def test_no_loss_reaches_the_teacher(tmp_path: Path, questions: Dataset, teacher_section: TeacherSection) -> None:
    late = teacher_section.model_copy(update={"fusion": Fusion(mode="late")})
    teacher, student = (
        build_model(late, family="fusion-classifier", answer=Classes(questions.labels), seed=seed) for seed in (0, 3)
    )
    config = DistillConfig(task=1, kd=1, mixed=2, feature=1, gram=1, unimodal=1, augment=STILL)
    objective = distillation(student, teacher, config, Training(questions, Context(scratch=tmp_path, cache=tmp_path)))
    teacher.requires_grad_(True)
    objective(torch.arange(8), torch.Generator().manual_seed(0)).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.part("image").module.parameters())


def test_made_up_texts_teach_the_text_tower_what_no_question_says(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher, student = teacher_of(teacher_section, questions), teacher_of(teacher_section, questions)
    config = DistillConfig(task=0, kd=0, feature=1, extra_texts=30, extra_batch=8, augment=STILL)
    objective = distillation(student, teacher, config, Training(questions, Context(scratch=tmp_path, cache=tmp_path)))
    objective.eval()
    assert isinstance(objective, AnswerDistillation)
    asked = set(questions.all_texts())
    extra = objective.corpus.texts[-objective.corpus.extra :]
    assert len(extra) >= 20
    assert not asked & set(extra)
    with torch.no_grad():
        whole = objective(torch.arange(4), torch.Generator().manual_seed(0))
        assert abs(whole.item()) < 1e-3
        for parameter in student.part("image").module.parameters():  # it is not asked about them
            parameter.add_(0.1)
        assert objective._of_made_up_texts(torch.Generator().manual_seed(0)).abs().item() < 1e-3
        for parameter in student.part("text").module.parameters():
            parameter.add_(0.1)
        assert objective._of_made_up_texts(torch.Generator().manual_seed(0)).item() > 0.01


def test_classes_in_another_order_than_the_teachers_are_refused(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher, student = teacher_of(teacher_section, questions), teacher_of(teacher_section, questions)
    student.outputs = {"logits": Classes(questions.labels[::-1])}
    with pytest.raises(ModelError, match=r"classes and the teacher's \d+ are not the same in the same order"):
        distillation(student, teacher, DistillConfig(), Training(questions, Context(scratch=tmp_path, cache=tmp_path)))


def test_a_fusion_that_no_loss_teaches_has_to_be_the_teachers(
    questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher = teacher_of(teacher_section, questions)
    features = DistillConfig(task=0, kd=0, feature=1)
    same = build_student(
        StudentSection(**teacher_section.model_dump(exclude={"source"})), teacher, family="fusion-classifier", seed=1
    )
    check_joints(same, teacher, features)
    fusion = teacher_section.fusion.model_copy(update={"width": teacher_section.fusion.width * 2})
    wider = StudentSection(**teacher_section.model_dump(exclude={"source", "fusion"}), fusion=fusion)
    student = build_student(wider, teacher, family="fusion-classifier", seed=1)
    with pytest.raises(ModelError, match=r"no loss teaches the student's fusion, .* give distill.kd or distill.task"):
        check_joints(student, teacher, features)
    check_joints(student, teacher, DistillConfig(task=0, kd=1, feature=1))


def test_an_image_asked_twice_in_a_batch_gives_the_loss_of_two_samples(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher = teacher_of(teacher_section, questions)
    student = build_model(teacher_section, family="fusion-classifier", answer=Classes(questions.labels), seed=3)
    config = DistillConfig(task=1, kd=0, feature=0, augment=STILL)
    objective = distillation(student, teacher, config, Training(questions, Context(scratch=tmp_path, cache=tmp_path)))
    objective.eval()
    rows = torch.tensor([5, 4, 0, 1, 9])  # neighbours ask about one image
    images = objective.corpus.rows["image"][rows]
    assert len(images.unique()) < len(rows)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        texts = objective.draw(rows, generator)["text"].items
        values = objective.feeds.values("image", images) | objective.feeds.values("text", texts)
        expected = F.cross_entropy(student(values)["logits"], objective.corpus.label[rows])
        got = objective(rows, torch.Generator().manual_seed(0))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)  # convolutions sum differently by batch size


def test_a_student_starts_from_the_teachers_fusion_and_head_where_they_fit(
    questions: Dataset, teacher_section: TeacherSection, student_section: StudentSection
) -> None:
    teacher = teacher_of(teacher_section, questions)
    student = build_student(student_section, teacher, family="fusion-classifier", texts=questions.all_texts(), seed=5)
    for name in ("fusion", "head"):
        for ours, theirs in zip(
            student.part(name).module.parameters(), teacher.part(name).module.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)
    narrow = student_section.model_copy(update={"head_hidden": 16})
    other = build_student(narrow, teacher, family="fusion-classifier", texts=questions.all_texts(), seed=5)
    assert not torch.equal(
        next(other.part("head").module.parameters())[:16], next(teacher.part("head").module.parameters())[:16]
    )


def test_two_threads_sum_the_gradient_of_a_repeated_image_in_one_order(
    tmp_path: Path, questions: Dataset, teacher_section: TeacherSection
) -> None:
    teacher = teacher_of(teacher_section, questions)
    config = DistillConfig(task=1, kd=1, mixed=3, feature=1, augment=STILL)
    objective = distillation(
        teacher_of(teacher_section, questions),
        teacher,
        config,
        Training(questions, Context(scratch=tmp_path, cache=tmp_path)),
    )
    assert isinstance(objective, AnswerDistillation)
    rows = torch.arange(len(objective.corpus)).repeat(40)  # enough for two threads to share
    towers: list[torch.Tensor] = []

    def keep(_module: object, _given: object, made: torch.Tensor) -> None:
        made.retain_grad()
        towers.append(made)

    objective.model.part("image").module.register_forward_hook(keep)
    torch.set_num_threads(2)
    try:
        for _ in range(6):
            objective(rows, torch.Generator().manual_seed(0)).backward()
    finally:
        torch.set_num_threads(1)
    grads = [made.grad for made in towers]
    assert all(torch.equal(grads[0], grad) for grad in grads[1:])
