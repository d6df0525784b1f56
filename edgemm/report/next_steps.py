"""Next steps: what to try after this run, read off its own figures; a line names an option of the recipe or a verb."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from edgemm.measure import as_text
from edgemm.measure.row import Row, Score
from edgemm.measure.table import default_row, headline_score, reference_row

_BY_VARIANT: Final = {
    "student": "distil longer (distill.epochs), give the student more (its widths and layers), or more texts and "
    "augmentations to learn from",
    "pruned": "prune less (prune.ratios) or recover longer (prune.epochs)",
}
_BY_QUANTIZING: Final = (
    "see “Which part costs the accuracy”, and keep that part's layers in float32 (quantize.keep_float), or calibrate "
    "on more samples (quantize.samples)"
)
_DOMINATES: Final = 0.6  # share of the latency from which one part is worth making smaller first


def next_steps(rows: Sequence[Row]) -> list[str]:
    """A line for each thing worth trying: where the accuracy went, what takes the time, which target is faster."""
    reference, ships = reference_row(rows), default_row(rows)
    if reference is None or ships is None or ships is reference:
        return []
    on_device = "Measure on the device itself: “python -m edgemm.runtime bench BUNDLE”. A bundle needs no torch there."
    return [*_accuracy(rows, ships), *_time(ships), *_targets(rows, ships), on_device]


def _accuracy(rows: Sequence[Row], ships: Row) -> list[str]:
    score = headline_score(ships)
    if score is None or score.difference is None:
        return []
    if not score.difference.is_beyond_chance or score.difference.value > 0:
        return [
            f"{score.metric} held: there may be room to go smaller. Raise prune.ratios, or give the student less, "
            "until it does cost something."
        ]
    variants = list({row.variant: row for row in reversed(rows) if row.scores}.values())[::-1]
    lost = [(_value(before, score) - _value(after, score), after.variant) for before, after in pairwise(variants)]
    most, variant = max(lost, default=(0.0, ""))
    if not variant or most <= 0:
        return []
    figure = f"{100 * most:.1f} points" if score.is_share else as_text.three_figures(most)
    advice = _BY_VARIANT.get(variant, _BY_QUANTIZING)
    return [f"Most of the {score.metric} was lost on the way to “{variant}” ({figure}): {advice}."]


def _value(row: Row, like: Score) -> float:
    """Return the score of the same name; the difference to a row without one is not a number, and never the largest."""
    found = row.score(like.split, like.task, like.metric)
    return found.estimate.value if found else float("nan")


def _time(ships: Row) -> list[str]:
    medians = {name: taken.p50.value_ms for name, taken in ships.part_ms.items() if taken.p50}
    if not medians:
        return []
    name, most = max(medians.items(), key=lambda item: item[1])
    share = most / sum(medians.values())
    if share < _DOMINATES or len(medians) == 1:
        return []
    return [f"Part “{name}” takes {100 * share:.0f} % of the parts' time: to be faster, make that one smaller first."]


def _targets(rows: Sequence[Row], ships: Row) -> list[str]:
    """Return the target of what ships that is faster than the default one, their intervals apart."""
    medians = {row.target: row.latency.p50 for row in rows if row.variant == ships.variant and row.latency}
    own = medians.get(ships.target)
    faster = {name: p50 for name, p50 in medians.items() if p50 and own and p50.high_ms < own.low_ms}
    if not faster or own is None:
        return []
    name, best = min(faster.items(), key=lambda item: item[1].value_ms)
    return [
        f"Target “{name}” is faster here ({as_text.milliseconds(best.value_ms)} against "
        f"{as_text.milliseconds(own.value_ms)}): to ship it by default, name it first among the recipe's targets."
    ]
