"""Drawn examples: a few evaluation samples, drawn by a seed and not by result, with what each variant gave for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure import as_text
from edgemm.measure.class_metrics import THRESHOLD
from edgemm.measure.examples import Answer, Example, hit, media, sound_of
from edgemm.measure.scores import ANSWERS, TEACHERS, Scored, headline_task
from edgemm.runtime.archive import open_archive

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample


@dataclass(frozen=True, slots=True)
class Shown:
    """One variant, the bundle that it is, and what it scored on the split that examples come from."""

    variant: str
    path: Path
    scored: Sequence[Scored]

    def labels(self) -> tuple[str, ...]:
        """Return names of its classes; none of a quantity."""
        archive = open_archive(self.path)
        held = next(iter(archive.manifest.labels.values()), None)
        return archive.read_strings(held) if held is not None else ()


def shown_examples(
    variants: Sequence[Shown], samples: Sequence[Sample], *, count: int, shown_groups: Sequence[str] = ()
) -> list[Example]:
    """Nearest items of a few queries, or answers of a few samples.

    Queries are shared out among all directions, the headline's first, in the gallery that ships.

    Args:
        variants: at least one.
        samples: those of the split, in the order in which they were scored.
        count: samples that are answered; how many queries there are was said when scoring.
        shown_groups: groups whose pictures and sounds may be shown; empty: all.
    """
    answered = [(v, s) for v in variants for s in v.scored if s.task == ANSWERS]
    if answered:
        return _answers(answered, samples, count, shown_groups)
    tasks = [s.task for s in variants[0].scored if s.examples]
    tasks = [task for task in tasks if task.endswith(TEACHERS)] or tasks
    if not tasks:
        return []
    headline = headline_task(tasks)
    tasks.sort(key=lambda task: task != headline)
    examples = []
    for i, task in enumerate(tasks):
        # Each direction has drawn as many as are wanted in all; it shows its share of them, not those of the others.
        per_variant = [next(s.examples for s in v.scored if s.task == task)[i :: len(tasks)] for v in variants]
        for kept in zip(*per_variant, strict=True):
            examples.append(_retrieved(dict(zip([v.variant for v in variants], kept, strict=True))))
    return examples


def _retrieved(kept: Mapping[str, Mapping[str, Any]]) -> Example:
    """Return one query, and what each variant kept as the nearest."""
    asked = next(iter(kept.values()))
    answers = tuple(_nearest(variant, each) for variant, each in kept.items())
    return Example(str(asked["label"]), answers, **media({asked["modality"]: asked["query"]}))


def _nearest(variant: str, kept: Mapping[str, Any]) -> Answer:
    """Pictures are all shown; of sounds and texts the nearest is what is said, and the others are named."""
    wanted, nearest = kept["wanted"], kept["hits"][0]
    hits = tuple(hit(wanted, h["item"], h["label"], h["right"]) for h in kept["hits"])
    return Answer(
        variant,
        hits[0].label,
        hits[0].right,
        hits=hits if hits[0].picture else hits[1:],
        sound=sound_of(wanted, nearest["item"]),
    )


def _answers(
    answered: Sequence[tuple[Shown, Scored]], samples: Sequence[Sample], count: int, shown_groups: Sequence[str]
) -> list[Example]:
    may = [i for i, s in enumerate(samples) if not shown_groups or s.group in shown_groups]
    chosen = np.random.default_rng(0).permutation(may)[:count]
    names = {variant.path: variant.labels() for variant, _ in answered}
    inputs = open_archive(answered[-1][0].path).manifest.inputs
    examples = []
    for i in sorted(int(i) for i in chosen):
        sample = samples[i]
        answers = tuple(_answer(variant.variant, names[variant.path], scored, i) for variant, scored in answered)
        truth = str(sample.label)
        if answered[0][1].kind == "probabilities":
            truth = ", ".join(sample.labels) or "none"
        elif answered[0][1].kind == "values":
            truth = f"{sample.value:g}"
        shown = media({m: raw for m in inputs if (raw := sample.raw(m)) is not None})
        examples.append(Example(truth, answers, **(shown or {"text": sample.id})))
    return examples


def _answer(variant: str, names: Sequence[str], scored: Scored, i: int) -> Answer:
    """Return the answer to sample ``i``; a value is right where its error is at most this variant's mean error."""
    truth = scored.details["truth"]
    if scored.kind == "answers":
        return Answer(variant, names[int(scored.samples[i])], int(scored.samples[i]) == truth[i])
    if scored.kind == "probabilities":
        classes = int(scored.details["classes"])
        given = [c for c, p in enumerate(scored.samples[i * classes : (i + 1) * classes]) if p > THRESHOLD]
        return Answer(variant, ", ".join(names[c] for c in given) or "none", given == truth[i])
    error = np.abs(np.asarray(scored.samples) - np.asarray(truth))
    return Answer(variant, as_text.three_figures(scored.samples[i]), bool(error[i] <= error.mean()))
