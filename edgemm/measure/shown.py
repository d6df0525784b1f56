"""Shown: a few evaluation samples, drawn by a fixed seed and not by result, with what each variant gave for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgemm.measure import words
from edgemm.measure.class_metrics import THRESHOLD
from edgemm.measure.examples import Example, Given, Hit, write_thumbnail
from edgemm.measure.scores import ANSWERS, TEACHERS, Scored, headline_task
from edgemm.runtime.archive import open_archive
from edgemm.runtime.images import decode_image

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

PICTURES = "examples"


@dataclass(frozen=True, slots=True)
class Shown:
    """One variant, the bundle that it is, and what it scored on the split that examples come from."""

    variant: str
    path: Path
    scored: Sequence[Scored]

    def labels(self) -> tuple[str, ...]:
        """Names of its classes; none of a regression."""
        archive = open_archive(self.path)
        return tuple(archive.read_strings(archive.manifest.labels)) if archive.manifest.labels else ()


def shown_examples(
    variants: Sequence[Shown], samples: Sequence[Sample], out: Path, *, count: int, shown_groups: Sequence[str] = ()
) -> list[Example]:
    """Nearest items of a few queries, or answers of a few samples; small copies of the pictures go into ``out``.

    Args:
        variants: at least one.
        samples: those of the split, in the order in which they were scored.
        out: the folder of the measurements.
        count: samples that are answered; how many queries there are was said when scoring.
        shown_groups: groups whose pictures may be shown; empty: all.
    """
    (out / PICTURES).mkdir(exist_ok=True)
    pictures = _Pictures(out)
    answered = [(v, s) for v in variants for s in v.scored if s.task == ANSWERS]
    if answered:
        return _answers(answered, samples, pictures, count, shown_groups)
    tasks = [s.task for s in variants[0].scored if s.examples]
    if not tasks:
        return []
    task = headline_task(tasks)
    asked, wanted = task.removesuffix(TEACHERS).split("→")
    per_variant = [next(s.examples for s in v.scored if s.task == task) for v in variants]
    examples = []
    for i, example in enumerate(per_variant[0]):
        given = tuple(
            Given(
                variant.variant,
                tuple(
                    Hit(pictures.add(hit["item"]) if wanted == "image" else None, str(hit["label"]), bool(hit["right"]))
                    for hit in kept[i]["hits"]
                ),
            )
            for variant, kept in zip(variants, per_variant, strict=True)
        )
        query = str(example["query"]) if asked == "text" else str(example["label"])
        examples.append(Example(query, pictures.add(example["query"]) if asked == "image" else None, "", given))
    return examples


def _answers(
    answered: Sequence[tuple[Shown, Scored]],
    samples: Sequence[Sample],
    pictures: _Pictures,
    count: int,
    shown_groups: Sequence[str],
) -> list[Example]:
    may = [i for i, s in enumerate(samples) if not shown_groups or s.group in shown_groups]
    chosen = np.random.default_rng(0).permutation(may)[:count]
    names = {variant.path: variant.labels() for variant, _ in answered}
    examples = []
    for i in sorted(int(i) for i in chosen):
        sample = samples[i]
        given = tuple(_given(variant.variant, names[variant.path], scored, i) for variant, scored in answered)
        truth = str(sample.label)
        if answered[0][1].kind == "probabilities":
            truth = ", ".join(sample.labels) or "none"
        elif answered[0][1].kind == "values":
            truth = f"{sample.value:g}"
        picture = pictures.add(str(sample.image)) if sample.image is not None else None
        examples.append(Example(sample.text or sample.id, picture, truth, given))
    return examples


def _given(variant: str, names: Sequence[str], scored: Scored, i: int) -> Given:
    """The answer to sample ``i``; a value is right where its error is at most this variant's mean error."""
    truth = scored.details["truth"]
    if scored.kind == "answers":
        return Given(variant, answer=names[int(scored.samples[i])], right=int(scored.samples[i]) == truth[i])
    if scored.kind == "probabilities":
        classes = int(scored.details["classes"])
        given = [c for c, p in enumerate(scored.samples[i * classes : (i + 1) * classes]) if p > THRESHOLD]
        return Given(variant, answer=", ".join(names[c] for c in given) or "none", right=given == truth[i])
    error = np.abs(np.asarray(scored.samples) - np.asarray(truth))
    return Given(variant, answer=words.three_figures(scored.samples[i]), right=bool(error[i] <= error.mean()))


class _Pictures:
    """Small copies of the pictures that examples show, each written once and named by number."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._names: dict[str, str] = {}

    def add(self, path: str) -> str:
        if path not in self._names:
            name = f"{PICTURES}/{len(self._names)}.png"
            write_thumbnail(decode_image(path, where="example"), self._out / name)
            self._names[path] = name
        return self._names[path]
