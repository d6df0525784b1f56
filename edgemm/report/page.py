"""report.html: one file that answers first (how much faster, smaller, at what cost) and then shows the evidence.

Everything that comes from data (labels, names, environment) passes through jinja2's autoescape; only the SVG drawn here
is inserted as it is, and its text was escaped by matplotlib. The page's own policy forbids scripts and any request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import __version__
from edgemm.measure import words
from edgemm.measure.cost import costs, line
from edgemm.measure.examples import Example
from edgemm.measure.measurement import Measurements
from edgemm.measure.scores import TEACHERS
from edgemm.measure.table import (
    IMAGE_DECODING,
    Row,
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
from edgemm.report.parts import time_bars
from edgemm.runtime.disk import replacing
from edgemm.runtime.timing import summary

COLUMNS = 4  # of scores that fit beside the rest of the end table
COMMAND = "edgemm run RECIPE"
"""Stands in a stored report for the command that made it, which holds paths; ``with_command`` puts it in its place."""

Facts = Sequence[tuple[str, str]]


def write_report(
    out: Path,
    *,
    title: str,
    family: str,
    rows: Sequence[Row],
    measurements: Measurements,
    examples: Sequence[Example] = (),
    provenance: Mapping[str, Any] | None = None,
    reproduce: str = "",
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
        reproduce: the commands that make it again.
        raw: where the raw samples lie, named in the footer.
    """
    html = render(
        title=title,
        family=family,
        rows=rows,
        measurements=measurements,
        examples=examples,
        provenance=provenance or {},
        reproduce=reproduce,
        raw=raw,
    )
    write_page(out, html)


def place_report(stored: Path, out: Path, command: str) -> None:
    """Copy a stored report, whole or not at all, with the command that made it: stored it has no path in it."""
    write_page(out, with_command(stored.read_text(encoding="utf-8"), command))


def write_page(out: Path, html: str) -> None:
    """Write a page, whole or not at all: what was at ``out`` before stays until the new one is complete."""
    with replacing(out) as partial:
        partial.write_text(html, encoding="utf-8")


def with_command(html: str, command: str) -> str:
    """A report whose ``reproduce`` was ``COMMAND``, with the true command instead."""
    return html.replace(f"<pre>{COMMAND}</pre>", f"<pre>{escape(command)}</pre>")


def render(
    *,
    title: str,
    family: str,
    rows: Sequence[Row],
    measurements: Measurements,
    examples: Sequence[Example],
    provenance: Mapping[str, Any],
    reproduce: str,
    raw: str,
) -> str:
    """The page as a string; see ``write_report``."""
    reference, ships = reference_row(rows), default_row(rows)
    page = {
        "title": title,
        "family": family.replace("_", " "),
        "version": __version__,
        "reference": f"{reference.variant} ({reference.target})" if reference else "the first row",
        **_headline(title, rows, reference, ships),
        "pareto": _pareto(rows),
        "waterfalls": _waterfalls(rows),
        "table": _table(rows, ships),
        "costs": evidence.cost_table(rows),
        "parts": time_bars(rows),
        "blame": _blame(measurements),
        "scores": evidence.score_tables(rows),
        "class_tables": evidence.class_tables(rows, measurements),
        "confusions": evidence.confusions(rows, measurements),
        "roc": evidence.roc_curves(rows, measurements),
        "ablations": evidence.ablations(rows),
        "missing": evidence.missing(rows),
        "examples": [card(e) for e in examples],
        "examples_note": _examples_note(examples, rows),
        "gallery": words.size(max((r.gallery_bytes for r in rows), default=0) or None),
        "start": _start(rows),
        "decoding": _decoding(measurements),
        "environments": [_facts(e.facts) for e in measurements.environments.values()],
        "provenance": _facts(provenance),
        "digests": [(f"{r.variant} ({r.target})", r.sha256) for r in rows],
        "reproduce": reproduce,
        "raw": raw,
    }
    return fill("template.html", page)


