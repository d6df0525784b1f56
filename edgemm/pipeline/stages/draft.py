"""Stage draft: what ships but for the measurements: every target's files, golden samples, gallery."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import machine, own_engines, portable
from edgemm.pipeline.libraries import DEVICE, engines_of
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import PackConfig, TargetConfig
from edgemm.runtime.engines import compiles
from edgemm.stage import Context, Inputs


def planned(job: Job, graphs: str) -> PlannedStage:
    """Return its place in a recipe, behind the node ``graphs``."""
    recipe = job.recipe
    return PlannedStage(
        "draft",
        "measure" if "measure" in recipe.stages else "pack",
        {"graphs": graphs, **({"teacher": "capture:teacher"} if job.teachers_gallery else {})},
        {
            "name": recipe.name,
            "pack": portable(recipe.pack),
            "targets": [portable(target) for target in recipe.targets],
            "data": job.data,
            # plans answer where their GPU is, and then there are golden samples of them
            "machine": machine() if any(compiles(t.engine) for t in recipe.targets) else None,
        },
        partial(run, name=recipe.name, config=recipe.pack, targets=recipe.targets, dataset=job.dataset),
        libraries=(*DEVICE, *engines_of(recipe.targets)),
        own_code=own_engines(recipe.targets),
        makes="the bundle, with golden samples, before measuring",
    )


def run(
    inputs: Inputs, out: Path, context: Context, *, name: str, config: PackConfig, targets: Sequence[TargetConfig],
    dataset: Dataset,
) -> None:  # fmt: skip
    """Join the targets of ``inputs["graphs"]`` in one bundle; ``inputs["teacher"]``, if given, embeds the gallery."""
    from edgemm.pipeline.pack import Source, assemble
    from edgemm.runtime.archive import open_archive

    folder = inputs["graphs"].path
    known = {target.name for target in open_archive(folder).manifest.targets}
    sources = [
        Source(target.name, folder, target.name if target.name in known else "cpu-float32", target.threads)
        for target in targets
    ]
    assemble(
        name,
        sources,
        out,
        config=config,
        dataset=dataset,
        encoder=inputs["teacher"].path if "teacher" in inputs else None,
        progress=context.progress,
    )
