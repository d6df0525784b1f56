"""Check: every sample's files are read once; broken ones are left out and told by name, up to the limit."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample
from edgemm.data.image import check_image
from edgemm.data.sound import check_sound
from edgemm.data.tensor import check_tensor
from edgemm.runtime.errors import DataError
from edgemm.stage import Progress


def checked(dataset: Dataset, *, broken: Broken, progress: Progress) -> Dataset:
    """The dataset without its broken samples, with the sha256 of every file.

    Raises:
        DataError: more broken samples than allowed, or a split, or a class to learn, of which nothing is left.
    """
    files = _Files()
    splits: dict[str, list[Sample]] = {}
    notes: list[str] = []
    with progress.task("checking the data", total=sum(map(len, dataset.splits.values()))) as task:
        for name, samples in dataset.splits.items():
            kept: list[Sample] = []
            for sample in samples:
                trouble = files.trouble(sample)
                if trouble is None:
                    kept.append(sample)
                else:
                    broken.add(f"{name} sample '{sample.id}': {trouble}")
                task.advance()
            if not kept:
                raise DataError(f"split '{name}' has no readable sample")
            if lost := sorted(_classes(samples) - _classes(kept)):
                line = f"split '{name}': no readable sample of class '{lost[0]}' is left" + _more(lost)
                if name == "train":
                    raise DataError(f"{line}; mend its samples, or take the class out of the data")
                notes.append(line)
            splits[name] = kept
    lines = (*dataset.broken, *broken.columns, *broken.lines, *notes)
    return replace(dataset, splits=splits, broken=lines, checksums=files.checksums)


def _classes(samples: list[Sample]) -> set[str]:
    return {label for s in samples for label in (s.label, *s.labels) if label is not None}


def _more(names: list[str]) -> str:
    return f" (and of {len(names) - 1} more)" if len(names) > 1 else ""


@dataclass
class _Files:
    """What is known of the files so far."""

    checksums: dict[Path, str] = field(default_factory=dict)
    problems: dict[tuple[str, Path], str] = field(default_factory=dict)  # what is a sound may be no picture
    whole: set[tuple[str, Path]] = field(default_factory=set)  # pictures and sounds
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)  # tensor -> shape, who has it

    def trouble(self, sample: Sample) -> str | None:
        """What is wrong with the sample, or None."""
        if sample.text is not None and not sample.text.strip():
            return "empty text"
        if sample.image is None and sample.audio is None and sample.text is None and not sample.tensors:
            return "no image, text, audio or tensor"
        files: Mapping[str, Path | None] = {"image": sample.image, "audio": sample.audio, **sample.tensors}
        shapes = {}
        for modality, path in files.items():
            if path is None:
                continue
            if (modality, path) in self.problems:
                return self.problems[modality, path]
            if (modality, path) in self.whole:
                continue
            try:
                data = path.read_bytes()
                if modality in sample.tensors:
                    shapes[modality] = check_tensor(data)
                elif modality == "image":
                    check_image(data)
                else:
                    check_sound(data)
            except OSError as error:
                self.problems[modality, path] = f"can't read {path}: {error.strerror or error}"
                return self.problems[modality, path]
            except DataError as error:
                self.problems[modality, path] = f"{path}: {error}"
                return self.problems[modality, path]
            if modality not in sample.tensors:
                self.whole.add((modality, path))
            self.checksums[path] = hashlib.sha256(data).hexdigest()
        for modality, shape in shapes.items():
            expected, first = self.shapes.setdefault(modality, (shape, sample.id))
            if shape != expected:
                return f"{modality} has shape {shape}, expected {expected} as in sample '{first}'"
        return None
