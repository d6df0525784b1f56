"""Timing: the measurement core. Warm-up by drift, interleaved samples, order-statistic intervals, paired ratios.

It is on the device side, because what counts is the bundle's own latency on the user's machine; the workbench
measures with the same functions. Raw samples are kept by the caller; every summary here is derived from them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Samples = np.ndarray  # int64 (n,), nanoseconds, in the order in which they were taken

# The fewest samples for which a quantile is given: with fewer, the chance that none lies beyond it exceeds 0.13 %,
# (p ** n), so its upper bound would not be a bound. 64 for p90 and 662 for p99.
FLOORS: Mapping[float, int] = {0.5: 10, 0.9: 64, 0.99: 662}


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a warm-up went. ``stable`` is False where time ran out while latencies still drifted."""

    runs: int
    seconds: float
    first_ms: float
    stable: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """A quantile in milliseconds and its 95 % confidence interval."""

    value_ms: float
    low_ms: float
    high_ms: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Quantiles of one call's latency; None ("n/a") below the sample floor of each."""

    count: int
    p50: Estimate | None
    p90: Estimate | None
    p99: Estimate | None


SMALLEST = 0.02
"""A ratio nearer to 1 is no difference: one graph raced against itself has intervals from 0.98 to 1.03 on OpenVINO."""

