"""Work: what each stage of a recipe does, in the layer below.

Layers below are imported inside, so that a run in which everything is cached never loads torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgemm.data import Dataset, Sample
from edgemm.data.batches import covering_samples
from edgemm.pipeline.facts import portable
from edgemm.pipeline.launch import threads_each
from edgemm.pipeline.pack import Source, assemble, finish
from edgemm.recipe import Recipe, TargetConfig
from edgemm.runtime.errors import ModelError, QuantizeError
from edgemm.runtime.manifest import PLAN_ENGINES
from edgemm.stage import Context, Inputs

if TYPE_CHECKING:
    from edgemm.runtime.manifest import TargetEntry


REFUSED = "refused.txt"
"""What a stage leaves instead of a bundle that only compares: why there is none."""


class Work:
    """A recipe and its data, and what every stage does with them."""

    def __init__(self, recipe: Recipe, dataset: Dataset) -> None:
        self.recipe, self.dataset = recipe, dataset

    def _check_student(self) -> None:
        """Raise ModelError where weights that the student names don't fit it: before a day of teaching."""
        from edgemm.models.towers import tower_of

        for modality, tower in self.recipe.student.towers.items():
            if tower.weights:
                try:
                    tower_of(modality, tower, smaller=True, texts=self.dataset.all_texts())
                except ModelError as error:
                    raise ModelError(f"student.{modality}: {error}") from error

    @property
    def teachers_gallery(self) -> bool:
        """Whether the teacher embeds what a device searches in."""
        return self.recipe.pack.gallery_encoder == "teacher"

    @property
    def shipped(self) -> str:
        """Name of what ships in the tables, if it becomes what was asked for."""
        return "int8" if self.recipe.targets[0].precision == "int8" else "bundle"

    def _shared(self) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "dataset": self.dataset,
            "family": recipe.family,
            "seed": recipe.seed,
            "threads": threads_each(recipe.threads),
        }

    def teach(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The teacher: from its parts, or as it comes."""
        from edgemm.compress import teach

        if "distill" in self.recipe.stages:
            self._check_student()
        teach.run(
            self.recipe.teach,
            inputs,
            out,
            context,
            teacher=self.recipe.teacher,
            task=self.recipe.task,
            **self._shared(),
        )

    def distill(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The student, taught by the teacher."""
        from edgemm.compress import distill

        recipe = self.recipe
        distill.run(
            recipe.distill,
            inputs,
            out,
            context,
            student=recipe.student,
            factories=recipe.factories,
            **self._shared(),
        )

    def prune(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The student with less of it, taught once more."""
        from edgemm.compress import prune

        recipe, shared = self.recipe, self._shared()
        del shared["family"]
        prune.run(recipe.prune, inputs, out, context, distill=recipe.distill, factories=recipe.factories, **shared)

    def capture(self, inputs: Inputs, out: Path, context: Context) -> None:
        """A float32 bundle: an ONNX graph for each part of the model."""
        import torch

        from edgemm.data.batches import raw_value_stream
        from edgemm.graph.capture import capture_model
        from edgemm.models.store import load_model

        torch.set_num_threads(self.recipe.threads)
        model = load_model(inputs["model"].path, factories=self.recipe.factories)
        config = self.recipe.capture
        capture_model(
            model,
            list(raw_value_stream(self.dataset.split("train"), model, limit=config.samples)),
            out,
            name=self.recipe.name,
            context=context,
            max_abs_error=config.max_abs_error,
        )

    def quantize(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The bundle with graphs as the targets' engines want them."""
        self._quantize(inputs["bundle"].path, out, context, self.recipe.targets, self.recipe.quantize.keep_float)

    @property
    def int8_target(self) -> TargetConfig | None:
        """The first target that is int8 and runs graphs, which the teacher is quantized for as well; None without."""
        return next((t for t in self.recipe.targets if t.precision == "int8" and t.engine not in PLAN_ENGINES), None)

    def quantize_teacher(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The teacher quantized as what ships is, and nothing else done to it.

        It is there to compare with: a teacher that can't be quantized leaves a folder that says why, and no bundle.
        """
        assert self.int8_target is not None
        try:  # the layers to keep are the student's
            self._quantize(inputs["bundle"].path, out, context, [self.int8_target], ())
        except QuantizeError as error:
            context.progress.say(f"the teacher can't be quantized, so no row shows what that alone would give: {error}")
            (out / REFUSED).write_text(f"{error}\n", encoding="utf-8")

    def _quantize(
        self, bundle: Path, out: Path, context: Context, targets: Sequence[TargetConfig], keep_float: Sequence[str]
    ) -> None:
        from edgemm.graph.bundle import quantize_bundle
        from edgemm.graph.quantize import Quantization

        config = self.recipe.quantize
        quantize_bundle(
            bundle,
            self._raw_values(bundle),
            out,
            targets=[target_entry(target) for target in targets],
            context=context,
            config=Quantization(
                method=config.method,
                percentile=config.percentile,
                bias_correction=config.bias_correction,
                reduce_range=config.reduce_range,
                keep_float=frozenset(keep_float),
            ),
            rollback=config.rollback,
            samples=len(self._calibration_samples),
        )

    @property
    def _calibration_samples(self) -> list[Sample]:
        limit = self.recipe.quantize.samples
        samples = self.dataset.split("train")
        modalities = self.recipe.modalities or samples[0].modalities()
        return covering_samples(samples, modalities, limit)

    def _raw_values(self, bundle: Path) -> Iterator[Mapping[str, Any]]:
        """Training samples as the bundle's raw values, one at a time."""
        from edgemm.runtime.bundle import Bundle

        opened = Bundle.open(bundle)
        for sample in self._calibration_samples:
            raws = {m: sample.raw(m) for m in opened.manifest.inputs}
            yield opened.values(**{m: raw for m, raw in raws.items() if raw is not None})

    def build(self, inputs: Inputs, out: Path, context: Context) -> None:
        """The bundle with an engine for each TensorRT target."""
        from edgemm.graph.build import build_bundle

        capabilities = {t.name: t.compute_capability for t in self.recipe.targets if t.compute_capability is not None}
        build_bundle(inputs["bundle"].path, out, compute_capabilities=capabilities, context=context)

    def draft(self, inputs: Inputs, out: Path, context: Context) -> None:
        """What ships but for the measurements: every target's files, golden samples, gallery."""
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

    def measure(self, inputs: Inputs, out: Path, context: Context) -> None:
        """Measurements of every captured model and of the draft."""
        from edgemm.measure.stage import measure_bundles
        from edgemm.runtime.archive import open_archive

        dataset = self.dataset
        variants = {
            role: artifact.path
            for role, artifact in inputs.items()
            if role != "draft" and not (artifact.path / REFUSED).exists()
        }
        draft = inputs["draft"].path
        # int8 that was rolled back is measured, but not under that name
        shipped = "bundle" if open_archive(draft).manifest.targets[0].precision == "float32" else self.shipped
        measure_bundles(
            {**variants, shipped: draft},
            splits={name: dataset.split(name) for name in dataset.evaluate},
            config=self.recipe.measure,
            out=out,
            context=context,
            threads=self.recipe.targets[0].threads,
            shown_groups=dataset.shown_groups,
            checksums=dataset.checksums,
            pairs=dataset.pairs,
            gallery_encoder="teacher" if self.teachers_gallery else None,
        )

    def provenance(self) -> dict[str, Any]:
        """Where the bundle comes from: the recipe without paths, the data's digest, licences."""
        from edgemm import __version__

        recipe = self.recipe
        return {
            "edgemm": __version__,
            "recipe": portable(recipe),
            "data": self.dataset.digest,
            "licence": recipe.pack.licence,
        }

    def pack(self, inputs: Inputs, out: Path, context: Context) -> None:  # noqa: ARG002
        """The draft with the measurements and where it comes from."""
        measured = inputs.get("measured")
        raw = measured.path / "measurements.jsonl" if measured else None
        finish(
            inputs["draft"].path,
            out,
            measurements=raw,
            summary=None if raw is None or self.recipe.pack.raw_measurements else measured_summary(raw),
            provenance={**self.provenance(), "artifacts": {role: a.digest for role, a in inputs.items()}},
        )

    def report(self, inputs: Inputs, out: Path, context: Context) -> None:  # noqa: ARG002
        """``report.html`` of the measurements and of what ships."""
        from edgemm.measure.examples import read_examples
        from edgemm.measure.measurement import read_measurements
        from edgemm.measure.table import rows
        from edgemm.report.page import write_report
        from edgemm.runtime.archive import open_archive

        measured = inputs["measured"].path
        measurements = read_measurements(measured / "measurements.jsonl")
        write_report(
            out / "report.html",
            title=self.recipe.name,
            family=self.recipe.family,
            rows=rows(measurements),
            measurements=measurements,
            examples=read_examples(measured),
            provenance={"data": self.dataset.digest, "licence": self.recipe.pack.licence},
            ships=open_archive(inputs["bundle"].path / "bundle").manifest,
            raw="measurements.jsonl",
        )


def measured_summary(raw: Path) -> dict[str, Any]:
    """What a bundle carries of its measurements: the end table with its intervals, and where they were taken."""
    from edgemm.measure.measurement import read_measurements
    from edgemm.measure.table import rows
    from edgemm.pipeline.answers import rows_as_json

    found = read_measurements(raw)
    return {
        "environments": [dict(environment.facts) for environment in found.environments.values()],
        "rows": rows_as_json(rows(found)),
    }


def target_entry(target: TargetConfig) -> TargetEntry:
    """A recipe's target as a bundle's, whose files a stage fills in."""
    from edgemm.runtime.manifest import TargetEntry

    return TargetEntry(target.name, target.engine, target.precision, {}, target.threads)
