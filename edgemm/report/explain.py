"""explain.html: what one or two models do, side by side, drawn with the report's own style.

First what each modality brings, then where the models look, then what they get most wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgemm import __version__
from edgemm.measure import as_text, metrics
from edgemm.measure.contribution import SHARES, SHUFFLED, Contributions, mean_within
from edgemm.measure.examples import Example
from edgemm.measure.metrics import Estimate
from edgemm.measure.outputs import ERROR
from edgemm.measure.swapped_towers import Search
from edgemm.report.cards import Seen, card
from edgemm.report.fill import fill, write_page

Cell = tuple[str, str]  # a figure, and what stands small below it


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a title, column names, rows of cells."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One sample with what each model says of it, and where each looks."""

    example: Example
    seen: Sequence[Seen]


@dataclass(frozen=True, slots=True)
class Section:
    """Cases under one heading."""

    title: str
    note: str
    cases: Sequence[Case]


@dataclass(frozen=True, slots=True)
class Explanation:
    """All that the page shows.

    Args:
        variants: name of each model -> sha256 of its manifest.
        contributions: split -> variant -> what its modalities bring; empty for retrieval.
        searches: split -> every direction with every pair of towers; empty for classifiers.
        sections: cases to look at.
        notes: what could not be shown, and why.
    """

    title: str
    family: str
    variants: Mapping[str, str]
    contributions: Mapping[str, Mapping[str, Contributions]]
    searches: Mapping[str, tuple[Sequence[Search], Sequence[str]]]
    sections: Sequence[Section]
    notes: Sequence[str] = ()

    @property
    def embeds(self) -> bool:
        """Whether it is of embedders of one modality, whose samples search each other."""
        return any(search.query == search.gallery for found, _ in self.searches.values() for search in found)

    def tables(self) -> list[Table]:
        """Return the figures as tables, for the terminal and the page alike."""
        return [
            *(table for split, found in self.contributions.items() for table in contribution_tables(split, found)),
            *(tower_table(split, found, labels) for split, (found, labels) in self.searches.items()),
        ]


def contribution_tables(split: str, found: Mapping[str, Contributions]) -> list[Table]:
    """Return per way of leaving a modality out and per measure: everything, each modality's Shapley value, nothing.

    With two models the last column is the paired difference, second minus first. Shares are in points, errors in the
    unit of the truth.
    """
    first = next(iter(found.values()))
    return [
        _contribution_table(f"{split}: {measure}, absent: {absent}", found, absent, measure)
        for absent, measure in first.values
        if all((absent, measure) in each.values for each in found.values())
    ]


def group_tables(split: str, found: Mapping[str, Contributions]) -> list[Table]:
    """Return the table of the accuracy, or of a regression's error, of each group; none where there is but one."""
    first = next(iter(found.values()))
    groups = dict.fromkeys(first.groups)
    if len(groups) < 2:
        return []
    measure = first.measure
    return [
        _contribution_table(f"{split}, {group or 'no group'}: {measure}", found, SHUFFLED, measure, group=group)
        for group in groups
    ]


def _contribution_table(
    title: str, found: Mapping[str, Contributions], absent: str, measure: str, **group: str | None
) -> Table:
    first = next(iter(found.values()))
    inside = np.array([not group or g == group["group"] for g in first.groups])
    clusters = [c for c, here in zip(first.clusters, inside, strict=True) if here]
    columns = {name: each.rows(absent, measure) for name, each in found.items()}
    rows: list[tuple[Cell, ...]] = []
    for key in next(iter(columns.values())):
        means = [mean_within(column[key], inside, signed=_signed(key, measure)) for column in columns.values()]
        cells = [_figure(metrics.estimate(mean, clusters=clusters), measure) for mean in means]
        if len(means) == 2:
            found_difference = metrics.difference(means[1], means[0], clusters=clusters)
            say = as_text.points if measure in SHARES else as_text.signed_with_interval
            cells.append(f"{say(found_difference)}{as_text.verdict(found_difference)}")
        name = {"all": "with everything", "none": "with nothing"}.get(key, f"{key} brings")
        rows.append(((name, ""), *(_cell(cell) for cell in cells)))
    unit = ", points" if measure in SHARES else ""
    columns_ = [f"{name}{unit}" for name in (*found, *(["difference"] if len(found) == 2 else []))]
    return Table(f"{title} ({len(clusters)} samples)", ("", *columns_), tuple(rows))


def _signed(key: str, measure: str) -> bool:
    """Return whether a row can be negative, and so is no share."""
    return key not in ("all", "none") or measure not in SHARES


def _figure(e: Estimate, measure: str) -> str:
    """With its interval: shares in points, anything else in its own unit."""
    if measure in SHARES:
        return _points(e)
    return f"{_plain(e.value)} {as_text.bracket(e, _plain)}".rstrip()


def _plain(value: float) -> str:
    return f"{as_text.MINUS if value < 0 else ''}{as_text.three_figures(abs(value))}"


def _points(e: Estimate) -> str:
    def said(value: float) -> str:
        return f"{as_text.MINUS if round(value, 3) < 0 else ''}{abs(100 * value):.1f}"

    return f"{said(e.value)} {as_text.bracket(e, said)}".rstrip()


def _cell(text: str) -> Cell:
    """Return a figure, its interval small below it."""
    main, bracket, interval = text.partition(" [")
    return main, f"[{interval}" if bracket else ""


