"""Task metrics and their bootstrap intervals, in plain numpy, so that a figure never stands without its uncertainty.

Every metric here is a function of *weights*: (R, N) non-negative, one row per bootstrap resample, one column per
sample. A row of ones gives the plain metric, multinomial rows give its bootstrap distribution, and two variants on the
same rows give the paired difference. So the point estimate, the interval and the comparison share one definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64]
Statistic = Callable[[Weights], NDArray[np.float64]]

RESAMPLES = 2000
CONFIDENCE = 0.95
_CHUNK = 250  # resamples held at once: 250 x 5,000 samples of float64 is 10 MB


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its two-sided interval; ``samples`` is how many it rests on (0: nothing was measured)."""

    value: float
    low: float
    high: float
    samples: int
    confidence: float = CONFIDENCE

    @property
    def is_beyond_chance(self) -> bool:
        """Whether the interval excludes zero; not where there is none."""
        return self.low > 0 or self.high < 0


def retrieval_ranks(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank of each query's best positive, 1 being the best; several positives are allowed.

    Ties count against the model: a negative that scores exactly as high as the best positive stands before it, so a
    collapsed embedding gets the worst rank, not the best.

    Args:
        scores: (queries, gallery), higher is nearer.
        positive: (queries, gallery), at least one per row.

    Returns:
        (queries,) int64, from 1 to gallery.

    Raises:
        ValueError: shapes differ, a query without a positive, or a score that is not a number.
    """
    if scores.shape != positive.shape or scores.ndim != 2:
        raise ValueError(f"scores {scores.shape} and positive {positive.shape}: expected one (queries, gallery) shape")
    if not positive.any(axis=1).all():
        raise ValueError(f"query {int(np.argmin(positive.any(axis=1)))} has no positive in the gallery")
    if np.isnan(scores).any():
        raise ValueError("scores hold NaN")
    best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
    return np.asarray(1 + ((scores >= best) & ~positive).sum(axis=1), np.int64)


def recall_at(ranks: NDArray[np.int64], k: int) -> Statistic:
    """Return share of queries whose best positive is among the first ``k``."""
    return mean_of((ranks <= k).astype(np.float64))


def mean_of(values: NDArray[np.float64]) -> Statistic:
    """Weighted mean of (N,) ``values``; with 0/1 correctness this is the accuracy."""
    return partial(_weighted_mean, np.asarray(values, np.float64))


def median_of(values: NDArray[np.integer] | NDArray[np.floating]) -> Statistic:
    """Weighted median of (N,) ``values``; the midpoint of the two middle ones where the count is even."""
    order = np.argsort(values, kind="stable")
    return partial(_weighted_median, np.asarray(values, np.float64)[order], order)


def estimate(
    statistic: Statistic,
    *,
    clusters: Sequence[str] | NDArray[np.generic],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Return the statistic on all samples, and its percentile bootstrap interval over clusters.

    Samples of one cluster (questions about one image, images of one concept) are drawn together, since they are not
    independent; resampling them singly would make the interval too narrow.

    Where the statistic is a share (a mean of zeros and ones) that is exactly 0 or 1, the bootstrap has no spread to
    show; the far bound is then the exact binomial (Clopper-Pearson) one over the clusters.

    Args:
        statistic: what to estimate, of all N samples.
        clusters: (N,) the cluster of each sample; ``np.arange(n)`` where samples are independent.
        resamples: rows of the bootstrap.
        confidence: of the two-sided interval.
        seed: of the resampling; the same for all variants, so that differences are paired.
    """
    return distribution(statistic, clusters=clusters, resamples=resamples, seed=seed).estimate(confidence=confidence)


def difference(
    statistic: Statistic,
    reference: Statistic,
    *,
    clusters: Sequence[str] | NDArray[np.generic],
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """``statistic - reference`` on the same samples, with its paired bootstrap interval.

    Both see the same resamples, so what the samples have in common cancels: the interval of the difference is far
    narrower than the two intervals side by side suggest.
    """
    one, other = (distribution(s, clusters=clusters, resamples=resamples, seed=seed) for s in (statistic, reference))
    return one.difference(other, confidence=confidence)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A statistic on all samples and on every resample, so that both its interval and differences come from one pass.

    Args:
        clusters: how many there are.
        share: whether it is a mean of zeros and ones.
    """

    value: float
    resampled: NDArray[np.float64]
    samples: int
    clusters: int
    share: bool

    def estimate(self, *, confidence: float = CONFIDENCE) -> Estimate:
        """See ``estimate``, the function."""
        found = _estimate(self.value, self.resampled, self.samples, confidence)
        if self.samples and self.share and self.value in (0.0, 1.0):
            bound = ((1 - confidence) / 2) ** (1 / self.clusters)
            low, high = (bound, 1.0) if self.value == 1.0 else (0.0, 1 - bound)
            return replace(found, low=low, high=high)
        return self._as_known(found)

    def difference(self, reference: Distribution, *, confidence: float = CONFIDENCE) -> Estimate:
        """This minus the reference, resample by resample; both of the same clusters and seed."""
        resampled = self.resampled - reference.resampled
        return self._as_known(_estimate(self.value - reference.value, resampled, self.samples, confidence))

    def _as_known(self, found: Estimate) -> Estimate:
        """Without an interval where there is one cluster: drawn again it is always the same, which says nothing."""
        return found if self.clusters > 1 else replace(found, low=float("nan"), high=float("nan"))


def distribution(
    statistic: Statistic, *, clusters: Sequence[str] | NDArray[np.generic], resamples: int = RESAMPLES, seed: int = 0
) -> Distribution:
    """Return the statistic on all N samples and on ``resamples`` draws of their clusters."""
    if len(clusters) == 0:
        return Distribution(float("nan"), np.full(resamples, np.nan), 0, 0, False)
    value = float(statistic(np.ones((1, len(clusters))))[0])
    spread = np.concatenate([statistic(rows) for rows in _resamples(clusters, resamples=resamples, seed=seed)])
    return Distribution(value, spread, len(clusters), len(np.unique(np.asarray(clusters))), _is_share(statistic))


def _estimate(value: float, resampled: NDArray[np.float64], samples: int, confidence: float) -> Estimate:
    if samples == 0 or np.isnan(value) or np.isnan(resampled).all():
        return Estimate(value, float("nan"), float("nan"), samples, confidence)
    tail = (1 - confidence) / 2
    low, high = (float(x) for x in np.nanquantile(resampled, [tail, 1 - tail]))
    return Estimate(value, low, high, samples, confidence)


def _resamples(clusters: Sequence[str] | NDArray[np.generic], *, resamples: int, seed: int) -> Iterator[Weights]:
    """Multinomial weights per cluster, spread to its samples: (chunk, N) at a time; one seed, one set of rows."""
    _, member = np.unique(np.asarray(clusters), return_inverse=True)
    drawn = _drawn(int(member.max()) + 1, resamples, seed)
    for start in range(0, resamples, _CHUNK):
        yield drawn[start : start + _CHUNK][:, member].astype(np.float64)


@lru_cache(maxsize=4)
def _drawn(count: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """How often each of ``count`` clusters is drawn in each resample; kept, since all metrics of a table share it."""
    rng = np.random.default_rng(seed)
    rows = [rng.multinomial(count, np.full(count, 1 / count)) for _ in range(resamples)]
    return np.minimum(np.stack(rows), 255).astype(np.uint8)  # a cluster drawn more than 255 times does not occur


def _is_share(statistic: Statistic) -> bool:
    """Return whether it is a mean of zeros and ones; a median rank or an F1 of 1 is not binomial."""
    if not isinstance(statistic, partial) or statistic.func is not _weighted_mean:
        return False
    return bool(np.isin(statistic.args[0], (0.0, 1.0)).all())


def _weighted_mean(values: NDArray[np.float64], weights: Weights) -> NDArray[np.float64]:
    total = weights.sum(axis=1)
    return np.asarray(np.divide(weights @ values, total, out=np.full(len(weights), np.nan), where=total > 0))


def _weighted_median(values: NDArray[np.float64], order: NDArray[np.intp], weights: Weights) -> NDArray[np.float64]:
    cumulative = np.cumsum(weights[:, order], axis=1)
    half = cumulative[:, -1:] / 2
    lower = np.argmax(cumulative >= half, axis=1)
    upper = np.argmax(cumulative > half, axis=1)
    return np.asarray((values[lower] + values[upper]) / 2)
