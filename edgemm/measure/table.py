"""The end table: one row per variant and target, derived from raw measurements and from nothing else.

A row joins latency and accuracy by the sha256 of the bytes measured. A latency whose bytes were never scored is not
shown, and a target whose engine cannot run on this machine shows its size and says "built, not run here".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from edgemm.measure import as_text, metrics
from edgemm.measure.measurement import TASKS, Measurement, Measurements
from edgemm.measure.row import Request, Row, Score, Spread
from edgemm.measure.scores import (
    ANSWERS,
    HEADLINE_METRICS,
    IDENTIFICATION,
    TEACHERS,
    VERIFICATION,
    headline_metric,
    headline_task,
    is_ablation,
    statistics,
)
from edgemm.runtime.timing import Summary, paired_ratio, summary

END_TO_END = "end to end"
IMAGE_DECODING = "image decoding"
HOW_TIMED = (
    "p50: of several samples, in turn with the other variants; bench repeats one sample, hot in the caches, and is "
    "shorter: compare within one of the two"
)
INT8_ONLY = "teacher, int8 only"
"""The variant that plain quantization of the teacher gives: what the others have to beat, and no step of theirs."""


def rows(measurements: Measurements, *, resamples: int = metrics.RESAMPLES) -> tuple[Row, ...]:
    """Derive the table, in the order in which the sizes were measured; the first row that ran is the reference.

    Raises:
        ValueError: measurements without a single size.
    """
    sizes = measurements.of("size", subject="artifact")
    if not sizes:
        raise ValueError("measurements hold no artifact size: nothing to tabulate")
    reference = next((s for s in sizes if measurements.has_accuracy(s.sha256)), sizes[0])
    held = _Distributions(resamples)
    found = [_row(measurements, size, reference, held) for size in sizes]
    score = next((s for row in found if (s := headline_score(row))), None)
    return tuple(_led_by(row, score) for row in found)


def _led_by(row: Row, score: Score | None) -> Row:
    """Return the row with the request first that the score is of: the modality asked by, or else all that meet."""
    if not row.requests:
        return row
    asked = score.task.partition("→")[0] if score else ""

    def order(request: Request) -> tuple[bool, int]:
        return request.name != asked, -len(request.name.split(" and "))

    requests = tuple(sorted(row.requests, key=order))
    return replace(row, requests=requests, latency=requests[0].latency, speedup=requests[0].speedup)


class _Distributions:
    """The bootstrap of each metric of each measurement, taken once: the reference's is asked for by every row."""

    def __init__(self, resamples: int) -> None:
        self._resamples = resamples
        self._held: dict[int, dict[str, tuple[metrics.Distribution, float | None]]] = {}

    def of(self, m: Measurement) -> Mapping[str, tuple[metrics.Distribution, float | None]]:
        """Metric -> its distribution, and what chance would get."""
        if id(m) not in self._held:
            self._held[id(m)] = {
                name: (
                    metrics.distribution(found.statistic, clusters=found.clusters, resamples=self._resamples),
                    found.chance,
                )
                for name, found in statistics(m).items()
            }
        return self._held[id(m)]


def _row(measurements: Measurements, size: Measurement, reference: Measurement, held: _Distributions) -> Row:
    details = size.details
    scored = measurements.has_accuracy(size.sha256)
    requests: list[Request] = []
    part_ms: dict[str, Summary] = {}
    if scored:  # never a latency without the accuracy of the same bytes
        for m in _same_bytes(measurements.of("latency"), size):
            if m.subject.startswith(END_TO_END):
                base = _same_bytes(measurements.of("latency", subject=m.subject), reference)
                paired = base and base[0] is not m and len(base[0].samples) == len(m.samples)
                speedup = paired_ratio(_nanoseconds(base[0]), _nanoseconds(m)) if paired else None
                name = m.subject.removeprefix(END_TO_END).removeprefix(", ")
                requests.append(Request(name, summary(_nanoseconds(m)), speedup, tuple(m.details.get("parts", ()))))
            elif m.subject != IMAGE_DECODING:
                part_ms[m.subject] = summary(_nanoseconds(m))
    return Row(
        variant=size.variant,
        target=size.target,
        engine=str(details["engine"]),
        precision=str(details["precision"]),
        sha256=size.sha256,
        parameters=int(details["parameters"]),
        size_bytes=int(sum(size.samples)),
        gallery_bytes=int(details.get("gallery_bytes", 0)),
        part_bytes={str(k): int(v) for k, v in details.get("part_bytes", {}).items()},
        threads=int(details.get("threads", 0)),
        note=str(details.get("note", "")),
        latency=None,  # both of the first request, see _led_by
        speedup=None,
        part_ms=part_ms,
        starts={m.subject: _spread(m) for m in _same_bytes(measurements.of("cold-start"), size)} if scored else {},
        peak_bytes=_peak(measurements, size) if scored else None,
        scores=tuple(_scores(measurements, size, reference, held)),
        label="" if details.get("label") == details["precision"] else str(details.get("label", "")),
        requests=tuple(requests),
    )


