"""Stage measure: latency, accuracy and size of every captured model and of the draft."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.measure.table import INT8_ONLY
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import dataset_facts, machine, own_engines, portable
from edgemm.pipeline.libraries import ALL_ENGINES, DEVICE
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.pipeline.stages.quantize import REFUSED
from edgemm.recipe import MeasureConfig
from edgemm.stage import Context, Inputs


def planned(job: Job, graphs: Sequence[str]) -> PlannedStage:
    """Return its place in a recipe, behind the nodes ``graphs`` and the draft."""
    recipe = job.recipe
    captured = {
        INT8_ONLY if name == "quantize:teacher" else name.partition(":")[2]: name for name in graphs if ":" in name
    }
    return PlannedStage(
        "measure",
        "measure",
        {**captured, "draft": "draft"},
        {
            "measure": portable(recipe.measure),
            "shipped": job.shipped,
            "gallery": recipe.pack.gallery_encoder,
            "data": dataset_facts(job.dataset, pairs=True),
            "machine": machine(),
        },
        partial(
            run,
            config=recipe.measure,
            dataset=job.dataset,
            threads=recipe.targets[0].threads,
            shipped=job.shipped,
            gallery_encoder="teacher" if job.teachers_gallery else None,
        ),
        libraries=(*DEVICE, *ALL_ENGINES),
        own_code=own_engines(recipe.targets),
        makes="latency, accuracy and size of every model",
    )


def run(
    inputs: Inputs, out: Path, context: Context, *, config: MeasureConfig, dataset: Dataset, threads: int, shipped: str,
    gallery_encoder: str | None,
) -> None:  # fmt: skip
    """Measure every bundle of ``inputs`` under the name of its role, and the draft under the name ``shipped``."""
    from edgemm.measure.stage import measure_bundles
    from edgemm.runtime.archive import open_archive

    variants = {
        role: artifact.path
        for role, artifact in inputs.items()
        if role != "draft" and not (artifact.path / REFUSED).exists()
    }
    draft = inputs["draft"].path
    # int8 that was rolled back is measured, but not under that name
    name = "bundle" if open_archive(draft).manifest.targets[0].precision == "float32" else shipped
    measure_bundles(
        {**variants, name: draft},
        splits={split: dataset.split(split) for split in dataset.evaluate},
        config=config,
        out=out,
        context=context,
        threads=threads,
        shown_groups=dataset.shown_groups,
        checksums=dataset.checksums,
        pairs=dataset.pairs,
        gallery_encoder=gallery_encoder,
    )
