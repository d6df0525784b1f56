"""The sections of what follows training: capture, quantize, measure, pack; the targets and their budget."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgemm.recipe.section import Section, known_in, listed
from edgemm.runtime.engines import ENGINES, PORTABLE


class CaptureConfig(Section):
    """Export each part as one ONNX graph and hold it against the part it came from."""

    samples: int = Field(16, ge=1, description="Real samples on which each graph is compared with its part.")
    max_abs_error: float = Field(
        1e-4,
        gt=0,
        description="Largest difference that passes, relative to the largest output; beyond it is an error. For images "
        "longer than 419 pixels it is the side / 2^22: float32 knows no better where a resize reads.",
    )


class QuantizeConfig(Section):
    """Static int8 with explicit Q/DQ, per-channel weights, calibrated on real samples."""

    samples: int = Field(128, ge=1, description="Training samples that activations are calibrated on.")
    method: Literal["minmax", "percentile", "mse"] = Field("mse", description="How ranges are chosen.")
    percentile: float = Field(99.99, gt=50, le=100, description="For 'percentile': share of values kept, per cent.")
    bias_correction: bool = Field(True, description="Undo the mean error that rounding weights causes.")
    reduce_range: bool = Field(
        False, description="7-bit weights: x86 CPUs without VNNI multiply them faster, 8-bit ones slower."
    )
    keep_float: tuple[str, ...] = Field(
        (), description="Layers that stay in float32, by the name of their weight or of their output."
    )
    rollback: bool = Field(
        True, description="Keep float32 arithmetic (stored as int8) in parts where int8 is slower on this machine."
    )


class MeasureConfig(Section):
    """How long and on what every model is measured."""

    seconds: float = Field(
        2.0, gt=0, description="Time given to each model's requests, end to end; half of it to its parts."
    )
    runs: int = Field(64, ge=10, description="Fewest timed runs of each model; p90 needs 64, p99 needs 662.")
    cold_starts: int = Field(3, ge=1, le=50, description="Fresh processes in which each model is started.")
    blame: bool = Field(
        False, description="Say what each part costs, also where int8 loses nothing that the samples can show."
    )
    prompts: tuple[Annotated[str, Field(pattern=r"\{\}")], ...] = Field(
        (),
        description="For a dual encoder with text: sentences with {} for a label, by which images and sounds are told "
        'apart unseen ("a photo of a {}"); empty: not measured.',
    )
    examples: int = Field(6, ge=0, le=50, description="Evaluation samples shown in the report with their answers.")


class PackConfig(Section):
    """What goes into the bundle beside the graphs."""

    golden: int = Field(4, ge=1, le=64, description="Raw samples whose outputs the bundle can be verified with.")
    gallery: Literal["none", "image", "text", "audio"] = Field(
        "image", description="For a dual encoder: which modality of every label is embedded and shipped to search in."
    )
    gallery_encoder: Literal["bundle", "teacher"] = Field(
        "bundle",
        description="What embeds the gallery: the bundle itself, or the teacher, which costs the device nothing.",
    )
    gallery_splits: tuple[str, ...] = Field((), description="Splits whose labels make the gallery; empty: all.")
    raw_measurements: bool = Field(
        False,
        description="Ship the raw samples of every measurement, not their summary; they lie beside the bundle anyway.",
    )
    licence: str = Field("", description="Licence notes for the data and weights that the bundle derives from.")


EngineName = Annotated[str, AfterValidator(known_in(ENGINES)), Field(json_schema_extra=listed(ENGINES))]
"""A name in ``ENGINES``."""


class TargetConfig(Section):
    """Where the bundle will run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the target in the bundle and in tables.")
    engine: EngineName = Field(PORTABLE, description="What executes the graphs.")
    precision: Literal["float32", "float16", "int8"] = Field(
        "int8", description="Precision of weights and activations."
    )
    threads: int = Field(0, ge=0, le=64, description="CPU threads of the engine; 0 leaves it to the engine.")
    compute_capability: str | None = Field(
        None, pattern=r"^\d+\.\d$", description="For TensorRT: the GPU generation to build for, '8.6' (SM86), '8.9'."
    )


class BudgetConfig(Section):
    """What the bundle's first target that runs here must keep within; the run says so at the end where it does not."""

    latency_ms: float | None = Field(
        None, gt=0, description="Largest p50 latency of a request end to end, milliseconds."
    )
    size_bytes: int | None = Field(
        None, ge=1, description="Largest size of what ships for the target, gallery included, bytes."
    )
    drop: float | None = Field(None, ge=0, description="Largest loss of the task metric against the teacher, points.")