def fill(template: str, page: Mapping[str, Any]) -> str:
    """One of the templates beside this file, filled; what comes from data is escaped."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: files("edgemm.report").joinpath(name).read_text(encoding="utf-8")),
    )
    return environment.get_template(template).render(page=page)


def _headline(title: str, rows: Sequence[Row], reference: Row | None, ships: Row | None) -> dict[str, Any]:
    """The answer: a headline, a sentence and up to three cards."""
    if reference is not None and ships is None:
        built = ", ".join(row.target for row in rows if row.variant == rows[-1].variant)
        said = f"What ships, “{rows[-1].variant}”, was built for {built} and not run here: measure it there."
        return {"headline": title, "answer": said, "cards": []}
    if reference is None or ships is None or ships is reference or ships.speedup is None:
        only = ships or reference
        score = headline_score(only) if only else None
        said = f" {score.metric} {words.score_with_interval(score)}." if score else ""
        return {
            "headline": title,
            "answer": f"One variant was measured, so there is nothing to compare.{said}",
            "cards": [],
        }
    smaller = reference.size_bytes / ships.size_bytes
    cards = [
        {
            "name": "faster, end to end",
            "figure": words.factor(ships.speedup.value),
            "detail": f"{words.latency_p50(reference.latency)} → {words.latency_p50(ships.latency)}, "
            f"{words.speedup_interval(ships.speedup)}",
        },
        {
            "name": "smaller",
            "figure": words.factor(smaller),
            "detail": f"{words.size(reference.size_bytes)} → {words.size(ships.size_bytes)}",
        },
    ]
    answer = (
        f"“{ships.variant}” on {ships.engine} ({ships.label or ships.precision}) against “{reference.variant}” on "
        f"{reference.engine} ({reference.precision})"
    )
    score = headline_score(ships)
    before = headline_score(reference)
    if score and before and score.difference:
        what = f"{score.metric}, {score.task}" if score.task != "answers" else score.metric
        cards.append(
            {
                "name": f"{what} ({score.split})",
                "figure": words.score_value(score),
                "detail": f"from {words.score_value(before)}; difference {words.difference(score)}",
            }
        )
        if not score.difference.is_beyond_chance:
            answer += f": no difference in {what} that {score.estimate.samples} samples can show."
        else:
            verb, size = "gains" if score.difference.value > 0 else "costs", abs(score.difference.value)
            figure = f"{100 * size:.1f} points" if score.is_share else words.three_figures(size)
            answer += f": it {verb} {figure} of {what}."
    else:
        answer += "."
    if lost := costs([reference, ships]).worse:
        answer += f" The most it costs anywhere: {line(lost[0])}."
    if ships.speedup.verdict == "no difference":
        speed = "as fast"
    elif ships.speedup.value >= 1:
        speed = f"{words.factor(ships.speedup.value)} faster"
    else:
        speed = f"{words.factor(1 / ships.speedup.value)} slower"
    return {"headline": f"{title}: {speed}, {words.factor(smaller)} smaller", "answer": answer, "cards": cards}


def _pareto(rows: Sequence[Row]) -> figures.Drawing | None:
    reference = reference_row(rows)
    chosen = headline_score(reference) if reference else None
    if chosen is None:
        return None
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
        return None
    metric = chosen.metric if chosen.task == "answers" else f"{chosen.metric}, {chosen.task}"
    return figures.pareto(points, metric=metric, share=chosen.is_share, name="pareto")


def _waterfalls(rows: Sequence[Row]) -> list[figures.Drawing]:
    """Size and latency of each variant on its first target that ran."""
    taken = steps(rows)
    if len(taken) < 2:
        return []
    sizes = [figures.Step(r.variant, r.size_bytes / 1e6, words.size(r.size_bytes)) for r in taken]
    latencies = [
        figures.Step(r.variant, r.latency.p50.value_ms, words.latency_p50(r.latency))
        for r in taken
        if r.latency and r.latency.p50
    ]
    asked = f" of {taken[0].request}" if taken[0].request else ""
    return [
        figures.waterfall(sizes, quantity="size, MB", name="size"),
        figures.waterfall(latencies, quantity=f"latency{asked}, ms", name="latency"),
    ]


def _table(rows: Sequence[Row], ships: Row | None) -> dict[str, Any]:
    """The end table. Where not all columns of scores fit, only the headline's stay, one for each split."""
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
    return {"header": header, "rows": [[c.main for c in line] for line in body]} if body else None


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
                f"{r.variant}, {r.target}",
                *(words.spread(r.starts.get(subject)) for subject in ("import", "open", "first")),
                words.latency_p50(r.latency),
                words.size(r.peak_bytes),
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
    median = f"{words.latency(taken.p50)} {words.latency_interval(taken.p50)}".rstrip()
    return f"Decoding one image file takes {median} (median of {taken.count}), the same for all."


def _facts(facts: Mapping[str, Any]) -> Facts:
    return [(str(name).replace("_", " "), words.fact(value)) for name, value in facts.items()]