def _scores(measurements: Measurements, size: Measurement, reference: Measurement, held: _Distributions) -> list[Score]:
    scores: list[Score] = []
    for m in _same_bytes([m for kind in TASKS for m in measurements.of(kind)], size):
        others = [] if size.sha256 == reference.sha256 else _same_bytes(measurements.of(m.kind), reference)
        other = next((o for o in others if o.subject == m.subject and _same_samples(o, m)), None)
        against = held.of(other) if other else {}
        for metric, (found, chance) in held.of(m).items():
            difference = found.difference(against[metric][0]) if metric in against else None
            scores.append(Score(m.details["split"], m.details["task"], metric, found.estimate(), difference, chance))
    return scores


def _nanoseconds(m: Measurement) -> Any:
    return np.asarray(m.samples, np.int64)


def _same_bytes(measurements: Sequence[Measurement], size: Measurement) -> list[Measurement]:
    """Those of the same bytes on as many threads; where a variant was measured under its own name too, those alone."""
    threads = size.details.get("threads")
    same = [m for m in measurements if m.sha256 == size.sha256 and m.details.get("threads", threads) == threads]
    own = [m for m in same if (m.variant, m.target) == (size.variant, size.target)]
    return own or same


def _same_samples(one: Measurement, other: Measurement) -> bool:
    return all(one.details.get(k) == other.details.get(k) for k in ("clusters", "truth", "repeats", "first", "second"))


def _spread(m: Measurement) -> Spread:
    taken = np.asarray(m.samples) / 1e6
    return Spread(float(np.median(taken)), float(taken.min()), float(taken.max()), len(taken))


def _peak(measurements: Measurements, size: Measurement) -> int | None:
    same = _same_bytes(measurements.of("peak-memory"), size)
    return int(max(same[0].samples)) if same else None


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: what counts, and in small what it is compared with or made of."""

    main: str
    small: str = ""


def reference_row(rows: Sequence[Row]) -> Row | None:
    """Return the first row that ran here: what the others are compared with."""
    return next((row for row in rows if row.latency), None)


def default_row(rows: Sequence[Row]) -> Row | None:
    """What ships by default: the last variant's first target that ran here; None where none of its targets did."""
    return next((row for row in rows if row.latency and row.variant == rows[-1].variant), None)


def steps(rows: Sequence[Row]) -> list[Row]:
    """Return the way to what ships, for a waterfall: each variant on its first target that ran here, in order.

    Plain quantization of the teacher is no step of it.
    """
    first = {r.variant: r for r in reversed(rows) if r.latency and r.latency.p50 and r.variant != INT8_ONLY}
    order = list(dict.fromkeys(row.variant for row in rows))
    return sorted(first.values(), key=lambda row: order.index(row.variant))


def headline_score(row: Row) -> Score | None:
    """Return the score that stands for a row, on the first split.

    R@10 of text→image (or the first task) of a dual encoder, in the gallery that ships: the teacher's, where it
    embedded that. Rank-1 identification of an embedder; accuracy, macro average precision or R² of answers.
    """
    candidates = [s for s in row.scores if s.metric in HEADLINE_METRICS and not is_ablation(s.task)]
    if not candidates:
        return None
    first = {s.task: s for s in reversed(candidates) if s.split == candidates[0].split}
    return first[headline_task([s.task for s in candidates if s.split == candidates[0].split])]


