"""report.html: one file that answers first (how much faster, smaller, at what cost) and then shows the evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import __version__
from edgemm.measure import as_text
from edgemm.measure.conditions import warnings_of
from edgemm.measure.examples import Example
from edgemm.measure.measurement import Measurements
from edgemm.measure.row import Row, Score
from edgemm.measure.scores import TEACHERS
from edgemm.measure.table import (
    HOW_TIMED,
    IMAGE_DECODING,
    blame_cells,
    cells,
    default_row,
    headline_score,
    reference_row,
    score_name,
    steps,
    table_scores,
)
from edgemm.report import evidence, figures
from edgemm.report.cards import card
from edgemm.report.fill import fill, write_page
from edgemm.report.headline import headline
from edgemm.report.next_steps import next_steps
from edgemm.report.parts import time_bars
from edgemm.report.run import RUN, SAID
from edgemm.runtime.manifest import Manifest
from edgemm.runtime.timing import Estimate, summary

COLUMNS = 4  # of scores that fit beside the rest of the end table
Facts = Sequence[tuple[str, str]]

SECTIONS = {
    "pictures": "At a glance",
    "examples": "Examples",
    "table": "Every variant, every target",
    "ships": "What ships, and what it can be asked",
    "costs": "What it costs",
    "next": "What to try next",
    "parts": "Where the time goes",
    "blame": "Which part costs the accuracy",
    "scores": "Accuracy in full",
    "behind": "Behind the figures",
    "ablations": "Does it still look at everything?",
    "missing": "When a modality is missing",
    "start": "Start, memory, decoding",
    "environments": "How this was measured",
    "provenance": "Where it comes from",
    "digests": "Bytes measured",
}
"""Key of a section -> its heading, in the order of the page; one without content is left out, of the contents too."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Drawings under one heading, and what they show."""

    title: str
    drawings: tuple[figures.Drawing, ...]
    note: str


def write_report(
    out: Path,
    *,
    title: str,
    family: str,
    rows: Sequence[Row],
    measurements: Measurements,
    examples: Sequence[Example] = (),
    provenance: Mapping[str, Any] | None = None,
    ships: Manifest | None = None,
    raw: str = "measurements.jsonl",
) -> None:
    """Write the report to the file ``out``; atomic.

    Args:
        title: name of the recipe or bundle.
        family: ``"dual-encoder"``, ``"fusion-classifier"``, shown above the headline.
        out: file to write.
        rows: the end table; the first that ran is the reference, the last variant's first that ran is what ships.
        measurements: what the rows were derived from; gives environments and image decoding.
        examples: samples with what variants gave.
        provenance: what it was made from (teacher, data, digests), shown as it is.
        ships: the bundle that ships, for what can be asked of it; None: not shown.
        raw: where the raw samples lie, named in the footer.
    """
    html = render(
        title=title,
        family=family,
        rows=rows,
        measurements=measurements,
        examples=examples,
        provenance=provenance or {},
        manifest=ships,
        raw=raw,
    )
    write_page(out, html)


