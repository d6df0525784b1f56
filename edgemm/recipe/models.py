"""The models' sections: the towers of teacher and student, and what joins them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from edgemm.recipe.fusions import FusionMode
from edgemm.recipe.section import Count, LocalPath, Positive, Section
from edgemm.recipe.towers import AudioKind, ImageKind, TensorKind


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

    kind: ImageKind = "efficientnet-lite"
    weights: LocalPath | None = Field(
        None,
        description="'package:efficientnet-lite0', 'file:PATH' (its .pth or .safetensors), 'hf:NAME_OR_FOLDER' (ViT, "
        "ResNet, ConvNeXt, MobileViT, ...; sizes and frontend are its own), 'python:module:factory', or none: random",
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

    kind: AudioKind = "audio-cnn"
    weights: LocalPath | None = Field(
        None,
        description="'package:whisper-tiny-en', 'hf:NAME_OR_FOLDER' (Whisper, AST, wav2vec2, HuBERT; sizes and "
        "frontend are its own), 'python:module:factory', or none: random",
    )
    sample_rate: int = Field(16000, ge=1000, le=192000, description="Hz; sounds of other rates are resampled")
    longest_s: float = Field(3.0, gt=0, le=60, description="seconds that the tower sees; the rest of a sound is cut")
    mels: int = Field(64, ge=8, le=256, description="filters of the log-mel frontend")


class TextTower(Section):
    """A BERT-like text encoder and its tokenizer."""

    weights: LocalPath | None = Field(
        None,
        description="'package:minilm-l6', 'folder:PATH' or 'hf:NAME_OR_FOLDER' of a BERT (config.json, weights in "
        "safetensors, a tokenizer), which pools as its folder says; 'python:module:factory', or none",
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
    """An encoder of numbers as they are: a sensor's vector, features, a series of those, frames."""

    kind: TensorKind = "tensor-mlp"
    weights: LocalPath | None = Field(None, description="'python:module:factory', or none: random")
    shape: tuple[Count, ...] = Field(
        min_length=1,
        max_length=4,
        description="[width] of a vector, [steps, width] of a series; [frames, height, width, channels] of frames-cnn",
    )
    hidden: tuple[Count, ...] = Field(
        (128,), description="widths of the layers with ReLU, at each step of a series; channels over each frame"
    )
    features: int = Field(128, ge=4, description="width of what it makes")
    output: Literal["pooled", "tokens"] = Field(
        "pooled", description="one vector (the mean over steps or frames), or one for each (for attention)"
    )


class Fusion(Section):
    """How the modalities become one vector, or one decision."""

    mode: FusionMode = "hadamard"
    width: int = Field(512, ge=8, description="width that every side is projected to")
    heads: int = Field(8, ge=1, description="attention heads (cross-attention, early)")
    layers: int = Field(2, ge=1, le=24, description="transformer layers (early)")
    query: str = Field("text", description="modality that looks at the others (cross-attention)")
    concat: bool = Field(False, description="append the projections to their product (hadamard)")
    norm: bool = Field(False, description="LayerNorm on every side's features first (modes of pooled features)")
    missing: Literal["error", "placeholder"] = Field(
        "error",
        description="a modality that is not given: an error, or a learnt placeholder takes its features' place, "
        "which the training stages' modality_dropout teaches",
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

    @property
    def factories(self) -> tuple[str, ...]:
        """``module:factory`` of Python code that makes towers of it."""
        return _factories(tower.weights for tower in self.towers.values())


def _factories(sources: Iterable[str | None]) -> tuple[str, ...]:
    return tuple(source.removeprefix("python:") for source in sources if source and source.startswith("python:"))


class TeacherSection(ModelSection):
    """The teacher: a trained model from outside, or parts that the teach stage trains."""

    source: LocalPath | None = Field(
        None, description="'hf:NAME_OR_FOLDER', 'folder:PATH', 'python:module:factory'; none: the towers below"
    )

    @property
    def factories(self) -> tuple[str, ...]:
        """``module:factory`` of Python code that makes the model or towers of it."""
        return super().factories if self.source is None else _factories([self.source])


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