def tower_table(split: str, found: Sequence[Search], variants: Sequence[str]) -> Table:
    """Recall in each direction with the query tower of one model and the gallery of another; of embedders its own."""
    first = variants[0]
    rows: list[tuple[Cell, ...]] = []
    for search in found:
        whole = next(
            s for s in found if (s.query, s.gallery, s.query_of, s.gallery_of)
            == (search.query, search.gallery, first, first)
        )  # fmt: skip
        direction = f"{search.query}→{search.gallery}"
        clusters = search.clusters  # pictures of one concept are not independent
        cells: list[Cell] = [(direction, f"{len(clusters)} queries"), (search.query_of, ""), (search.gallery_of, "")]
        for k in (1, 10):
            recall = metrics.recall_at(search.ranks, k)
            lost = metrics.difference(recall, metrics.recall_at(whole.ranks, k), clusters=clusters)
            change = "" if search is whole else f"{as_text.points(lost)}{as_text.verdict(lost)}"
            cells += [_cell(_points(metrics.estimate(recall, clusters=clusters))), _cell(change)]
        rows.append(tuple(cells if len(variants) > 1 else (*cells[:4], cells[5])))
    against = f"against {first}"
    header: tuple[str, ...] = ("direction", "query tower", "gallery tower", "R@1, %", against, "R@10, %", against)
    if len(variants) == 1:
        header = (*header[:4], header[5])
    if any(search.query == search.gallery for search in found):  # of embedders, whose galleries are their own
        header = (header[0], "model", *header[3:])
        return Table(f"{split}: what is found first", header, tuple((*row[:2], *row[3:]) for row in rows))
    return Table(f"{split}: whose tower finds what", header, tuple(rows))


def write_explanation(out: Path, explanation: Explanation) -> None:
    """Write the page to the file ``out``; atomic: what was there stays until the new one is complete."""
    write_page(out, render_explanation(explanation))


def render_explanation(explanation: Explanation) -> str:
    """Return the page as a string."""
    measure = next((each.measure for found in explanation.contributions.values() for each in found.values()), "")
    figures_ = [_bars(split, found) for split, found in explanation.contributions.items()]
    return fill(
        "explain.html",
        page={
            "title": explanation.title,
            "family": explanation.family.replace("_", " "),
            "version": __version__,
            "answer": _answer(explanation),
            "figures": figures_,
            "tables": [_shown(table) for table in explanation.tables()],
            "groups": [_shown(t) for s, found in explanation.contributions.items() for t in group_tables(s, found)],
            "misleads": any(bar["series"] == 4 for figure in figures_ for bar in figure["bars"]),
            "kind": "answers" if explanation.contributions else "embedder" if explanation.embeds else "retriever",
            "measure": measure,
            "pair": len(explanation.variants) == 2,
            "sections": [
                {"title": s.title, "note": s.note, "cards": [card(case.example, case.seen) for case in s.cases]}
                for s in explanation.sections
                if s.cases
            ],
            "notes": list(explanation.notes),
            "digests": list(explanation.variants.items()),
        },
    )


def _answer(explanation: Explanation) -> str:
    """Return one sentence: what each modality brings to the model that ships."""
    if not explanation.contributions:
        what = "What is found first" if explanation.embeds else "Which tower finds what"
        return f"{what}, where the models look, and what they get most wrong."
    split, found = next(iter(explanation.contributions.items()))
    name, last = list(found.items())[-1]
    measure = last.measure
    brought = {m: float(v.mean()) for m, v in last.shapley(SHUFFLED, measure).items()}
    full, empty = (float(v.mean()) for v in (last.full(SHUFFLED, measure), last.empty(SHUFFLED, measure)))
    if measure == ERROR:
        said = [f"{m} takes off {_plain(value)}" for m, value in brought.items()]
        return (
            f"“{name}” is off by {_plain(-full)} on average on {split}, and by {_plain(-empty)} where all that it is "
            f"shown belongs to other samples: {', '.join(said)}."
        )
    said = [f"{m} brings {as_text.signed(100 * value)}" for m, value in brought.items()]
    return (
        f"“{name}” is right in {100 * full:.1f} % of {split}, and in {100 * empty:.1f} % where all that it is shown "
        f"belongs to other samples. In points, {', '.join(said)}."
    )


def _bars(split: str, found: Mapping[str, Contributions]) -> dict[str, Any]:
    measure = next(iter(found.values())).measure
    columns = {variant: each.rows(SHUFFLED, measure) for variant, each in found.items()}
    most = 1.0 if measure in SHARES else max(abs(float(v.mean())) for rows in columns.values() for v in rows.values())
    bars = []
    for variant, rows in columns.items():
        for key, values in rows.items():
            value = float(values.mean())
            mean = mean_within(values, np.ones(len(values), bool), signed=_signed(key, measure))
            name = {"all": variant, "none": "with nothing"}.get(key, f"{key} brings")
            figure = _figure(metrics.estimate(mean, clusters=found[variant].clusters), measure)
            of_one = {"all": 5, "none": 1, "text": 2, "image": 3}.get(key, 6)
            bars.append(
                {
                    "name": name,
                    "sub": key != "all",
                    "said": f"{variant}, {name}: {figure.partition(' [')[0]}{' points' if measure in SHARES else ''}",
                    "width": f"{min(100 * abs(value) / (most or 1.0), 100):.1f}",
                    "series": 4 if value < 0 and key not in ("all", "none") else of_one,
                    "value": figure,
                }
            )
    unit = "points" if measure in SHARES else "the unit of the truth"
    return {"title": f"{split}: {measure}, and what brings it, in {unit}", "bars": bars}


def _shown(table: Table) -> dict[str, Any]:
    rows = [[{"main": main, "small": small} for main, small in row] for row in table.rows]
    return {"title": table.title, "header": table.header, "rows": rows}
