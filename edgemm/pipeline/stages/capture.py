"""Stage capture: a float32 bundle, with an ONNX graph for each part of a model."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from pathlib import Path

from edgemm.data import Dataset
from edgemm.pipeline.job import Job
from edgemm.pipeline.key_inputs import portable
from edgemm.pipeline.libraries import EXPORT
from edgemm.pipeline.planned_stage import PlannedStage
from edgemm.recipe import CaptureConfig
from edgemm.stage import Context, Inputs

NAMES = {"teach": "teacher", "distill": "student", "prune": "pruned"}
"""Stage that makes a model -> the model's name in tables and nodes."""


def planned(job: Job, model: PlannedStage) -> PlannedStage:
    """Return its place in a recipe, behind the stage that makes ``model``."""
    recipe, name = job.recipe, NAMES[model.name]
    return PlannedStage(
        f"capture:{name}",
        "capture",
        {"model": model.name},
        {"capture": portable(recipe.capture), "data": job.data, "name": recipe.name},
        partial(
            run,
            config=recipe.capture,
            dataset=job.dataset,
            name=recipe.name,
            threads=recipe.threads,
            factories=recipe.factories,
        ),
        libraries=EXPORT,
        own_code=model.own_code,  # other code, maybe with the same weights
        makes=f"an ONNX graph for each part of the {'pruned student' if name == 'pruned' else name}",
    )


def run(
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    config: CaptureConfig,
    dataset: Dataset,
    name: str,
    threads: int,
    factories: Collection[str],
) -> None:
    """Capture ``inputs["model"]`` on a few training samples."""
    import torch

    from edgemm.data.batches import raw_value_stream
    from edgemm.graph.capture import capture_model
    from edgemm.models.store import load_model

    torch.set_num_threads(threads)
    model = load_model(inputs["model"].path, factories=factories)
    capture_model(
        model,
        list(raw_value_stream(dataset.split("train"), model, limit=config.samples)),
        out,
        name=name,
        context=context,
        max_abs_error=config.max_abs_error,
    )
