"""Headline: what was gained, what it cost in the task that ships, and where and when that was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.measure import as_text
from edgemm.measure.cost import costs, line
from edgemm.measure.measurement import Environment, Measurements
from edgemm.measure.row import Row, Score
from edgemm.measure.scores import TEACHERS
from edgemm.measure.table import headline_score
from edgemm.runtime.timing import Ratio


def headline(
    title: str, rows: Sequence[Row], measurements: Measurements, *, reference: Row | None, ships: Row | None
) -> dict[str, Any]:
    """A headline, a sentence on what was gained and lost, its cards, where it was measured, and words to know.

    Args:
        reference: the row that the others are compared with; None where none ran here.
        ships: the row that ships by default; None where none of its targets ran here.
    """
    found = {"cards": [], "where": _where(measurements, ships or reference), "terms": _terms(rows)}
    if reference is not None and ships is None:
        built = ", ".join(row.target for row in rows if row.variant == rows[-1].variant)
        said = f"What ships, “{rows[-1].variant}”, was built for {built} and not run here: measure it there."
        return {"headline": title, "answer": said, **found}
    if reference is None or ships is None or ships is reference or ships.speedup is None:
        only = ships or reference
        score = headline_score(only) if only else None
        said = f" {score.metric} {as_text.score_with_interval(score)}." if score else ""
        return {
            "headline": title,
            "answer": f"One variant was measured, so there is nothing to compare.{said}",
            **found,
        }
    smaller = reference.size_bytes / ships.size_bytes
    before_ms = {request.name: as_text.latency_p50(request.latency) for request in reference.requests}
    timed = [(request, request.speedup) for request in ships.requests if request.speedup is not None]
    cards = [
        {
            "name": f"faster, asked by {request.name}" if request.name else "faster, end to end",
            "figure": as_text.factor(speedup.value),
            "detail": f"{before_ms[request.name]} → {as_text.latency_p50(request.latency)}, "
            f"{as_text.speedup_interval(speedup)}",
        }
        for request, speedup in timed
    ]
    cards += [
        {
            "name": "smaller",
            "figure": as_text.factor(smaller),
            "detail": f"{as_text.size(reference.size_bytes)} → {as_text.size(ships.size_bytes)}",
        },
    ]
    answer = (
        f"“{ships.variant}” on {ships.engine} ({ships.label or ships.precision}) against “{reference.variant}” on "
        f"{reference.engine} ({reference.precision})"
    )
    score, before = headline_score(ships), headline_score(reference)
    if score and before and score.difference:
        cards.append(
            {
                "name": f"{_what(score)} ({score.split})",
                "figure": as_text.score_value(score),
                "detail": f"from {as_text.score_value(before)}; difference {as_text.difference(score)}",
            }
        )
        answer += f": {_cost(score)}"
    else:
        answer += "."
    if lost := costs([reference, ships]).leading:
        answer += f" The most it costs as it ships: {line(lost[0])}."
    speeds = [f"{_speed(speedup)}{f' by {request.name}' * (len(timed) > 1)}" for request, speedup in timed]
    return {
        "headline": f"{title}: {', '.join(speeds)}, {as_text.factor(smaller)} smaller",
        "answer": answer,
        **found,
        "cards": cards,
    }


def _speed(speedup: Ratio) -> str:
    """Return how much faster: ``"8.09× faster"``, ``"as fast"``."""
    if speedup.verdict == "no difference":
        return "as fast"
    if speedup.value >= 1:
        return f"{as_text.factor(speedup.value)} faster"
    return f"{as_text.factor(1 / speedup.value)} slower"


def _what(score: Score) -> str:
    return f"{score.metric}, {score.task}" if score.task != "answers" else score.metric


def _cost(score: Score) -> str:
    """Return what the compression costs in the task that ships; ends the sentence."""
    assert score.difference is not None
    if not score.difference.is_beyond_chance:
        return f"no difference in {_what(score)} that {score.estimate.samples} samples can show."
    verb, size = "gains" if score.difference.value > 0 else "costs", abs(score.difference.value)
    figure = f"{100 * size:.1f} points" if score.is_share else as_text.three_figures(size)
    return f"it {verb} {figure} of {_what(score)}."


def _where(measurements: Measurements, row: Row | None) -> str:
    """Return the machine, the threads and the day, as far as the measurements know them."""
    facts: Mapping[str, Any] = next(iter(measurements.environments.values()), Environment({})).facts
    known = [
        str(facts["cpu"]) if facts.get("cpu") else "",
        f"{row.threads} thread{'' if row.threads == 1 else 's'}" if row is not None and row.threads else "",
        str(facts["date"]) if facts.get("date") else "",
    ]
    return ", ".join(text for text in known if text)


def _terms(rows: Sequence[Row]) -> list[str]:
    """Explanations of words that the headline may use before any section does."""
    terms = []
    if any(score.task.endswith(TEACHERS) for row in rows for score in row.scores):
        terms.append(
            "Teacher's gallery: the device searches in embeddings that the teacher made when the bundle was packed; "
            "the device embeds only what it is asked. “Own gallery”, or no word, means that a model made both."
        )
    if any(score.metric.startswith("R@") for row in rows for score in row.scores):
        terms.append("R@10: how often one of the first ten found is right; R@1: how often the first is.")
    return terms
