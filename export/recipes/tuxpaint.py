"""Tux Paint's stamps: pictures, their names, and the names spoken by people in a dozen languages (GPL-2).

They come as Debian's package ``tuxpaint-stamps-default``; ``data.root`` is its folder ``usr/share/tuxpaint/stamps``:

    <category>/.../frog.png            the picture
    <category>/.../frog.txt            its name: English in the first line, then ``es.utf8=Una rana.``
    <category>/.../frog_desc_es.ogg    the name, spoken in Spanish; ``frog_desc.ogg`` in English
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgemm.data import Dataset, Sample, root_of
from edgemm.data.dataset import UNLABELLED, distinct_labels, held_out, texts_of
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError

Language = Annotated[str, Field(pattern=r"^[A-Za-z_]+$")]
_CLIP = re.compile(r"_desc(?:_([A-Za-z]{2,3}(?:_[A-Z]{2})?))?\.(?:ogg|wav)$")


_FOLDER = (
    "the folder usr/share/tuxpaint/stamps of Debian's package tuxpaint-stamps-default "
    "(apt-get download tuxpaint-stamps-default; dpkg -x FILE FOLDER)"
)


def tuxpaint(
    config: DataConfig,
    *,
    language: Language = "es",
    unlabelled_languages: tuple[Language, ...] = (),
    label: Literal["concept", "category"] = "concept",
    unseen_fraction: Annotated[float, Field(gt=0, lt=0.5)] = 0.12,
) -> Dataset:
    """Splits ``train`` and ``unseen``, the latter of concepts never trained on.

    A sample is one stamp: its picture, its English name, and the name spoken in a language where somebody spoke it. The
    concept is the name: stamps that share one are in the same split. Stamps without a PNG (drawn as SVG only) or
    without a name are left out.

    Args:
        config: whose ``root`` is the folder.
        language: of the spoken names.
        unlabelled_languages: in which the spoken names of training concepts are the split ``unlabelled``.
        label: what is told apart: the concepts, with the category as group, or the 16 categories.
        unseen_fraction: share of the concepts that is held out.

    Raises:
        DataError: a folder that holds no stamps, or a language in which nobody spoke.
    """
    if not (root := root_of(config, _FOLDER)).is_dir():
        raise DataError(f"data.root: got {config.root}, expected {_FOLDER}")
    pictures = sorted(path for path in root.glob("*/**/*.png") if path.is_file())
    languages = [language, *unlabelled_languages] if pictures else []
    if twice := next((each for each in languages if languages.count(each) > 1), None):
        raise DataError(
            f"data.options.unlabelled_languages: '{twice}' is named twice, or is data.options.language; take it out"
        )
    spoken, *others = [
        _spoken(root, spoken_in, key="unlabelled_languages" if place else "language")
        for place, spoken_in in enumerate(languages)
    ] or [{}]
    splits: dict[str, list[Sample]] = {"train": [], "unseen": []}
    heard: list[Sample] = []
    nameless = 0
    for path in pictures:
        stem, category = path.with_suffix(""), path.relative_to(root).parts[0]
        concept = _name(path.with_suffix(".txt"))
        if not concept:
            nameless += 1  # a mirrored picture of another stamp
            continue
        unseen = held_out(f"tuxpaint/{concept}", unseen_fraction)
        if not unseen:
            clips = [clips[str(stem)] for clips in others if str(stem) in clips]
            heard += [Sample(f"{stem.relative_to(root)}-{clip.name}", audio=clip) for clip in clips]
        splits["unseen" if unseen else "train"].append(
            Sample(
                str(stem.relative_to(root)),
                image=path,
                text=concept,
                audio=spoken.get(str(stem)),
                label=category if label == "category" else concept,
                group=category,
            )
        )
    if not splits["train"] or not splits["unseen"]:
        raise DataError(f"{root}: not enough stamps; expected <category>/.../<name>.png and .txt in it")
    drawn = sum(not path.with_suffix(".png").exists() for path in root.rglob("*.svg"))
    left_out = ((drawn, "stamps that are SVG only"), (nameless, "stamps without a name"))
    if heard:
        splits[UNLABELLED] = heard
    return Dataset(
        splits,
        labels=distinct_labels(splits["train"]),
        evaluate=("unseen",),
        texts=texts_of(splits["train"]) if label == "concept" else {},
        broken=tuple(f"{count} {what}" for count, what in left_out if count),
    )


def _spoken(root: Path, language: str, *, key: str) -> dict[str, Path]:
    """Stem of a stamp -> its name spoken in a language. Raises DataError where nobody spoke it."""
    suffix = "_desc" if language == "en" else f"_desc_{language}"
    found = [path for ending in ("wav", "ogg") for path in root.rglob(f"*{suffix}.{ending}")]  # ogg wins
    if not found:
        languages = sorted({_language(path) for ending in ("ogg", "wav") for path in root.rglob(f"*_desc*.{ending}")})
        raise DataError(f"data.options.{key}: nobody spoke '{language}'; there are {', '.join(languages)}")
    return {_CLIP.sub("", str(path)): path for path in found}


def _language(path: Path) -> str:
    match = _CLIP.search(path.name)
    return (match[1] or "en") if match else "en"


def _name(path: Path) -> str:
    """``"A frog."`` to ``"A frog"``; empty without the file."""
    if not path.is_file():
        return ""
    first = path.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return " ".join(first.split()).rstrip(". ")
