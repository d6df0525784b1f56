"""Emoji identities: every emoji is one, the vendors' art its pictures; verification as with faces, without faces."""

from __future__ import annotations

from dataclasses import replace

from edgemm.data import Dataset, Sample
from edgemm.data.dataset import distinct_labels
from edgemm.recipe import DataConfig
from emoji_art import SHOWN_VENDORS, Fraction, concepts


def emoji_identities(_: DataConfig, *, unseen_fraction: Fraction = 0.12) -> Dataset:
    """Splits ``train`` and ``unseen-identities``, which share no identity.

    A sample is a picture alone: label is the identity, group the vendor. Identities with one picture are left out:
    they make no pair.

    Raises:
        DataError: a package that isn't installed.
    """
    splits: dict[str, list[Sample]] = {"train": [], "unseen-identities": []}
    for concept in concepts():
        if len(concept.art) > 1:
            split = "unseen-identities" if concept.is_held_out(unseen_fraction) else "train"
            splits[split].extend(replace(sample, text=None) for _, sample in concept.samples())
    return Dataset(
        splits, labels=distinct_labels(splits["train"]), evaluate=("unseen-identities",), shown_groups=SHOWN_VENDORS
    )