Verdict = Literal["faster", "slower", "no difference"]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long A takes as B: the median paired ratio, its 95 % interval, and what follows for A."""

    value: float
    low: float
    high: float
    verdict: Verdict

    @property
    def no_difference(self) -> str:
        """Return ``"no difference"``, with the rule where the interval alone would say otherwise."""
        within = "" if self.low <= 1 <= self.high else f": within {SMALLEST:.0%}".replace("%", " %")
        return f"no difference{within}"


def warm_until_stable(
    call: Callable[[], object],
    *,
    window: int = 20,
    min_seconds: float = 0.1,
    max_seconds: float = 10.0,
    tolerance: float = 0.03,
) -> WarmUp:
    """Run ``call`` until its latency no longer drifts.

    Two neighbouring windows of at least ``window`` runs are compared; it is stable once their medians differ by at
    most ``tolerance``, or by no more than their own noise (a Mann-Whitney test at 5 %).

    Args:
        call: what to run.
        window: runs in a window at least.
        min_seconds: warm up at least that long.
        tolerance: relative difference of medians that counts as none.
        max_seconds: give up after that long (not before both windows have been filled).
    """
    clock = time.perf_counter_ns
    taken: list[int] = []
    start = clock()
    while True:
        began = clock()
        call()
        ended = clock()
        taken.append(ended - began)
        seconds = (ended - start) / 1e9
        # Windows grow with the run, so that a slow drift of short calls is seen as well.
        size = max(window, len(taken) // 4)
        checkable = len(taken) >= 2 * window and seconds >= min_seconds and len(taken) % window == 0
        if checkable and not _drifts(np.array(taken[-2 * size : -size]), np.array(taken[-size:]), tolerance):
            return WarmUp(len(taken), seconds, taken[0] / 1e6, True)
        if seconds >= max_seconds and len(taken) >= 3:
            return WarmUp(len(taken), seconds, taken[0] / 1e6, False)


def sample_latencies(
    calls: Mapping[str, Callable[[], object]],
    *,
    min_seconds: float,
    min_samples: int,
    seed: int = 0,
    untimed: int = 0,
    max_seconds: float = math.inf,
    on_round: Callable[[float], None] = lambda _: None,
) -> dict[str, Samples]:
    """Time several calls interleaved: each round runs every call once, in a random order.

    Slow drift of the machine (other load, clock rate, heat) then meets all calls alike, and sample ``i`` of one call
    is the pair of sample ``i`` of every other. Nothing is warmed up here, and nothing is discarded.

    Args:
        calls: name -> what to time.
        min_seconds: of the whole loop; rounds go on until this and ``min_samples`` are reached.
        min_samples: rounds at least.
        seed: of the order within the rounds.
        untimed: calls of the same thing before each timed one, so that the CPU's caches hold what is timed and not
            what the call before it left there: the steady state of a device that runs one model.
        max_seconds: stop then all the same, with fewer samples; at least one round is run.
        on_round: told after each round, untimed, what share is done, 0..1.

    Returns:
        name -> int64 nanoseconds, one per round, all of one length.
    """
    clock = time.perf_counter_ns
    names = list(calls)
    rng = np.random.default_rng(seed)
    taken: dict[str, list[int]] = {name: [] for name in names}
    start, rounds = clock(), 0
    while True:
        order = rng.permutation(len(names))
        for index in order:
            call = calls[names[index]]
            for _ in range(untimed):
                call()
            began = clock()
            call()
            taken[names[index]].append(clock() - began)
        rounds += 1
        seconds = (clock() - start) / 1e9
        if (seconds >= min_seconds and rounds >= min_samples) or seconds >= max_seconds:
            return {name: np.array(samples, np.int64) for name, samples in taken.items()}
        share = min(seconds / min_seconds if min_seconds else 1.0, rounds / min_samples if min_samples else 1.0)
        on_round(max(share, seconds / max_seconds))


def summary(samples: Samples) -> Summary:
    """p50, p90 and p99 with 95 % intervals, None below the floors (10, 64 and 662 samples)."""
    ordered = np.sort(samples)
    return Summary(len(ordered), _quantile(ordered, 0.5), _quantile(ordered, 0.9), _quantile(ordered, 0.99))


def quantile_ranks(count: int, p: float, *, confidence: float = 0.95) -> tuple[int, int]:
    """Ranks (from 1) of the order statistics that enclose the p-quantile with at least that confidence.

    Distribution-free: the number of samples below the quantile is binomial(count, p), so the interval
    [X(low), X(high)] covers it with probability P(low <= B < high). A rank is clamped to 1 or ``count`` where no
    sample lies far enough out. Samples are taken as independent; bursts of load make the interval too narrow.

    Source: David and Nagaraja, "Order Statistics", section 7.1.
    """
    tail = (1 - confidence) / 2
    log_p, log_q = math.log(p), math.log1p(-p)
    cumulative, low, high = 0.0, 1, count
    for below in range(count + 1):
        cumulative += math.exp(
            math.lgamma(count + 1) - math.lgamma(below + 1) - math.lgamma(count - below + 1)
            + below * log_p + (count - below) * log_q
        )  # fmt: skip
        if cumulative <= tail:
            low = below + 1
        if cumulative >= 1 - tail:
            high = min(below + 1, count)
            break
    return low, high


def paired_ratio(a: Samples, b: Samples, *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95) -> Ratio:
    """Return how many times as long A takes as B, from samples of one interleaved run.

    The median of ``a[i] / b[i]``; the interval is a percentile bootstrap over blocks of about n**(1/3)
    consecutive rounds, since neighbouring rounds share the machine's mood. "no difference" where 1 is inside it,
    or where the median is within ``SMALLEST`` of 1.

    Raises:
        ValueError: different lengths, or no samples.

    Source: Efron and Tibshirani 1993 (percentile interval); Künsch 1989 (moving blocks).
    """
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"paired samples: got {len(a)} and {len(b)}, expected two equal numbers of at least 1")
    ratios = np.asarray(a, np.float64) / np.asarray(b, np.float64)
    count = len(ratios)
    block = max(1, round(count ** (1 / 3)))
    rng = np.random.default_rng(seed)
    blocks = -(-count // block)
    medians = np.empty(resamples)
    for i in range(resamples):
        starts = rng.integers(0, count - block + 1, blocks)
        picked = (starts[:, None] + np.arange(block)).ravel()[:count]
        medians[i] = np.median(ratios[picked])
    tail = (1 - confidence) / 2
    low, high = (float(v) for v in np.quantile(medians, [tail, 1 - tail]))
    value = float(np.median(ratios))
    verdict: Verdict = "no difference"
    if abs(value - 1) >= SMALLEST and not low <= 1 <= high:
        verdict = "faster" if high < 1 else "slower"
    return Ratio(value, low, high, verdict)


def _quantile(ordered: np.ndarray, p: float) -> Estimate | None:
    count = len(ordered)
    if count < FLOORS[p]:
        return None
    low, high = quantile_ranks(count, p)
    value = float(np.quantile(ordered, p))
    return Estimate(value / 1e6, float(ordered[low - 1]) / 1e6, float(ordered[high - 1]) / 1e6)


def _drifts(before: np.ndarray, after: np.ndarray, tolerance: float) -> bool:
    first, second = float(np.median(before)), float(np.median(after))
    if abs(second - first) <= tolerance * first:
        return False
    # Mann-Whitney U in its normal approximation; latencies of ns hardly tie.
    n, m = len(before), len(after)
    ranks = np.argsort(np.argsort(np.concatenate([before, after]), kind="stable"), kind="stable") + 1
    u = ranks[:n].sum() - n * (n + 1) / 2
    z = (u - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
    return bool(abs(z) > 1.96)
