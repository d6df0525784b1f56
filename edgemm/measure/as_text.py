"""As text: figures in words, one way everywhere: the console table and the HTML page say the same words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from edgemm.measure.metrics import Estimate
from edgemm.runtime.timing import Estimate as Quantile
from edgemm.runtime.timing import Ratio, Summary

if TYPE_CHECKING:
    from edgemm.measure.row import Score, Spread

MINUS: Final = "\N{MINUS SIGN}"
NONE: Final = "n/a"
NOT_RUN_HERE: Final = "built, not run here"


def milliseconds(value: float | None) -> str:
    """``"0.213 ms"``, ``"12.4 ms"``, ``"1.32 s"``; three figures."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{three_figures(value / 1000)} s" if value >= 1000 else f"{three_figures(value)} ms"


def size(value: float | None) -> str:
    """Return bytes in decimal units, as disks and stores count: ``"4.21 MB"``."""
    if value is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return f"{three_figures(value / factor)} {unit}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    """``"22.7 M"``, ``"340 k"``."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= factor:
            return f"{three_figures(value / factor)} {unit}"
    return f"{value:.0f}"


def three_figures(value: float) -> str:
    """Three significant figures, without an exponent from a hundred-thousandth on."""
    if not math.isfinite(value):
        return NONE
    if value == 0 or abs(value) < 1e-5:
        return f"{value:.3g}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def factor(value: float) -> str:
    """``"23.4×"``."""
    return f"{three_figures(value)}×"


def percent(share: float) -> str:
    """``"91.2 %"``."""
    return f"{100 * share:.1f} %"


def score_value(score: Score) -> str:
    """Return the value alone."""
    if math.isnan(score.estimate.value):
        return NONE
    return percent(score.estimate.value) if score.is_share else three_figures(score.estimate.value)


def score_with_interval(score: Score) -> str:
    """``"91.2 % [89.0, 93.1]"``."""
    return f"{score_value(score)} {interval(score)}".rstrip()


def interval(score: Score) -> str:
    """``"[89.0, 93.1]"``, in the unit of ``score_value``."""
    e = score.estimate
    return bracket(e, (lambda share: f"{100 * share:.1f}") if score.is_share else three_figures)


def bracket(e: Estimate, said: Callable[[float], str]) -> str:
    """``"[89.0, 93.1]"``; empty where nothing is known of what other samples would have given."""
    return "" if math.isnan(e.low) else f"[{said(e.low)}, {said(e.high)}]"


def points(difference: Estimate | None) -> str:
    """Return a difference of shares in points, with sign and interval: ``"−0.6 [−1.4, +0.2]"``."""
    if difference is None or math.isnan(difference.value):
        return ""
    return f"{signed(100 * difference.value)} {bracket(difference, lambda share: signed(100 * share))}".rstrip()


def difference(score: Score) -> str:
    """Its difference to the reference, with the unit: ``"−4.2 points [−6.0, −2.4]"``, ``"+1.00 [+1.00, +2.00]"``.

    One that chance may have made says so: ``"−0.6 points [−1.4, +0.2], no difference"``.
    """
    found = score.difference
    if found is None or math.isnan(found.value):
        return ""
    if score.is_share:
        value, space, rest = points(found).partition(" ")
        return f"{value} points{space}{rest}{verdict(found)}"
    return f"{signed_with_interval(found)}{verdict(found)}"


def verdict(difference: Estimate | None) -> str:
    """``", no difference"`` behind one whose interval holds zero; else nothing."""
    known = difference is not None and not math.isnan(difference.low)
    return ", no difference" if known and difference is not None and not difference.is_beyond_chance else ""


def signed_with_interval(found: Estimate) -> str:
    """Return a difference in the unit of what is compared: ``"+1.00 [+1.00, +2.00]"``; empty where there is none."""
    if math.isnan(found.value):
        return ""
    return f"{signed_figures(found.value)} {bracket(found, signed_figures)}".rstrip()


def signed_figures(value: float) -> str:
    """Three significant figures with a true sign, and no sign on zero."""
    return ("" if value == 0 else MINUS if value < 0 else "+") + three_figures(abs(value))


def signed(value: float) -> str:
    """Return one decimal, with a true minus sign, and no sign on zero."""
    text = f"{abs(value):.1f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def latency(quantile: Quantile | None) -> str:
    """Return a quantile alone, ``n/a`` below its sample floor: ``"2.31 ms"``."""
    return NONE if quantile is None else milliseconds(quantile.value_ms)


def latency_interval(quantile: Quantile | None) -> str:
    """Return a quantile's interval in the unit of ``latency``: ``"[2.29, 2.34]"``."""
    if quantile is None:
        return ""
    unit = 1000 if quantile.value_ms >= 1000 else 1
    return f"[{three_figures(quantile.low_ms / unit)}, {three_figures(quantile.high_ms / unit)}]"


def in_ms(quantile: Quantile | None) -> tuple[str, str]:
    """Return a quantile and its interval under a heading that says ms: ``("2.31", "[2.29, 2.34]")``."""
    if quantile is None:
        return NONE, ""
    value, low, high = (three_figures(ms) for ms in (quantile.value_ms, quantile.low_ms, quantile.high_ms))
    return value, f"[{low}, {high}]"


def speedup_interval(ratio: Ratio) -> str:
    """``"[22.9, 23.9]"``, and the verdict where it is not that this is the faster one."""
    verdict = {"no difference": f", {ratio.no_difference}", "faster": ", slower", "slower": ""}[
        ratio.verdict
    ]  # A's: the other's
    return f"[{three_figures(ratio.low)}, {three_figures(ratio.high)}]{verdict}"


def spread(taken: Spread | None) -> str:
    """Return a median and the range it lies in: ``"182 ms (175 to 201)"``."""
    if taken is None:
        return NONE
    unit = 1000 if taken.median_ms >= 1000 else 1
    low, high = (three_figures(ms / unit) for ms in (taken.low_ms, taken.high_ms))
    return f"{milliseconds(taken.median_ms)} ({low} to {high})"


def fact(value: object) -> str:
    """Return a value of the environment or of provenance, in one line."""
    if value is None:
        return NONE
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {fact(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(fact(v) for v in value)
    return str(value)


def latency_p50(summary: Summary | None) -> str:
    """Return the median alone."""
    return NONE if summary is None or summary.p50 is None else milliseconds(summary.p50.value_ms)