def render(
    *,
    title: str,
    family: str,
    rows: Sequence[Row],
    measurements: Measurements,
    examples: Sequence[Example],
    provenance: Mapping[str, Any],
    manifest: Manifest | None,
    raw: str,
) -> str:
    """Return the page as a string; see ``write_report``."""
    reference, ships = reference_row(rows), default_row(rows)
    page: dict[str, Any] = {
        "pictures": [*_pareto(rows), *_waterfalls(rows)],
        "table": _table(rows, ships),
        "ships": _ships(manifest) if manifest else [],
        "costs": evidence.cost_table(rows),
        "next": next_steps(rows),
        "parts": time_bars(rows),
        "blame": _blame(measurements),
        "scores": evidence.score_tables(rows),
        "behind": {
            "pictures": [*evidence.roc_curves(rows, measurements), *evidence.confusions(rows, measurements)],
            "classes": evidence.class_tables(rows, measurements),
        },
        "ablations": evidence.ablations(rows),
        "missing": evidence.missing(rows),
        "examples": [card(e) for e in examples],
        "start": _start(rows),
        "environments": [_facts(e.facts) for e in measurements.environments.values()],
        "provenance": _facts(provenance),
        "digests": [(f"{r.variant} ({r.target})", r.sha256) for r in rows],
    }
    if not any(page["behind"].values()):
        page["behind"] = None
    return fill(
        "template.html",
        page={
            **page,
            **headline(title, rows, measurements, reference=reference, ships=ships),
            "contents": {key: heading for key, heading in SECTIONS.items() if page[key]},
            "title": title,
            "family": family.replace("_", " "),
            "version": __version__,
            "reference": f"{reference.variant} ({reference.target})" if reference else "the first row",
            "warnings": warnings_of(measurements),
            "how_timed": HOW_TIMED,
            "examples_note": _examples_note(examples, rows),
            "gallery": as_text.size(max((r.gallery_bytes for r in rows), default=0) or None),
            "decoding": _decoding(measurements),
            "said": SAID,
            "run": RUN,
            "raw": raw,
        },
    )


def _ships(manifest: Manifest) -> Facts:
    """Return what goes in, what comes out, and where it runs."""
    takes = ", ".join(f"{name} ({raw.kind})" if name != raw.kind else name for name, raw in manifest.inputs.items())
    searches = bool(manifest.galleries)
    return [
        ("takes", f"any of {takes}" if searches and len(manifest.inputs) > 1 else takes),
        (
            "answers",
            "the nearest entries of its gallery" if searches else ", ".join(manifest.outputs),
        ),
        ("runs on", ", ".join(f"{t.engine} {t.label} ({t.name})" for t in manifest.targets)),
    ]


def _pareto(rows: Sequence[Row]) -> list[Picture]:
    """Latency against the headline's score; none where no row has both."""
    reference = reference_row(rows)
    chosen = headline_score(reference) if reference else None
    if chosen is None:
        return []
    targets_per_variant = {r.variant: sum(o.variant == r.variant and o.latency is not None for o in rows) for r in rows}
    points = []
    for row in rows:
        score = row.score(chosen.split, chosen.task, chosen.metric)
        if row.latency and row.latency.p50 and score and not math.isnan(score.estimate.value):
            p50 = row.latency.p50
            name = row.variant if targets_per_variant[row.variant] == 1 else f"{row.variant}, {row.engine}"
            points.append(
                figures.Point(
                    name,
                    row.variant,
                    (p50.value_ms, p50.low_ms, p50.high_ms),
                    (score.estimate.value, score.estimate.low, score.estimate.high),
                )
            )
    if not points:
        return []
    metric = chosen.metric if chosen.task == "answers" else f"{chosen.metric}, {chosen.task}"
    drawing = figures.pareto(points, metric=metric, share=chosen.is_share, name="pareto")
    note = (
        "Dashed: the best to be had within a latency. It rises only where the intervals don't overlap. Up and to the "
        "left is better."
    )
    return [Picture("Latency against accuracy", (drawing,), note)]


def _waterfalls(rows: Sequence[Row]) -> list[Picture]:
    """Size, latency and the headline's score of each variant on its first target that ran."""
    taken = steps(rows)
    if len(taken) < 2:
        return []
    sizes = [_step(r.variant, r.size_bytes / 1e6, None, as_text.size(r.size_bytes)) for r in taken]
    latencies = [
        _step(r.variant, r.latency.p50.value_ms, r.latency.p50, as_text.latency_p50(r.latency))
        for r in taken
        if r.latency and r.latency.p50
    ]
    asked = f" of {taken[0].request}" if taken[0].request else ""
    drawn = [
        figures.waterfall(sizes, quantity="size, MB", name="size"),
        figures.waterfall(latencies, quantity=f"latency{asked}, ms", name="latency"),
    ]
    chosen = headline_score(taken[0])
    if chosen is not None:
        scores = [(r.variant, s) for r in taken if (s := r.score(chosen.split, chosen.task, chosen.metric))]
        scale = 100 if chosen.is_share else 1
        marks = [_mark(name, s, scale) for name, s in scores if not math.isnan(s.estimate.value)]
        if len(marks) > 1:
            metric = chosen.metric if chosen.task == "answers" else f"{chosen.metric}, {chosen.task}"
            drawn.append(figures.ladder(marks, quantity=f"{metric}{', %' * chosen.is_share}", name="accuracy"))
    note = (
        "A bar runs from the value before a stage to the value after it; its length is the factor gained. Accuracy has "
        "its interval; shaded is that of the first variant, and what overlaps it is no difference."
    )
    return [Picture("What each stage took off, and what it cost", tuple(drawn), note)]


