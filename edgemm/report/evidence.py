"""What lies behind one figure of accuracy: classes, confusions, curves, and what is left when a modality is gone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.measure import as_text, class_metrics, pair_metrics
from edgemm.measure.cost import costs
from edgemm.measure.measurement import Measurement, Measurements
from edgemm.measure.row import Row, Score
from edgemm.measure.scores import ANSWERS, HEADLINE_METRICS, VERIFICATION, is_ablation, pairs, truth_matrix
from edgemm.measure.table import default_row, reference_row
from edgemm.report import figures

CLASSES = 40  # rows of the table of classes
CONFUSED = 20  # classes of the picture of confusions, and one for the rest
_SERIES = (2, 2, 3, 3, 6, 6)  # shuffled and mean of one modality share a colour


def cell(main: str, small: str = "") -> dict[str, str]:
    """Return one cell of a table on the page."""
    return {"main": main, "small": small}


def score_cell(score: Score | None) -> dict[str, str]:
    """Return a score with its interval, and small the difference to the reference in points."""
    if score is None:
        return cell("")
    change = f"{as_text.points(score.difference)}{as_text.verdict(score.difference)}" if score.is_share else ""
    return cell(as_text.score_with_interval(score), change)


def score_tables(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one table per split and task, ablations apart."""
    blocks: list[dict[str, Any]] = []
    keys = dict.fromkeys((s.split, s.task) for r in rows for s in r.scores if not is_ablation(s.task))
    for split, task in keys:
        named = list(dict.fromkeys(s.metric for r in rows for s in r.scores if (s.split, s.task) == (split, task)))
        body = []
        chance: dict[str, str] = {}
        count = 0
        for row in rows:
            scores = [row.score(split, task, metric) for metric in named]
            if not any(scores):
                continue
            body.append([cell(f"{row.variant}, {row.target}"), *(score_cell(s) for s in scores)])
            count = max([count, *(s.estimate.samples for s in scores if s)])
            chance.update({s.metric: as_text.percent(s.chance) for s in scores if s and s.chance is not None})
        if chance:
            body.append([cell("chance"), *(cell(chance.get(metric, "")) for metric in named)])
        title = f"{split}: {task}" if task != ANSWERS else split
        drawn = "identities" if task == VERIFICATION else "samples"
        blocks.append({"title": f"{title} ({count} {drawn})", "header": ["variant, target", *named], "rows": body})
    return blocks


