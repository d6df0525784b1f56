"""Training rows: a split as arrays, where each distinct file and text stands once and samples are rows of them.

Three thousand questions about three hundred radiographs need three hundred images decoded and encoded, and a concept
with five names and six pictures is thirty pairs that nobody has to list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from edgemm.compress.outputs import learnt
from edgemm.data import Dataset, Sample
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Answer, Classes


@dataclass(frozen=True)
class Corpus:
    """The samples of one split, N of them.

    Args:
        texts: distinct texts: of the samples, other names of their concepts, and ``extra`` ones at the end.
        files: modality (image, audio, a tensor's name) -> its distinct files; ``sha256`` of each.
        rows: modality -> (N,) int64 into its files, or of ``"text"`` into the texts; -1 where a sample has none.
        alternatives: modality -> (N, M) int64 that may stand for a sample as well (a text's: other names of its
            concept), its own first, the first repeated where there are fewer; and (N,) int64, how many of a row are
            real.
        concept: (N,) int64, equal where two samples mean the same.
        label: (N,) int64 index into the labels; -1 where there is none.
        truth: (N, labels) float32 of zeros and ones (multi-label), or (N, 1) the quantity (regression).
        extra: number of texts at the end that belong to no sample.
        unlabelled: number of samples at the end whose truth isn't known.
    """

    texts: tuple[str, ...]
    concept: Tensor
    label: Tensor
    files: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    sha256: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    alternatives: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    truth: Tensor | None = None
    extra: int = 0
    unlabelled: int = 0

    def __len__(self) -> int:
        return len(self.concept)

    @property
    def where(self) -> str:
        """What an error calls the samples: ``"split 'train'"``."""
        return "splits 'train' and 'unlabelled'" if self.unlabelled else "split 'train'"

    def known(self, rows: Tensor) -> Tensor:
        """(B,) bool: of which samples the truth is known: their class, or else all that is right, or the quantity."""
        return self.label[rows] >= 0 if self.truth is None else rows < len(self) - self.unlabelled

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that any sample has."""
        return tuple(self.rows)

    def present(self, modality: str, rows: Tensor) -> Tensor:
        """(B,) bool: which of the samples have that modality."""
        return self.rows[modality][rows] >= 0 if modality in self.rows else torch.zeros(len(rows), dtype=torch.bool)

    def choose(self, modality: str, rows: Tensor, generator: torch.Generator | None) -> Tensor:
        """Choose one item for each sample: of alternatives its own in half the draws, else any of them.

        Without a generator always the sample's own. What stands for a sample without the modality means nothing.

        Returns:
            (B,) int64 for (B,) samples.
        """
        own = self.rows[modality][rows].clamp(min=0)
        if generator is None or modality not in self.alternatives:
            return own
        others, counts = self.alternatives[modality]
        drawn = (torch.rand(len(rows), generator=generator) * counts[rows]).long()
        keep = torch.rand(len(rows), generator=generator) < 0.5
        return torch.where(keep, own, others[rows, drawn])

    def require(self, modalities: Iterable[str], *, stage: str) -> None:
        """Raise DataError where a sample lacks one of ``modalities``, saying how many have it."""
        everything = torch.arange(len(self))
        for modality in modalities:
            count = int(self.present(modality, everything).sum())
            if count < len(self):
                raise DataError(
                    f"{stage}: {count} of {len(self)} samples of {self.where} have '{modality}'; expected all, or "
                    'fusion.missing = "placeholder" in teacher and student'
                )


def corpus_of(
    dataset: Dataset,
    split: str = "train",
    *,
    answer: Answer | None = None,
    extra_texts: Sequence[str] = (),
    unlabelled: bool = False,
    names: bool = False,
) -> Corpus:
    """Return the corpus of a split.

    Args:
        names: with all other texts of a sample's label for each.
        unlabelled: with the dataset's unlabelled samples after the split's.
        answer: what a model answers, with its classes in its own order; None of one that does not.

    Raises:
        DataError: a sample without the value, or with the labels of another task than this; or none with any.
    """
    more = dataset.unlabelled if unlabelled else []
    samples = [*dataset.split(split), *more]
    modalities = dict.fromkeys(m for s in samples for m in s.modalities() if not isinstance(s.raw(m), str))
    files: dict[str, dict[Path, int]] = {modality: {} for modality in modalities}
    for sample in samples:
        for modality, known in files.items():
            if (path := sample.file(modality)) is not None:
                known.setdefault(path, len(known))
    said: list[list[str]] = []
    for sample in samples:
        others = dataset.texts.get(sample.label, ()) if names and sample.label is not None else ()
        said.append([] if sample.text is None else list(dict.fromkeys([sample.text, *others])))
    texts = {text: row for row, text in enumerate(dict.fromkeys(text for own in said for text in own))}
    extra = [text for text in dict.fromkeys(extra_texts) if text not in texts]
    most = max((len(own) for own in said), default=0)
    if isinstance(answer, Classes) and not answer.labels:
        answer = replace(answer, labels=dataset.labels)
    labels = answer.labels if isinstance(answer, Classes) else dataset.labels
    classes = {label: index for index, label in enumerate(labels)}
    concepts: dict[tuple[str, str], int] = {}
    keys = [_meaning(sample) for sample in samples]
    padded = [[texts[t] for t in own] + [texts[own[0]] if own else 0] * (most - len(own)) for own in said]
    rows = {m: torch.tensor([_row(known, s.file(m)) for s in samples]) for m, known in files.items()}
    if texts:
        rows["text"] = torch.tensor([texts[own[0]] if own else -1 for own in said])
    return Corpus(
        texts=(*texts, *extra),
        concept=torch.tensor([concepts.setdefault(key, len(concepts)) for key in keys]),
        label=torch.tensor([classes.get(s.label, -1) if s.label is not None else -1 for s in samples]),
        files={m: tuple(known) for m, known in files.items()},
        sha256={m: tuple(dataset.checksums[path] for path in known) for m, known in files.items()},
        rows=rows,
        alternatives={"text": (torch.tensor(padded), torch.tensor([len(own) for own in said]))} if texts else {},
        truth=_truth(dataset.split(split), split, answer, more=len(more)),
        extra=len(extra),
        unlabelled=len(more),
    )


def _meaning(sample: Sample) -> tuple[str, str]:
    """Return what a sample means: its label, or what it says, which may be another's label; or nothing but itself."""
    meaning = sample.label if sample.label is not None else sample.text
    return ("id", sample.id) if meaning is None else ("meaning", meaning)


def _row(known: Mapping[Path, int], path: Path | None) -> int:
    return -1 if path is None else known[path]


def _truth(samples: Sequence[Sample], split: str, answer: Answer | None, *, more: int) -> Tensor | None:
    """With ``more`` rows at the end of which nothing is known."""
    truth = None if answer is None else learnt(answer).truth(samples, split)
    return None if truth is None else torch.cat((truth, truth.new_zeros(more, *truth.shape[1:])))


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
