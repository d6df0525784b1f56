"""Check: every sample's files are read once; broken ones are left out and told by name, up to the limit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample
from edgemm.data.image import check_image
from edgemm.data.sound import check_sound
from edgemm.data.tensor import check_tensor
from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.images import Depth, Range
from edgemm.runtime.regular import open_regular
from edgemm.stage import Progress

_LARGEST = 1 << 40  # bytes of a file: readers have limits of their own
_DARK = 0.25  # of the white: what stays below is told


def checked(dataset: Dataset, *, broken: Broken, progress: Progress) -> Dataset:
    """Return the dataset without its broken samples, with the sha256 of every file.

    Raises:
        DataError: more broken samples than allowed, or a split, or a class to learn, of which nothing is left.
    """
    files = _Files(dataset.grey_range)
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
    notes += files.dark()
    lines = (*dataset.broken, *broken.columns, *broken.lines, *notes)
    return replace(dataset, splits=splits, broken=lines, checksums=files.checksums)


def _classes(samples: list[Sample]) -> set[str]:
    return {label for s in samples for label in (s.label, *s.labels) if label is not None}


def _more(names: list[str]) -> str:
    return f" (and of {len(names) - 1} more)" if len(names) > 1 else ""


@dataclass
class _Files:
    """What is known of the files so far."""

    grey_range: Range | None
    checksums: dict[Path, str] = field(default_factory=dict)
    problems: dict[tuple[str, Path], str] = field(default_factory=dict)  # what is a sound may be no picture
    whole: set[tuple[str, Path]] = field(default_factory=set)  # pictures and sounds
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(default_factory=dict)  # tensor -> shape, who has it
    depths: list[Depth] = field(default_factory=list)  # of pictures with more than 8 bits a sample

    def trouble(self, sample: Sample) -> str | None:
        """Return what is wrong with the sample, or None."""
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
                with open_regular(path, where=str(path), largest=_LARGEST) as file:
                    data = file.read()
                if modality in sample.tensors:
                    shapes[modality] = check_tensor(data)
                elif modality == "image":
                    if (depth := check_image(data, grey_range=self.grey_range)) is not None:
                        self.depths.append(depth)
                else:
                    check_sound(data)
            except (OSError, InputError) as error:
                reason = str(error).removeprefix(f"{path}: ") or type(error).__name__
                self.problems[modality, path] = f"can't read {path}: {getattr(error, 'strerror', None) or reason}"
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

    def dark(self) -> list[str]:
        """Return lines on pictures with more than 8 bits that use a small part of their range, and so come out dark."""
        found = []
        for grey in (True, False):
            depths = [depth for depth in self.depths if depth.grey == grey]
            if grey and self.grey_range is not None:
                continue
            if not depths or any(depth.greatest > _DARK * depth.white for depth in depths):
                continue
            least, greatest = min(d.least for d in depths), max(d.greatest for d in depths)
            bits = max(1, math.ceil(math.log2(greatest + 1)))
            mend = f"say data.grey_range = [0, {2**bits - 1}]" if grey else "write files of 8 bits, scaled"
            kind = "grey" if grey else "colour"
            found.append(
                f"note: {len(depths)} {kind} images of more than 8 bits have values from {least:g} to "
                f"{greatest:g} where {max(d.white for d in depths):g} is white, and come out dark; if {2**bits - 1} "
                f"should be white, {mend}"
            )
        return found