def cost_table(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Every figure of what ships that is worse by more than chance, the worst first; None where nothing is compared."""
    found = costs(rows)
    reference, ships = reference_row(rows), default_row(rows)
    if not found.compared or reference is None or ships is None:
        return None
    return {
        "header": ["task", "split", "metric", reference.variant, ships.variant, "difference"],
        "rows": [
            [
                cell(cost.after.task),
                cell(cost.after.split),
                cell(cost.after.metric),
                cell(as_text.score_value(cost.before), as_text.interval(cost.before)),
                cell(as_text.score_value(cost.after), as_text.interval(cost.after)),
                cell(as_text.difference(cost.after)),
            ]
            for cost in found.worse
        ],
        "compared": found.compared,
        "worse": len(found.worse),
        "better": found.better,
        "ships": f"{ships.variant}, {ships.target}",
    }


# --- modalities ------------------------------------------------------------------------------------------------------


def ablations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per split: bars with all modalities and with one alone (the others shuffled), and a table of all ablations."""
    return _taken_away(rows, " only (", bars=lambda task: task.endswith("shuffled)"))


def missing(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return per split: bars with all modalities and with some missing, and the same as a table."""
    return _taken_away(rows, f"{ANSWERS}, without ", bars=lambda _: True)


def _taken_away(rows: Sequence[Row], sign: str, *, bars: Callable[[str], bool]) -> list[dict[str, Any]]:
    everything = [s for r in rows for s in r.scores if s.task == ANSWERS or is_ablation(s.task)]
    blocks: list[dict[str, Any]] = []
    for split in dict.fromkeys(s.split for s in everything if sign in s.task):
        tasks = list(dict.fromkeys(s.task for s in everything if s.split == split and sign in s.task))
        metric = next(m for m in HEADLINE_METRICS if any(s.metric == m for s in everything if s.split == split))
        alone = list(dict.fromkeys(task.split(" only ")[0] for task in tasks))
        whole = "both" if sign == " only (" and len(alone) == 2 else "all"
        drawn: list[dict[str, Any]] = []
        table: list[list[dict[str, str]]] = []
        chance = ""
        for row in rows:
            scores = {task: row.score(split, task, metric) for task in [ANSWERS, *tasks]}
            if not any(scores.values()):
                continue
            table.append([cell(f"{row.variant}, {row.target}"), *(score_cell(s) for s in scores.values())])
            for task, score in scores.items():
                if score is None or not (task == ANSWERS or bars(task)):
                    continue
                if task == ANSWERS and score.chance:
                    chance = f"{100 * score.chance:.1f}"
                drawn.append(
                    {
                        "name": f"{row.variant}, {row.target}"
                        if task == ANSWERS
                        else task.removeprefix(f"{ANSWERS}, "),
                        "sub": task != ANSWERS,
                        "said": f"{row.variant} {task}: {as_text.score_value(score)}",
                        "width": f"{100 * min(1.0, max(0.0, score.estimate.value)):.1f}",
                        "series": 5 if task == ANSWERS else _SERIES[tasks.index(task) % len(_SERIES)],
                        "value": as_text.score_with_interval(score),
                    }
                )
        what = "with one alone" if sign == " only (" else "with some missing"
        blocks.append(
            {
                "title": f"{split}: {metric} with {whole}, and {what}",
                "bars": drawn,
                "chance": chance,
                "header": ["variant, target", whole, *(task.removeprefix(f"{ANSWERS}, ") for task in tasks)],
                "rows": table,
            }
        )
    return blocks


# --- classes ---------------------------------------------------------------------------------------------------------


def class_tables(rows: Sequence[Row], measurements: Measurements) -> list[dict[str, Any]]:
    """Per split and task with classes: precision, recall and F1 of each class, of the reference and what ships."""
    blocks = []
    for split, task, found in _by_task(rows, measurements, ("answers", "probabilities", "ranks")):
        found = {name: m for name, m in found.items() if "labels" in m.details}
        if not found or is_ablation(task):
            continue
        labels = next(iter(found.values())).details["labels"]
        found = {name: m for name, m in found.items() if m.details["labels"] == labels}
        each = {name: _per_class(m) for name, m in found.items()}
        support = next(iter(each.values()))[0]
        order = [int(c) for c in np.argsort(-support, kind="stable")[:CLASSES] if support[c]]
        header = ["class", "samples"]
        for name, (_, figures_) in each.items():
            header += [f"{metric}, {name}" for metric in figures_]
        lines = []
        for c in order:
            line = [cell(str(labels[c])), cell(str(int(support[c])))]
            line += [cell(_percent(values[c])) for _, made in each.values() for values in made.values()]
            lines.append(line)
        left = int((support > 0).sum()) - len(order)
        blocks.append(
            {
                "title": f"{split}: {task}, class by class",
                "header": header,
                "rows": lines,
                "note": " ".join(
                    note
                    for note in (
                        f"The {len(order)} most frequent classes; {left} more are not shown." if left else "",
                        _unknown(next(iter(found.values()))),
                    )
                    if note
                ),
            }
        )
    return blocks


def _unknown(m: Measurement) -> str:
    """Return the sentence on samples of which a right class is none of the model's; empty where there are none."""
    truth = m.details["truth"] if m.kind != "ranks" else []
    count = sum(-1 in row if isinstance(row, list) else row == -1 for row in truth)
    if not count:
        return ""
    return f"{count} of {len(truth)} samples are of classes that the model was not taught: they count as wrong above."


def _per_class(m: Measurement) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(C,) samples of each class, and its figures by name, (C,) each."""
    count = len(m.details["labels"])
    if m.kind == "probabilities":
        is_truth, probabilities = truth_matrix(m)
        made = class_metrics.per_class(is_truth, probabilities > class_metrics.THRESHOLD)
        return is_truth.sum(axis=0), dict(zip(class_metrics.KINDS, made.T, strict=True))
    truth = np.asarray(m.details["truth"], np.int64)
    support = np.bincount(truth[truth >= 0], minlength=count)
    if m.kind == "ranks":
        right = np.bincount(truth, weights=np.asarray(m.samples) == 1, minlength=count)
        with np.errstate(invalid="ignore"):
            return support, {"top-1": right / support}
    classes = np.arange(count)
    made = class_metrics.per_class(truth[:, None] == classes, np.asarray(m.samples)[:, None] == classes)
    return support, dict(zip(class_metrics.KINDS, made.T, strict=True))


def confusions(rows: Sequence[Row], measurements: Measurements) -> list[dict[str, Any]]:
    """Return per split: what ships (or the only one) gives for each class, as a picture."""
    found: list[dict[str, Any]] = []
    for split, task, by_name in _by_task(rows, measurements, ("answers",)):
        if is_ablation(task):
            continue
        name, m = list(by_name.items())[-1]
        labels = [str(label) for label in m.details.get("labels", ())]
        if not labels:
            continue
        counts = class_metrics.confusion(
            np.asarray(m.details["truth"], np.int64), np.asarray(m.samples, np.int64), len(labels)
        )
        counts, shown = _most_frequent(counts, labels)
        drawing = figures.confusion(counts, labels=shown, name=f"confusion-{len(found)}")
        found.append({"title": f"{split}: answers of {name}", "drawing": drawing, "note": _unknown(m)})
    return found


def _most_frequent(counts: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the classes that occur, the most frequent alone and the rest as one."""
    both = counts.sum(axis=0) + counts.sum(axis=1)
    order = [int(c) for c in np.argsort(-both, kind="stable") if both[c]]
    if len(order) <= CONFUSED + 1:
        order.sort()
        return counts[np.ix_(order, order)], [labels[c] for c in order]
    kept, rest = sorted(order[:CONFUSED]), order[CONFUSED:]
    joined = np.zeros((CONFUSED + 1, CONFUSED + 1), np.int64)
    joined[:-1, :-1] = counts[np.ix_(kept, kept)]
    joined[-1, :-1], joined[:-1, -1] = counts[rest][:, kept].sum(axis=0), counts[kept][:, rest].sum(axis=1)
    joined[-1, -1] = counts[np.ix_(rest, rest)].sum()
    return joined, [*(labels[c] for c in kept), f"{len(rest)} others"]


# --- identities ------------------------------------------------------------------------------------------------------


def roc_curves(rows: Sequence[Row], measurements: Measurements) -> list[dict[str, Any]]:
    """Per split: true against false accept rate of the reference and what ships, and how many pairs were compared."""
    found: list[dict[str, Any]] = []
    for split, _, by_name in _by_task(rows, measurements, ("similarities",)):
        curves = {name: pair_metrics.roc(pairs(m)) for name, m in by_name.items()}
        m = next(iter(by_name.values()))
        compared = np.asarray(m.details["first"]) == np.asarray(m.details["second"])
        whole = int(m.details["genuine"]) + int(m.details["different"])
        note = (
            f"{int(compared.sum())} pairs of one identity, {int((~compared).sum())} of different ones, of "
            f"{m.details['identities']} identities"
        )
        if "given" in m.details:
            note += "; the pairs that the data names."
        elif whole > len(compared):
            note += f"; a seeded draw of the {whole} pairs there are."
        else:
            note += "; all pairs there are."
        drawing = figures.roc(curves, name=f"roc-{len(found)}")
        found.append({"title": f"{split}: verification", "drawing": drawing, "note": note})
    return found


def _by_task(
    rows: Sequence[Row], measurements: Measurements, kinds: Sequence[str]
) -> list[tuple[str, str, Mapping[str, Measurement]]]:
    """(split, task, variant -> its measurement) of the reference and of what ships."""
    chosen = {row.sha256: row for row in (reference_row(rows), default_row(rows)) if row is not None}
    found: dict[tuple[str, str], dict[str, Measurement]] = {}
    for row in chosen.values():
        for m in measurements.measurements:
            if m.sha256 == row.sha256 and m.kind in kinds:
                found.setdefault((m.details["split"], m.details["task"]), {}).setdefault(row.variant, m)
    return [(split, task, by_name) for (split, task), by_name in found.items()]


def _percent(share: float) -> str:
    return as_text.NONE if np.isnan(share) else as_text.percent(float(share))
