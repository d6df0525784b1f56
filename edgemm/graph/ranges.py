"""Ranges: from a histogram to the interval that 256 steps shall cover."""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgemm.graph.calibrate import Histogram

Method = Literal["minmax", "percentile", "mse"]
LEVELS = 255


def choose_range(histogram: Histogram, method: Method, *, percentile: float, symmetric: bool) -> tuple[float, float]:
    """Lower and upper end of what is represented; holds 0, so that padding and ReLU's zero are exact.

    Args:
        histogram: what calibration saw; not empty.
        percentile: for ``method="percentile"`` only.
        method: ``minmax`` keeps everything; ``percentile`` cuts ``100 - percentile`` per cent of the elements in all;
            ``mse`` minimises the squared rounding and clipping error of the elements. (Kullback-Leibler calibration
            was tried and left out: it cuts so deep that MiniLM-L6 fell to cosine .95 and EfficientNet-Lite0 to .50.)
        symmetric: ends of equal magnitude (a zero point of 0).
    """
    low, high = min(histogram.minimum, 0.0), max(histogram.maximum, 0.0)
    if symmetric:
        high = max(-low, high)
        low = -high
    if high <= low or method == "minmax":
        return low, high
    centres, counts = histogram.points()
    if method == "percentile":
        return _percentile(centres, counts, percentile, low, high, symmetric)
    weights = counts / counts.sum()
    if symmetric:
        fractions = np.linspace(0.2, 1.0, 81)
        costs = [_squared_error(centres, weights, -high * f, high * f) for f in fractions]
        best = float(fractions[int(np.argmin(costs))])
        return -high * best, high * best
    return _search_ends(centres, weights, low, high)


def _percentile(
    centres: np.ndarray, counts: np.ndarray, percentile: float, low: float, high: float, symmetric: bool
) -> tuple[float, float]:
    if symmetric:
        order = np.argsort(np.abs(centres), kind="stable")
        share = np.cumsum(counts[order]) / counts.sum()
        end = float(np.abs(centres[order][min(int(np.searchsorted(share, percentile / 100)), len(order) - 1)]))
        return -end, end
    share = np.cumsum(counts) / counts.sum()
    tail = (1 - percentile / 100) / (2 if low < 0 < high else 1)
    first = float(centres[np.searchsorted(share, tail)]) if low < 0 else 0.0
    last = float(centres[min(int(np.searchsorted(share, 1 - tail)), len(centres) - 1)]) if high > 0 else 0.0
    return min(first, 0.0), max(last, 0.0)


def _search_ends(centres: np.ndarray, weights: np.ndarray, low: float, high: float) -> tuple[float, float]:
    """Coordinate descent over both ends: each is tried at fractions of itself with the other held."""
    fractions = np.linspace(0.1, 1.0, 46)
    a = b = 1.0
    for _ in range(2):
        if high > 0:
            b = float(
                fractions[int(np.argmin([_squared_error(centres, weights, low * a, high * f) for f in fractions]))]
            )
        if low < 0:
            a = float(
                fractions[int(np.argmin([_squared_error(centres, weights, low * f, high * b) for f in fractions]))]
            )
        if low == 0 or high == 0:
            break
    return low * a, high * b


def _squared_error(centres: np.ndarray, weights: np.ndarray, low: float, high: float) -> float:
    step = (high - low) / LEVELS
    if step <= 0:
        return float("inf")
    offset = round(-low / step)
    quantized = (np.clip(np.round(centres / step) + offset, 0, LEVELS) - offset) * step
    return float((weights * (centres - quantized) ** 2).sum())