_COLUMNS = ("R@1", "R@10", "rank-1", "rank-5", "macro average precision", "micro F1", "R²", "MAE")


def table_scores(rows: Sequence[Row]) -> tuple[tuple[str, str, str], ...]:
    """(split, task, metric) of the scores that get a column.

    The chief metrics of the headline's task on every split, and R@10 in the row's own gallery. Beside answers what is
    left with one modality missing, or, where the model has no placeholders, with one alone and the others shuffled;
    beside retrieval zero-shot top-1; beside identification the strictest true accept rate. The rest is in the report.
    """
    headline = next((s for row in rows if (s := headline_score(row))), None)
    if headline is None:
        return ()
    everything = [s for row in rows for s in row.scores]
    missable = any(s.task.startswith(f"{ANSWERS}, without ") for s in everything)
    strictest = next((s.metric for s in reversed(everything) if s.metric.startswith("TAR at FAR")), "ROC-AUC")

    def has_column(s: Score) -> bool:
        if s.task == headline.task:
            return s.metric in _COLUMNS or s.metric.startswith("accuracy")
        if is_ablation(s.task):
            ending = " and " not in s.task and ", without " in s.task if missable else s.task.endswith("shuffled)")
            return ending and s.metric == headline.metric
        if s.task == VERIFICATION:
            return s.metric == strictest
        own = s.metric == "R@10" and f"{s.task}{TEACHERS}" == headline.task
        return own or (s.task.startswith("zero-shot ") and s.metric == "top-1")

    return tuple(dict.fromkeys((s.split, s.task, s.metric) for s in everything if has_column(s)))


def cells(
    rows: Sequence[Row], columns: Sequence[tuple[str, str, str]] | None = None, *, labels: bool = True
) -> tuple[list[str], list[list[Cell]]]:
    """Header and body of the end table: what each variant is, takes and scores (None: ``table_scores``).

    Args:
        labels: say beside a target what it is in, where its precision says too much; else a star stands there, for
            ``label_lines`` below.
    """
    columns = table_scores(rows) if columns is None else columns
    size = "ships, gallery included" if any(row.gallery_bytes for row in rows) else "ships"
    header = ["variant, target", "parameters", size]
    names = request_names(rows)
    for name in names:
        header += [_of_request(q, name) for q in ("p50", *(["p90"] if len(names) == 1 else []), "faster")]
    header += [_column(split, task, metric, columns) for split, task, metric in columns]
    return header, [_line(row, columns, rows, labels=labels) for row in rows]


def label_lines(rows: Sequence[Row]) -> list[str]:
    """Return what the stars of ``cells`` mean, a line for each target that has one."""
    return [f"* {row.variant}, {row.target}: {row.label}" for row in rows if row.label]


def request_names(rows: Sequence[Row]) -> list[str]:
    """The requests that the rows' latencies are of, the one that stands for the bundle first; one "" without any."""
    return list(dict.fromkeys(r.name for row in rows for r in row.requests)) or [""]


def _of_request(what: str, name: str) -> str:
    return f"{what}, {name}" if name else what


def _column(split: str, task: str, metric: str, columns: Sequence[tuple[str, str, str]]) -> str:
    what = score_name(task, metric)
    return f"{what}, {split}" if len({c[0] for c in columns}) > 1 else what


def score_name(task: str, metric: str) -> str:
    """Return what heads a column of one split: ``"R@10 text→image"``, ``"accuracy"``, ``"without audio"``."""
    if is_ablation(task):
        return task.split(" (")[0].removeprefix(f"{ANSWERS}, ")
    return metric if task in (ANSWERS, IDENTIFICATION, VERIFICATION) else f"{metric} {task}"


