"""Stage build: the bundle with an engine for each target that compiles its graphs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import own_engines, portable
from edgemm.pipeline.libraries import engines_of
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import TargetConfig
from edgemm.runtime.engines import compiles
from edgemm.stage import Context, Inputs


def targets(job: Job) -> list[TargetConfig]:
    """Return the targets that it builds for."""
    return [target for target in job.recipe.targets if compiles(target.engine)]


def planned(job: Job, graphs: str) -> PlannedStage:
    """Return its place in a recipe, behind the node ``graphs``."""
    found = targets(job)
    capabilities = {t.name: t.compute_capability for t in found if t.compute_capability is not None}
    return PlannedStage(
        "build",
        "build",
        {"bundle": graphs},
        {"targets": [portable(target) for target in found]},
        partial(run, compute_capabilities=capabilities),
        libraries=("numpy", "onnx-ir", *engines_of(found)),
        own_code=own_engines(found),
        makes=f"engines for {', '.join(target.name for target in found)}",
    )


def run(inputs: Inputs, out: Path, context: Context, *, compute_capabilities: Mapping[str, str]) -> None:
    """Build ``inputs["bundle"]`` for the compute capability of each target, by name."""
    from edgemm.graph.build import build_bundle

    build_bundle(inputs["bundle"].path, out, compute_capabilities=compute_capabilities, context=context)