def _step(name: str, value: float, known: Estimate | None, label: str) -> figures.Step:
    return figures.Step(name, value, known.low_ms if known else value, known.high_ms if known else value, label)


def _mark(name: str, found: Score, scale: float) -> figures.Step:
    """Return a score as a point of the ladder; without an interval it is taken as exact."""
    value, low, high = (scale * v for v in (found.estimate.value, found.estimate.low, found.estimate.high))
    known = not math.isnan(low)
    return figures.Step(name, value, low if known else value, high if known else value, as_text.score_value(found))


def _table(rows: Sequence[Row], ships: Row | None) -> dict[str, Any]:
    """Return the end table. Where not all columns of scores fit, only the headline's stay, one for each split."""
    columns = table_scores(rows)
    headline = next((s for row in rows if (s := headline_score(row))), None)
    if len(columns) > COLUMNS and headline:
        columns = tuple(c for c in columns if c[1:] == (headline.task, headline.metric))
    header, body = cells(rows, columns)
    splits = [split for split, _, _ in columns]
    return {
        "header": header[: len(header) - len(columns)],
        "splits": [(split, splits.count(split)) for split in dict.fromkeys(splits)],
        "scores": [score_name(task, metric) for _, task, metric in columns],
        "rows": [
            {"ships": row is ships, "cells": [{"main": c.main, "small": c.small} for c in line]}
            for row, line in zip(rows, body, strict=True)
        ],
    }


def _blame(measurements: Measurements) -> dict[str, Any] | None:
    header, body = blame_cells(measurements)
    return {"header": header, "rows": body} if body else None


def _examples_note(examples: Sequence[Example], rows: Sequence[Row]) -> str:
    if any(answer.hits for e in examples for answer in e.answers):
        of_teacher = any(s.task.endswith(TEACHERS) for row in rows for s in row.scores)
        gallery = "the teacher, as the gallery that ships is" if of_teacher else "the variant itself"
        return (
            "Queries, drawn by a fixed seed and not by result, and what each variant finds nearest among the "
            f"evaluation samples that may be shown, embedded by {gallery}; the nearest first. The mark is "
            "that of the nearest; framed is every right one."
        )
    return "Evaluation samples, drawn by a fixed seed and not by result, with what each variant answered."


def _start(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "header": ["variant, target", "import", "open", "first inference", "steady p50", "peak memory"],
        "count": max((s.count for r in rows for s in r.starts.values()), default=0),
        "rows": [
            [
                evidence.cell(text)
                for text in (
                    f"{r.variant}, {r.target}",
                    *(as_text.spread(r.starts.get(subject)) for subject in ("import", "open", "first")),
                    as_text.latency_p50(r.latency),
                    as_text.size(r.peak_bytes),
                )
            ]
            for r in rows
            if r.latency
        ],
    }


def _decoding(measurements: Measurements) -> str:
    decoding = measurements.of("latency", subject=IMAGE_DECODING)
    if not decoding or not decoding[0].samples:
        return ""
    taken = summary(np.asarray(decoding[0].samples, np.int64))
    median = f"{as_text.latency(taken.p50)} {as_text.latency_interval(taken.p50)}".rstrip()
    return f"Decoding one image file takes {median} (median of {taken.count}), the same for all."


def _facts(facts: Mapping[str, Any]) -> Facts:
    return [(str(name).replace("_", " "), as_text.fact(value)) for name, value in facts.items()]
