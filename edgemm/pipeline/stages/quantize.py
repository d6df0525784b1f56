"""Stage quantize: graphs as the targets' engines want them; and the teacher quantized alone, to compare with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgemm.data import Dataset, Sample
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import machine, own_engines, portable
from edgemm.pipeline.libraries import GRAPH, engines_of
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import QuantizeConfig, TargetConfig
from edgemm.runtime.errors import QuantizeError
from edgemm.runtime.manifest import TargetEntry
from edgemm.stage import Context, Inputs

REFUSED = "refused.txt"
"""What a stage leaves instead of a bundle that only compares: why there is none."""


def planned(job: Job, graphs: str) -> PlannedStage:
    """Return its place in a recipe, behind the node ``graphs``."""
    return PlannedStage(
        "quantize",
        "quantize",
        {"bundle": graphs},
        _config(job, job.recipe.quantize, job.recipe.targets),
        partial(run, **_given(job, job.recipe.quantize, job.recipe.targets)),
        libraries=(*GRAPH, *_raced(job, job.recipe.targets)),
        own_code=own_engines(job.recipe.targets),
        makes="graphs written for the targets' engines",
    )


def planned_for_teacher(job: Job, teacher: str) -> PlannedStage:
    """Return the place of the teacher's own quantization, behind the node ``teacher``."""
    assert job.int8_target is not None
    targets = [job.int8_target]
    config = job.recipe.quantize.model_copy(update={"keep_float": ()})  # the layers to keep in float are the student's
    return PlannedStage(
        "quantize:teacher",
        "quantize",
        {"bundle": teacher},
        _config(job, config, targets),
        partial(run_or_say_why, **_given(job, config, targets)),
        libraries=(*GRAPH, *_raced(job, targets)),
        own_code=own_engines(targets),
        makes="the teacher quantized and nothing else, to compare with",
    )


def _config(job: Job, config: QuantizeConfig, targets: Sequence[TargetConfig]) -> dict[str, Any]:
    return {
        "quantize": portable(config),
        "targets": [portable(target) for target in targets],
        "data": job.data,
        # what is rolled back was slower on this machine, and may not be on another
        "machine": machine() if config.rollback else None,
    }


def _given(job: Job, config: QuantizeConfig, targets: Sequence[TargetConfig]) -> dict[str, Any]:
    return {"config": config, "targets": targets, "dataset": job.dataset, "modalities": job.recipe.modalities}


def _raced(job: Job, targets: Sequence[TargetConfig]) -> set[str]:
    return engines_of(targets) - set(GRAPH) if job.recipe.quantize.rollback else set()


def run(
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    config: QuantizeConfig,
    targets: Sequence[TargetConfig],
    dataset: Dataset,
    modalities: Sequence[str],
) -> None:
    """Quantize ``inputs["bundle"]`` for ``targets``, calibrated on training samples."""
    from edgemm.graph.bundle import quantize_bundle
    from edgemm.graph.quantize import Quantization

    bundle = inputs["bundle"].path
    samples = _calibration_samples(dataset, modalities, config.samples)
    quantize_bundle(
        bundle,
        _raw_values(bundle, samples),
        out,
        targets=[TargetEntry(target.name, target.engine, target.precision, {}, target.threads) for target in targets],
        context=context,
        config=Quantization(
            method=config.method,
            percentile=config.percentile,
            bias_correction=config.bias_correction,
            reduce_range=config.reduce_range,
            keep_float=frozenset(config.keep_float),
        ),
        rollback=config.rollback,
        samples=len(samples),
    )


def run_or_say_why(inputs: Inputs, out: Path, context: Context, **given: Any) -> None:
    """Quantize as ``run`` does; a model that can't be quantized leaves a folder that says why, and no bundle."""
    try:
        run(inputs, out, context, **given)
    except QuantizeError as error:
        context.progress.say(f"the teacher can't be quantized, so no row shows what that alone would give: {error}")
        (out / REFUSED).write_text(f"{error}\n", encoding="utf-8")


def _calibration_samples(dataset: Dataset, modalities: Sequence[str], limit: int) -> list[Sample]:
    from edgemm.data.batches import covering_samples

    samples = dataset.split("train")
    return covering_samples(samples, modalities or samples[0].modalities(), limit)


def _raw_values(bundle: Path, samples: Sequence[Sample]) -> Iterator[Mapping[str, Any]]:
    """Samples as the bundle's raw values, one at a time."""
    from edgemm.runtime.bundle import Bundle

    opened = Bundle.open(bundle)
    for sample in samples:
        raws = {m: sample.raw(m) for m in opened.manifest.inputs}
        yield opened.values(**{m: raw for m, raw in raws.items() if raw is not None})
