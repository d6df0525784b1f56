"""Stage prune: the student with less of it, taught once more."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import portable
from edgemm.pipeline.launch import threads_each
from edgemm.pipeline.libraries import TRAINING
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.pipeline.stages.distill import students_code
from edgemm.recipe import DistillConfig, PruneConfig
from edgemm.stage import Context, Inputs


def planned(job: Job) -> PlannedStage:
    """Return its place in a recipe."""
    recipe = job.recipe
    return PlannedStage(
        "prune",
        "prune",
        {"teacher": "teach", "student": "distill"},
        {**job.distilling, "distill": portable(recipe.distill), "prune": portable(recipe.prune)},
        partial(
            run,
            config=recipe.prune,
            recovery=recipe.distill,
            dataset=job.dataset,
            seed=recipe.seed,
            threads=recipe.threads,
            factories=recipe.factories,
        ),
        libraries=TRAINING,
        own_code=students_code(job),
        collective=True,
        makes="the student with channels removed, recovered",
    )


def run(
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    config: PruneConfig,
    recovery: DistillConfig,
    dataset: Dataset,
    seed: int,
    threads: int,
    factories: Collection[str],
) -> None:
    """Prune ``inputs["student"]``, recover it from ``inputs["teacher"]``, and save it in ``out``."""
    from edgemm.compress import prune
    from edgemm.compress.training import Training

    training = Training(dataset, context, seed, threads_each(threads))
    teacher, student = (inputs[role].path for role in ("teacher", "student"))
    prune.run(config, training, out, teacher=teacher, student=student, distill=recovery, factories=factories)
