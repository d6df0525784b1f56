"""Stage distill: a student that starts from its teacher's weights and learns from its teacher's cached outputs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from edgemm.compress.family_objectives import Distillation, distilling_of
from edgemm.compress.teach import answer_in_units_of_, schedule_of
from edgemm.compress.trainer import train_
from edgemm.compress.training import Training
from edgemm.models.inherit import build_student
from edgemm.models.model import Model
from edgemm.models.store import load_model, save_model
from edgemm.recipe import DistillConfig, StudentSection
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes


def run(
    config: DistillConfig,
    training: Training,
    out: Path,
    *,
    teacher: Path,
    student: StudentSection,
    family: str,
    factories: Collection[str] = (),
) -> None:
    """Build the student, distil it from the model in the folder ``teacher``, and save it in ``out``.

    Args:
        factories: the Python factories that the teacher may come from; see ``load_model``.

    Raises:
        ModelError: a section that contradicts itself, embeddings of different widths, a fusion or head that nothing
            teaches, a loss that is not finite.
        DataError: samples that can't be paired or read.
    """
    training.set_threads()
    dataset, progress = training.dataset, training.context.progress
    loaded = load_model(teacher, factories=factories)
    model = build_student(
        student,
        loaded,
        family=family,
        texts=sorted({*dataset.all_texts(), *(s.text for s in dataset.unlabelled if s.text is not None)}),
        seed=training.seed,
        say=lambda line: progress.say(f"distill: {line}"),
    )
    answer_in_units_of_(model, dataset)
    if config.epochs:
        objective = distillation(model, loaded, config, training)
        train_(
            objective,
            schedule_of(config),
            samples=len(objective.corpus),
            seed=training.seed,
            scratch=training.context.scratch,
            progress=progress,
            title="distill",
        )
    save_model(model, out)


def distillation(student: Model, teacher: Model, config: DistillConfig, training: Training) -> Distillation:
    """The objective that distils ``student`` from ``teacher`` on split ``train``; the student is trained in place.

    The teacher's outputs are looked up in, or added to, the context's cache.
    """
    teacher.requires_grad_(False).eval()
    for part in student.chain:
        part.module.requires_grad_(part.role != "frontend")
    if set(student.inputs) != set(teacher.inputs):
        raise ModelError(
            f"distill: the student takes {list(student.inputs)}, the teacher {list(teacher.inputs)}; expected the same"
        )
    for name, ours in student.outputs.items():
        theirs = teacher.outputs.get(name)
        if isinstance(ours, Classes) and isinstance(theirs, Classes) and ours.labels != theirs.labels:
            raise ModelError(
                f"distill: the student's {len(ours.labels)} classes and the teacher's {len(theirs.labels)} are not the "
                "same in the same order; build the student from this teacher"
            )
    distilling = distilling_of(student.family)
    with torch.random.fork_rng(devices=[]):  # what the losses draw for themselves depends on the seed alone
        torch.manual_seed(training.seed)
        return distilling(student, teacher, config, training)
