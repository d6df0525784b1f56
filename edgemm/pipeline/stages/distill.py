"""Stage distill: the student, taught by the teacher."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import own_code, portable
from edgemm.pipeline.launch import threads_each
from edgemm.pipeline.libraries import TRAINING
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import DistillConfig, StudentSection
from edgemm.stage import Context, Inputs


def planned(job: Job) -> PlannedStage:
    """Return its place in a recipe."""
    recipe = job.recipe
    return PlannedStage(
        "distill",
        "distill",
        {"teacher": "teach"},
        {**job.distilling, "student": portable(recipe.student), "distill": portable(recipe.distill)},
        partial(
            run,
            section=recipe.student,
            config=recipe.distill,
            dataset=job.dataset,
            family=recipe.family,
            seed=recipe.seed,
            threads=recipe.threads,
            factories=recipe.factories,
        ),
        libraries=TRAINING,
        own_code=students_code(job),
        collective=True,
        makes="a student that answers like the teacher",
    )


def students_code(job: Job) -> list[list[str]]:
    """Return the user's own code that a student is made of, its teacher's included."""
    recipe = job.recipe
    distilled = own_code(recipe.family, recipe.student, recipe.distill) if "distill" in recipe.stages else []
    return [*own_code(recipe.family, recipe.teacher), *distilled]


def run(
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    section: StudentSection,
    config: DistillConfig,
    dataset: Dataset,
    family: str,
    seed: int,
    threads: int,
    factories: Collection[str],
) -> None:
    """Distil ``inputs["teacher"]`` into a student and save it in ``out``."""
    from edgemm.compress import distill
    from edgemm.compress.training import Training

    training = Training(dataset, context, seed, threads_each(threads))
    distill.run(
        config, training, out, teacher=inputs["teacher"].path, student=section, family=family, factories=factories
    )