def _line(row: Row, columns: Sequence[tuple[str, str, str]], rows: Sequence[Row], *, labels: bool) -> list[Cell]:
    reference = reference_row(rows)
    smaller = (
        f"÷ {as_text.three_figures(reference.size_bytes / row.size_bytes)}"
        if reference and row is not reference
        else ""
    )
    line = [
        Cell(row.variant, _target(row, rows, labels=labels)),
        Cell(as_text.count(row.parameters)),
        Cell(as_text.size(row.size_bytes), smaller),
    ]
    names = request_names(rows)
    if row.latency is None:
        blank = [Cell(row.note or as_text.NOT_RUN_HERE), Cell(as_text.NONE), Cell("")]
        line += blank if len(names) == 1 else [blank[0], blank[2]] * len(names)
        return line + [Cell(as_text.NONE) for _ in columns]
    by_name = {request.name: request for request in row.requests}
    for name in names:
        line += _times(by_name.get(name), p90=len(names) == 1)
    for column in columns:
        score = row.score(*column)
        line.append(Cell(as_text.score_value(score), as_text.interval(score)) if score else Cell(as_text.NONE))
    return line


def _times(request: Request | None, *, p90: bool) -> list[Cell]:
    """Return a request's quantiles, and how many times faster than the reference's it is."""
    if request is None:
        return [Cell(as_text.NONE), *([Cell(as_text.NONE)] if p90 else []), Cell("")]
    quantiles = [request.latency.p50, *([request.latency.p90] if p90 else [])]
    line = [Cell(as_text.latency(q), as_text.latency_interval(q)) for q in quantiles]
    if request.speedup is None:
        return [*line, Cell("1×", "reference")]
    return [*line, Cell(as_text.factor(request.speedup.value), as_text.speedup_interval(request.speedup))]


def _target(row: Row, rows: Sequence[Row], *, labels: bool = True) -> str:
    """The target's name, what it is where its precision alone says too much, and its threads where rows differ."""
    name = row.target if not row.label else f"{row.target}: {row.label}" if labels else f"{row.target} *"
    if row.latency is None or len({other.threads for other in rows if other.latency}) == 1:
        return name
    return f"{name}, {row.threads or 'all'} {'thread' if row.threads == 1 else 'threads'}"


def part_cells(
    rows: Sequence[Row], *, quantiles: Sequence[Literal["p50", "p90", "p99"]] = ("p50", "p90")
) -> tuple[list[str], list[list[Cell]]]:
    """Header and body of the table of latencies, end to end and by part: each with its interval, a line a quantile.

    A quantile that no row has samples enough for is left out.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.part_ms))
    asked = request_names(rows)
    known = [q for q in quantiles if any(getattr(s, q) for r in rows for s in (r.latency, *r.part_ms.values()) if s)]
    body = []
    for row in rows:
        if row.latency is None or not row.part_ms:
            continue
        for quantile in known:
            line = [Cell(row.variant, _target(row, rows)), Cell(quantile)]
            whole = {request.name: request.latency for request in row.requests}
            for taken in (*(whole.get(name) for name in asked), *(row.part_ms.get(name) for name in names)):
                line.append(Cell(*as_text.in_ms(getattr(taken, quantile))) if taken else Cell(""))
            body.append(line)
    return ["variant, target", "ms", *(_of_request(END_TO_END, name) for name in asked), *names], body


def blame_cells(
    measurements: Measurements, *, resamples: int = metrics.RESAMPLES
) -> tuple[list[str], list[list[Cell]]]:
    """Header and body of what putting one part back to float32 regains, the most first; empty where none was."""
    found = []
    header: list[str] = []
    for m in measurements.of("blame"):
        split, task = m.details["split"], m.details["task"]
        restored = replace(m, kind=m.details["kind"])
        base = next(b for b in measurements.of(restored.kind) if b.sha256 == m.sha256 and _same_task(b, m))
        metric = headline_metric(restored)
        after, before = statistics(restored)[metric], statistics(base)[metric]
        gain = metrics.difference(after.statistic, before.statistic, clusters=before.clusters, resamples=resamples)
        what = metric if task == ANSWERS else f"{metric} {task}"
        header = [f"back to float32 in {m.variant}, {m.target}", f"regains points of {what}, {split}", "costs bytes"]
        more = f"+{as_text.size(m.details['extra_bytes'])}"
        found.append(
            (
                gain.value,
                [Cell(m.details["part"]), Cell(f"{as_text.points(gain)}{as_text.verdict(gain)}"), Cell(more)],
            )
        )
    return header, [line for _, line in sorted(found, key=lambda pair: -pair[0])]


def _same_task(one: Measurement, other: Measurement) -> bool:
    return all(one.details[key] == other.details[key] for key in ("split", "task"))
