"""Small recipes of every family, taken through the whole corridor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgemm.data import Dataset
from edgemm.measure.measurement import Measurement, read_measurements
from edgemm.pipeline.planned_stage import PlannedStage, run_stages
from edgemm.pipeline.runs import running
from edgemm.pipeline.stages import planned_stages
from edgemm.pipeline.store import Store
from edgemm.recipe import Recipe
from edgemm.runtime.bundle import Bundle
from edgemm.stage import Silent

CONV = {"stem": 8, "blocks": [1, 1], "channels": [8, 16], "features": 24}
SHORT = {"epochs": 4, "batch": 16, "learning_rate": 4e-3}
WORDS = {"max_tokens": 8}
CALIBRATED = {"samples": 8, "rollback": False}  # what is raced takes a while


def recipe_of(family: str, text: Path, modalities: tuple[str, ...], *, tokens: bool = False, **more: Any) -> Recipe:
    output = {"output": "tokens"} if tokens else {}
    towers: dict[str, Any] = {
        "image": {"input_size": 32, **CONV, **output},
        "text": {"weights": f"folder:{text}", **WORDS},
        "audio": {"sample_rate": 8000, "longest_s": 0.4, "mels": 32, **CONV, **output},
        "sensor": {"shape": [8], "hidden": [16], "features": 16},
    }
    model: dict[str, Any] = {name: towers[name] for name in modalities if name != "sensor"}
    if "sensor" in modalities:
        model["tensors"] = {"sensor": towers["sensor"]}
    fusion = more.pop("fusion", {})
    model |= {"embed_dim": 16, "head_hidden": 16, "fusion": {"width": 16, "heads": 2, "layers": 1, **fusion}}
    student = {
        **model,
        **(
            {"text": {"layers": 1, "width": 16, "heads": 2, "ffn": 16, "vocabulary": "trimmed", **WORDS}}
            if "text" in model
            else {}
        ),
    }
    values = {
        "name": "small",
        "family": family,
        "threads": 1,
        "data": {"kind": "table", "root": "none", "tensors": ["sensor"]},
        "teacher": model,
        "student": student,
        "teach": {**SHORT, "freeze": "none", **more.pop("teach", {})},
        "distill": {**SHORT, **more.pop("distill", {})},
        "prune": {"ratios": more.pop("prune", {"image": 0.3}), "epochs": 1, "batch": 16},
        "measure": {"seconds": 0.05, "runs": 10, "cold_starts": 1},
        "capture": {"samples": 3},
        "quantize": {"samples": 8},
        "pack": {"golden": 2, "gallery": more.pop("gallery", "image")},
        "targets": [{"name": "cpu-int8", "threads": 1}],
        **more,
    }
    return Recipe.model_validate(values)


def corridor(recipe: Recipe, dataset: Dataset, folder: Path) -> tuple[Bundle, Bundle | None]:
    """The bundle that ships, and the teacher's captured one where it is measured."""
    store = Store(folder / "store")
    with running(store, recipe.name, recipe="test", overrides=()) as run:
        nodes = without_comparison(planned_stages(recipe, dataset))
        made = run_stages(nodes, store=store, run=run, progress=Silent())
    teacher = Bundle.open(made["capture:teacher"].artifact.path) if "capture:teacher" in made else None
    return Bundle.open(made["pack"].artifact.path / "bundle"), teacher


def without_comparison(nodes: list[PlannedStage]) -> list[PlannedStage]:
    """The stages without the teacher's own int8, which a whole run has: it is the same for every architecture."""
    return [
        replace(node, inputs={role: name for role, name in node.inputs.items() if name != "quantize:teacher"})
        for node in nodes
        if node.name != "quantize:teacher"
    ]


def measurements(bundle: Bundle) -> list[Measurement]:
    return list(read_measurements(bundle.archive.path.parent / "measurements.jsonl").measurements)


def raws(dataset: Dataset, modalities: tuple[str, ...]) -> dict[str, Any]:
    samples = dataset.split("test")
    return {m: [s.raw(m) for s in samples] for m in modalities}
