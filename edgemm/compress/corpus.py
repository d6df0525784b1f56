"""Corpus: a split as arrays, where each distinct image and text stands once and samples are rows of both.

Three thousand questions about three hundred radiographs need three hundred images decoded and encoded, and a concept
with five names and six pictures is thirty pairs that nobody has to list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from edgemm.data import Dataset
from edgemm.runtime.errors import DataError


@dataclass(frozen=True)
class Corpus:
    """The samples of one split, N of them.

    Args:
        images: distinct image files; ``image_sha256`` of each.
        texts: distinct texts: of the samples, other names of their concepts, and ``extra`` ones at the end.
        image_row: (N,) int64 into ``images``; None where samples have no image.
        names: (N, M) int64 into ``texts``: a sample's own text, then other names of its concept, the first repeated
            where there are fewer; None where samples have no text.
        name_counts: (N,) int64, how many of a row are real.
        concept: (N,) int64, equal where two samples mean the same.
        label: (N,) int64 index into the dataset's labels; -1 where there is none.
        extra: number of texts at the end that belong to no sample.
    """

    images: tuple[Path, ...]
    image_sha256: tuple[str, ...]
    texts: tuple[str, ...]
    image_row: Tensor | None
    names: Tensor | None
    name_counts: Tensor | None
    concept: Tensor
    label: Tensor
    extra: int = 0

    def __len__(self) -> int:
        return len(self.concept)

    def choose_texts(self, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """One text row for each sample: its own in half the draws, else any of its names; (B,) to (B,) int64.

        Without a generator always the sample's own.
        """
        assert self.names is not None
        assert self.name_counts is not None
        if generator is None:
            return self.names[rows, 0]
        counts = self.name_counts[rows]
        drawn = (torch.rand(len(rows), generator=generator) * counts).long()
        own = torch.rand(len(rows), generator=generator) < 0.5
        return self.names[rows, torch.where(own, torch.zeros_like(drawn), drawn)]


def corpus_of(dataset: Dataset, split: str = "train", *, extra_texts: Sequence[str] = ()) -> Corpus:
    """The corpus of a split.

    Raises:
        DataError: some samples have an image (or a text) and some have none.
    """
    samples = dataset.split(split)
    with_image = sum(s.image is not None for s in samples)
    with_text = sum(s.text is not None for s in samples)
    for what, count in (("an image", with_image), ("a text", with_text)):
        if count not in (0, len(samples)):
            raise DataError(f"split '{split}': {count} of {len(samples)} samples have {what}; expected all or none")
    images = {path: row for row, path in enumerate(dict.fromkeys(s.image for s in samples if s.image is not None))}
    names: list[list[str]] = []
    for sample in samples:
        if sample.text is not None:
            others = dataset.texts.get(sample.label, ()) if sample.label is not None else ()
            names.append(list(dict.fromkeys([sample.text, *others])))
    texts = {text: row for row, text in enumerate(dict.fromkeys(text for own in names for text in own))}
    extra = [text for text in dict.fromkeys(extra_texts) if text not in texts]
    most = max((len(own) for own in names), default=0)
    classes = {label: index for index, label in enumerate(dataset.labels)}
    concepts: dict[str, int] = {}
    keys = [s.label if s.label is not None else (s.text if s.text is not None else s.id) for s in samples]
    return Corpus(
        images=tuple(images),
        image_sha256=tuple(dataset.checksums[path] for path in images),
        texts=(*texts, *extra),
        image_row=torch.tensor([images[s.image] for s in samples if s.image is not None]) if images else None,
        names=torch.tensor([[texts[t] for t in own + own[:1] * (most - len(own))] for own in names]) if texts else None,
        name_counts=torch.tensor([len(own) for own in names]) if texts else None,
        concept=torch.tensor([concepts.setdefault(key, len(concepts)) for key in keys]),
        label=torch.tensor([classes.get(s.label, -1) if s.label is not None else -1 for s in samples]),
        extra=len(extra),
    )


def made_up_texts(
    words: Sequence[str], templates: Sequence[str], *, count: int, seed: int, without: Iterable[str]
) -> list[str]:
    """``count`` strings for distilling a text tower, for which no label is needed: the teacher embeds anything.

    Each word once; then, in turn, a template with one of its words exchanged and a random run of two or three words.

    Args:
        words: a tokenizer's whole words, the common ones first.
        templates: texts that are trained on anyway.
        without: strings that must not be among them (the names that a model is evaluated on).
    """
    banned = set(without)
    found = [word for word in words if word not in banned][:count]
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    while words and len(found) < count:
        if templates and len(found) % 2:
            made = templates[draw(len(templates))].split()
            made[draw(len(made))] = words[draw(len(words))]
        else:
            made = [words[draw(len(words))] for _ in range(2 + draw(2))]
        if (text := " ".join(made)) not in banned:
            found.append(text)
    return found
