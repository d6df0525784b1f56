"""Dataset: named splits of samples, with a digest of everything that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from pathlib import Path

from edgemm.runtime.errors import DataError

UNLABELLED = "unlabelled"


OWN = ("image", "text", "audio")  # the modalities that are fields of a sample; others are tensors


@dataclass(frozen=True, slots=True)
class Sample:
    """One example; a modality that it lacks is None.

    Args:
        tensors: modality of its own name -> a ``.npy`` file of one sample (a sensor's vector, precomputed features).
        label: a class, a concept or an identity.
        labels: every class that is right (multi-label).
        value: the quantity to predict (regression).
        group: a slice that is also reported alone.
        cluster: samples of one are not independent of each other (a patient's, a speaker's), so the intervals of
            answers draw them together; None: those of one file.
        synonyms: other texts that name ``label``, beside ``text``.
    """

    id: str
    image: Path | None = None
    text: str | None = None
    audio: Path | None = None
    tensors: Mapping[str, Path] = field(default_factory=dict)
    label: str | None = None
    labels: tuple[str, ...] = ()
    value: float | None = None
    group: str | None = None
    cluster: str | None = None
    synonyms: tuple[str, ...] = ()

    def modalities(self) -> tuple[str, ...]:
        """Return names of those that it has."""
        known = {"image": self.image, "text": self.text, "audio": self.audio, **self.tensors}
        return tuple(name for name, raw in known.items() if raw is not None)

    def file(self, modality: str) -> Path | None:
        """Return the file of a modality other than text; None where the sample lacks it."""
        return {"image": self.image, "audio": self.audio}.get(modality) or self.tensors.get(modality)

    def raw(self, modality: str) -> Path | str | None:
        """Return the raw form of one modality: a file, or a string; None where the sample lacks it."""
        return getattr(self, modality) if modality in OWN else self.tensors.get(modality)

    def drawn_with(self) -> str:
        """What the bootstrap draws whole: ``cluster:`` the sample's, else ``file:`` its own, else ``id:`` itself."""
        if self.cluster is not None:
            return f"cluster:{self.cluster}"
        file = self.image or self.audio or next(iter(self.tensors.values()), None)
        return f"id:{self.id}" if file is None else f"file:{file}"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples of one split that verification compares.

    Args:
        a, b: ids.
        same: whether they are of one identity.
        fold: the part of a cross-validation that the pair is in.
    """

    a: str
    b: str
    same: bool
    fold: str | None = None


@dataclass(frozen=True)
class Dataset:
    """Splits of samples.

    Args:
        splits: name -> samples, in a fixed order; ``train`` is the one to learn from. Those of ``unlabelled`` need no
            truth: only the student learns from them, by what the teacher makes of them.
        labels: distinct labels of the train split, sorted: the classes of a classifier.
        texts: label -> every text that names it, the first being the usual one: what a retriever is trained on, so
            nothing of a sample that is held back.
        evaluate: the splits to measure on.
        broken: one line for each sample, each kind of them, or each column that was left out.
        shown_groups: groups whose images and sounds may be shown in reports and shipped in bundles; empty: all.
        pairs: split -> the pairs that verification compares; of a split without, all.
        grey_range: what becomes black and white of grey images with more than 8 bits; None: the file's bits say.
    """

    splits: Mapping[str, list[Sample]]
    labels: tuple[str, ...]
    evaluate: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    shown_groups: tuple[str, ...] = ()
    checksums: Mapping[Path, str] = field(default_factory=dict)  # sha256 of every file, from opening
    pairs: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    grey_range: tuple[float, float] | None = None

    @cached_property
    def digest(self) -> str:
        """sha256 of splits, texts, pairs and file contents; paths don't count."""
        rows = {
            split: [
                [s.id, self.checksums.get(s.image) if s.image else None, s.text,
                 self.checksums.get(s.audio) if s.audio else None, s.label, s.group, s.cluster, list(s.labels), s.value,
                 {name: self.checksums.get(path) for name, path in sorted(s.tensors.items())}]
                for s in samples
            ]
            for split, samples in self.splits.items()
        }  # fmt: skip
        content: list[object] = [rows, self.labels, {k: list(v) for k, v in self.texts.items()}, list(self.evaluate)]
        if self.pairs:
            content.append({split: [astuple(pair) for pair in pairs] for split, pairs in self.pairs.items()})
        if self.grey_range is not None:
            content.append({"grey_range": self.grey_range})
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def split(self, name: str) -> list[Sample]:
        """Return the samples of a split. Raises DataError naming the ones there are."""
        if name not in self.splits:
            raise DataError(f"no split '{name}' in the data; there are {', '.join(self.splits)}")
        return self.splits[name]

    @property
    def unlabelled(self) -> list[Sample]:
        """Samples that only distilling sees; none where the data has no such split."""
        return self.splits.get(UNLABELLED, [])

    def all_texts(self, split: str = "train") -> list[str]:
        """Return every distinct text of a split, other names of its labels included, sorted."""
        samples = self.split(split)
        found = {s.text for s in samples if s.text is not None}
        for label in {s.label for s in samples if s.label is not None}:
            found.update(self.texts.get(label, ()))
        return sorted(found)


def strided_samples(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """Return at most ``limit`` samples, evenly spread, so that few of them still hold every vendor and answer."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def from_splits(splits: Mapping[str, list[Sample]]) -> Dataset:
    """A dataset of which the samples say all: labels of ``train``, texts of labels, every other split to measure on.

    Whatever stands beside unlabelled samples (a folder's name, say) is not taken for their label.
    """
    bare = [replace(sample, label=None, labels=(), value=None, synonyms=()) for sample in splits.get(UNLABELLED, ())]
    splits = {**splits, UNLABELLED: bare} if bare else splits
    return Dataset(
        splits,
        labels=distinct_labels(splits["train"]),
        evaluate=tuple(name for name in splits if name not in ("train", UNLABELLED)) or ("train",),
        texts=texts_of(splits["train"]),
    )


def distinct_labels(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Sorted distinct labels, those of ``labels`` among them."""
    single = {s.label for s in samples if s.label is not None}
    return tuple(sorted(single.union(*(s.labels for s in samples))))


def unique_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts without repetition, in their first order."""
    return tuple(dict.fromkeys(texts))


def texts_of(samples: Iterable[Sample]) -> dict[str, tuple[str, ...]]:
    """Label -> every text of its samples and every synonym that they give, for ``Dataset.texts``."""
    found: dict[str, list[str]] = {}
    for sample in samples:
        texts = [*([] if sample.text is None else [sample.text]), *sample.synonyms]
        if sample.label is not None and texts:
            found.setdefault(sample.label, []).extend(texts)
    return {label: unique_texts(texts) for label, texts in found.items()}


def held_out(concept: str, fraction: float) -> bool:
    """Return whether a concept is kept from training: by its own hash, not by how many or which others there are."""
    return int.from_bytes(hashlib.sha256(concept.encode()).digest()[:8], "big") < fraction * 2**64
