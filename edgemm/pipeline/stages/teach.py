"""Stage teach: the teacher, from its parts or as it comes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import own_code, portable
from edgemm.pipeline.launch import threads_each
from edgemm.pipeline.libraries import TRAINING
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import StudentSection, Task, TeachConfig, TeacherSection
from edgemm.runtime.errors import ModelError
from edgemm.stage import Context, Inputs


def planned(job: Job) -> PlannedStage:
    """Return its place in a recipe."""
    recipe = job.recipe
    return PlannedStage(
        "teach",
        "teach",
        {},
        {**job.training, "teacher": portable(recipe.teacher), "teach": portable(recipe.teach)},
        partial(
            run,
            section=recipe.teacher,
            config=recipe.teach,
            dataset=job.dataset,
            family=recipe.family,
            task=recipe.task,
            seed=recipe.seed,
            threads=recipe.threads,
            student=recipe.student if "distill" in recipe.stages else None,
        ),
        libraries=TRAINING,
        own_code=own_code(recipe.family, recipe.teacher),
        collective=True,
        makes="the teacher",
    )


def run(
    inputs: Inputs,  # noqa: ARG001  every stage is given them
    out: Path,
    context: Context,
    *,
    section: TeacherSection,
    config: TeachConfig,
    dataset: Dataset,
    family: str,
    task: Task,
    seed: int,
    threads: int,
    student: StudentSection | None = None,
) -> None:
    """Make the teacher and save it in ``out``.

    Args:
        student: whose weights are to fit, which shows before a day of teaching.
    """
    from edgemm.compress import teach
    from edgemm.compress.training import Training

    if student is not None:
        _check_weights(student, dataset)
    training = Training(dataset, context, seed, threads_each(threads))
    teach.run(config, training, out, teacher=section, family=family, task=task)


def _check_weights(student: StudentSection, dataset: Dataset) -> None:
    """Raise ModelError where weights that the student names don't fit it."""
    from edgemm.models.towers import tower_of

    for modality, tower in student.towers.items():
        if tower.weights:
            try:
                tower_of(modality, tower, smaller=True, texts=dataset.all_texts())
            except ModelError as error:
                raise ModelError(f"student.{modality}: {error}") from error
