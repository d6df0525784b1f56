"""The data's section: where samples come from."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from edgemm.recipe.data_kinds import OWN, kinds_listed_, known_kind
from edgemm.recipe.section import MAY_NAME_CODE, LocalPath, Section


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] >= pair[1]:
        raise ValueError("expected the smaller number first")
    return pair


def _finite(options: dict[str, Any]) -> dict[str, Any]:
    try:
        json.dumps(options, allow_nan=False)
    except ValueError:
        raise ValueError("expected finite numbers") from None
    return options


class DataConfig(Section):
    """Where samples come from, and which splits are held out."""

    kind: Annotated[str, AfterValidator(known_kind), MAY_NAME_CODE] = Field(json_schema_extra=kinds_listed_)
    root: LocalPath | None = Field(
        None,
        description="the .csv, .jsonl or .parquet file of table, the folder of folder or datasets; of a reader of your "
        "own what it takes",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="table and datasets: image, text, audio, label, labels, value, group, cluster, synonyms, split or "
        "a tensor's name -> the data's column; datasets: `a.b` is b inside a",
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
        default_factory=dict,
        description='datasets: split -> files, with wildcards ("shards/train-*.tar"); of a reader of your own the '
        "further files that it takes, by names of its own",
    )
    splits: dict[str, str] = Field(
        default_factory=dict, description="datasets: our split -> the data's; empty: as they are called there"
    )
    options: Annotated[dict[str, Any], AfterValidator(_finite)] = Field(
        default_factory=dict, description="what a reader of your own takes beside this, by the names of its parameters"
    )
    grey_range: Annotated[tuple[float, float], AfterValidator(_rising)] | None = Field(
        None,
        description="what becomes black and white of grey images with more than 8 bits a sample ([0, 4095] of 12 bits "
        "in 16; signed, 32-bit and floating-point images need it); none: 0 and the white of the file's bits",
    )
    shown_groups: tuple[str, ...] = Field(
        (),
        description="groups whose pictures and sounds may be shown in reports and shipped in bundles; empty: all, or "
        "those that a reader of your own names",
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

    @property
    def own_reader(self) -> str | None:
        """``module:function`` of the user's own that reads the data; None where a reader of edgemm's does."""
        return self.kind.removeprefix(OWN) if self.kind.startswith(OWN) else None
