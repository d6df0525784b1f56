"""Stage report: ``report.html`` of the measurements and of what ships."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edgemm.pipeline.job import Job
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.stage import Context, Inputs


def planned(job: Job) -> PlannedStage:
    """Return its place in a recipe."""
    recipe = job.recipe
    provenance = {"data": job.dataset.digest, "licence": recipe.pack.licence}
    return PlannedStage(
        "report",
        "pack",
        {"bundle": "pack", "measured": "measure"},
        {"family": recipe.family, "name": recipe.name},
        partial(run, name=recipe.name, family=recipe.family, provenance=provenance),
        libraries=("matplotlib", "jinja2"),
        makes="report.html",
    )


def run(
    inputs: Inputs,
    out: Path,
    context: Context,  # noqa: ARG001  every stage is given it
    *,
    name: str,
    family: str,
    provenance: Mapping[str, Any],
) -> None:
    """Draw ``inputs["measured"]`` for the bundle of ``inputs["bundle"]``."""
    from edgemm.measure.examples import read_examples
    from edgemm.measure.measurement import read_measurements
    from edgemm.measure.table import rows
    from edgemm.report.page import write_report
    from edgemm.runtime.archive import open_archive

    measured = inputs["measured"].path
    measurements = read_measurements(measured / "measurements.jsonl")
    write_report(
        out / "report.html",
        title=name,
        family=family,
        rows=rows(measurements),
        measurements=measurements,
        examples=read_examples(measured),
        provenance=provenance,
        ships=open_archive(inputs["bundle"].path / "bundle").manifest,
        raw="measurements.jsonl",
    )
