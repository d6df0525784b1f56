"""Opening: the reader that a recipe names, and what holds for the samples of every reader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.call_reader import read
from edgemm.data.check import checked
from edgemm.data.dataset import UNLABELLED, Dataset, distinct_labels, strided_samples, texts_of
from edgemm.data.pairs import with_pairs
from edgemm.data.splits import find_split
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from edgemm.stage import Progress, Silent


def open_dataset(
    config: DataConfig, *, cache: Path, progress: Progress | None = None, recipe: Path | None = None
) -> Dataset:
    """Open and check the data that a recipe names.

    Every file is read once: images by their framing, sounds and tensors whole, so that a broken one shows before a day
    of training. A sample may lack modalities, but not all of them.

    Args:
        cache: a folder; bytes that have no file of their own are kept in ``<cache>/files``.
        progress: told how far a long reading is.
        recipe: the file that the section is of, for messages that name a key of it.

    Raises:
        DataError: data that isn't there, more than ``max_broken`` broken samples, or pairs that are none of its.
        StoreError: the cache can't be written.
    """
    broken, progress = Broken(config.max_broken), progress or Silent()
    try:
        dataset = read(config, cache=cache.absolute(), broken=broken, progress=progress)
    except DataError as error:
        if recipe is None or not str(error).startswith("data."):
            raise
        raise DataError(f"{recipe}: {error}") from error
    if config.grey_range is not None:
        dataset = replace(dataset, grey_range=config.grey_range)
    if config.shown_groups:
        dataset = replace(dataset, shown_groups=_groups(config.shown_groups, dataset))
    if config.limit is not None:
        dataset = _limited(dataset, config.limit)
    if config.evaluate:
        evaluate = tuple(dict.fromkeys(find_split(name, tuple(dataset.splits)) for name in config.evaluate))
        if UNLABELLED in evaluate:
            raise DataError(f"data.evaluate: '{UNLABELLED}' has no labels to measure on")
        dataset = replace(dataset, evaluate=evaluate)
    return with_pairs(checked(dataset, broken=broken, progress=progress), config)


def _groups(names: Sequence[str], dataset: Dataset) -> tuple[str, ...]:
    """Return the groups ``names``. Raises DataError for one that no sample is of."""
    known = sorted({s.group for samples in dataset.splits.values() for s in samples if s.group is not None})
    if unknown := next((name for name in names if name not in known), None):
        there = f"there are {', '.join(known)}" if known else "the samples have none"
        raise DataError(f"data.shown_groups: no sample is of group '{unknown}'; {there}")
    return tuple(names)


def _limited(dataset: Dataset, limit: int) -> Dataset:
    """Return an even stride over every split, so that a limit keeps the mix of vendors and answers.

    Labels and texts that were the samples' are those of what is left.
    """
    whole = dataset.splits
    splits = {name: strided_samples(samples, limit) for name, samples in whole.items()}
    dataset = replace(dataset, splits=splits)
    if dataset.labels == distinct_labels(whole["train"]):
        dataset = replace(dataset, labels=distinct_labels(splits["train"]))
    return replace(dataset, texts=texts_of(splits["train"])) if dataset.texts == texts_of(whole["train"]) else dataset
