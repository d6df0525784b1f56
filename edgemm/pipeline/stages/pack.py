"""Stage pack: the bundle that ships: the draft with its measurements and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import portable
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.stage import Context, Inputs


def planned(job: Job) -> PlannedStage:
    """Return its place in a recipe."""
    recipe = job.recipe
    measured = "measure" in recipe.stages
    provenance = {
        "edgemm": __version__,
        "recipe": portable(recipe),
        "data": job.dataset.digest,
        "licence": recipe.pack.licence,
    }
    return PlannedStage(
        "pack",
        "pack",
        {"draft": "draft", **({"measured": "measure"} if measured else {})},
        {"name": recipe.name, "provenance": provenance},
        partial(run, provenance=provenance, raw_measurements=recipe.pack.raw_measurements),
        makes=f"the whole bundle, its zip{' and raw measurements' if measured else ''}",
    )


def run(
    inputs: Inputs,
    out: Path,
    context: Context,  # noqa: ARG001  every stage is given it
    *,
    provenance: Mapping[str, Any],
    raw_measurements: bool,
) -> None:
    """Add ``inputs["measured"]``, where it is given, and ``provenance`` to ``inputs["draft"]``."""
    from edgemm.pipeline.pack import finish

    measured = inputs.get("measured")
    raw = measured.path / "measurements.jsonl" if measured else None
    finish(
        inputs["draft"].path,
        out,
        measurements=raw,
        summary=None if raw is None or raw_measurements else _summary(raw),
        provenance={**provenance, "artifacts": {role: a.digest for role, a in inputs.items()}},
    )


def _summary(raw: Path) -> dict[str, Any]:
    """Return what a bundle carries of its measurements: the end table with its intervals, and where they were taken."""
    from edgemm.measure.measurement import read_measurements
    from edgemm.measure.table import rows
    from edgemm.pipeline.json_answers import rows_as_json

    found = read_measurements(raw)
    return {
        "environments": [dict(environment.facts) for environment in found.environments.values()],
        "rows": rows_as_json(rows(found)),
    }
