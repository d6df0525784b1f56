"""Stage distill: a student that starts from its teacher's weights and learns from its teacher's cached outputs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from edgemm.compress.learning import LEARNING, Distillation
from edgemm.compress.teach import answer_in_units_of_, schedule_of
from edgemm.compress.trainer import train_
from edgemm.data import Dataset
from edgemm.models.inherit import build_student
from edgemm.models.model import Model
from edgemm.models.store import load_model, save_model
from edgemm.recipe import DistillConfig, StudentSection
from edgemm.runtime.errors import ModelError
from edgemm.stage import Context, Inputs


def run(
    config: DistillConfig,
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    student: StudentSection,
    dataset: Dataset,
    family: str,
    seed: int,
    threads: int,
    factories: Collection[str] = (),
) -> None:
    """Build the student, distil it from ``inputs["teacher"]``, and save it in ``out``.

    Args:
        factories: the Python factories that the teacher may come from; see ``load_model``.

    Raises:
        ModelError: a section that contradicts itself, embeddings of different widths, a fusion or head that nothing
            teaches, a loss that is not finite.
        DataError: samples that can't be paired or read.
    """
    torch.set_num_threads(threads)
    teacher = load_model(inputs["teacher"].path, factories=factories)
    model = build_student(
        student,
        teacher,
        family=family,
        texts=sorted({*dataset.all_texts(), *(s.text for s in dataset.unlabelled if s.text is not None)}),
        seed=seed,
        say=lambda line: context.progress.say(f"distill: {line}"),
    )
    answer_in_units_of_(model, dataset)
    if config.epochs:
        objective = distillation(model, teacher, config, dataset=dataset, seed=seed, context=context)
        train_(
            objective,
            schedule_of(config),
            samples=len(objective.corpus),
            seed=seed,
            scratch=context.scratch,
            progress=context.progress,
            title="distill",
        )
    save_model(model, out)


def distillation(
    student: Model, teacher: Model, config: DistillConfig, *, dataset: Dataset, seed: int, context: Context
) -> Distillation:
    """The objective that distils ``student`` from ``teacher`` on split ``train``; the student is trained in place.

    Args:
        context: the teacher's outputs are looked up in, or added to, its cache.
    """
    teacher.requires_grad_(False).eval()
    for part in student.chain:
        part.module.requires_grad_(part.role != "frontend")
    if set(student.inputs) != set(teacher.inputs):
        raise ModelError(
            f"distill: the student takes {list(student.inputs)}, the teacher {list(teacher.inputs)}; expected the same"
        )
    if student.labels != teacher.labels:
        raise ModelError(
            f"distill: the student's {len(student.labels)} classes and the teacher's {len(teacher.labels)} are not the "
            "same in the same order; build the student from this teacher"
        )
    distilling = LEARNING[student.family].distilling
    with torch.random.fork_rng(devices=[]):  # what the losses draw for themselves depends on the seed alone
        torch.manual_seed(seed)
        return distilling(student, teacher, config, dataset=dataset, seed=seed, context=context)
