"""Errors and correlations of a regression, as functions of bootstrap weights (see ``metrics``)."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.metrics import Statistic, Weights

Floats = NDArray[np.float64]


def mean_absolute_error(truth: Floats, predicted: Floats) -> Statistic:
    """Return mean of |predicted - truth| of (N,) values, in their unit."""
    return partial(_mean, np.abs(predicted - truth))


def root_mean_squared_error(truth: Floats, predicted: Floats) -> Statistic:
    """Root of the mean of (predicted - truth)² of (N,) values, in their unit."""
    return partial(_root_mean, (predicted - truth) ** 2)


def r_squared(truth: Floats, predicted: Floats) -> Statistic:
    """1 - Σ(truth - predicted)² / Σ(truth - mean of truth)²; 1 is best, 0 what the mean would get. NaN: no spread."""
    return partial(_r_squared, truth, predicted)


def pearson(truth: Floats, predicted: Floats) -> Statistic:
    """Linear correlation of (N,) values, -1..1; NaN where either has no spread."""
    return partial(_pearson, truth, predicted)


def spearman(truth: Floats, predicted: Floats) -> Statistic:
    """Correlation of ranks, equal values sharing their mean rank; a weight of n counts as n samples."""
    return partial(_spearman, _runs(truth), _runs(predicted))


def _mean(values: Floats, weights: Weights) -> Floats:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _root_mean(values: Floats, weights: Weights) -> Floats:
    return np.sqrt(_mean(values, weights))


def _r_squared(truth: Floats, predicted: Floats, weights: Weights) -> Floats:
    missed = weights @ (truth - predicted) ** 2
    centred = truth - truth.mean()  # the spread about any resample's mean follows from two sums, kept near 0
    spread = weights @ centred**2 - (weights @ centred) ** 2 / weights.sum(axis=1)
    there = spread > 1e-12 * np.maximum(weights @ centred**2, 1e-300)
    return np.asarray(1 - np.divide(missed, spread, out=np.full(len(weights), np.nan), where=there))


def _pearson(one: Floats, other: Floats, weights: Weights) -> Floats:
    shape = (len(weights), one.shape[-1])
    return _correlation(np.broadcast_to(one, shape), np.broadcast_to(other, shape), weights)


def _correlation(one: Floats, other: Floats, weights: Weights) -> Floats:
    """Weighted correlation of (R, N) values, row by row."""
    total = weights.sum(axis=1, keepdims=True)
    one = one - (weights * one).sum(axis=1, keepdims=True) / total
    other = other - (weights * other).sum(axis=1, keepdims=True) / total
    spread = np.sqrt((weights * one**2).sum(axis=1) * (weights * other**2).sum(axis=1))
    together = (weights * one * other).sum(axis=1)
    there = spread > 0
    return np.asarray(np.divide(together, spread, out=np.full(len(weights), np.nan), where=there))


def _runs(values: Floats) -> NDArray[np.intp]:
    """(N,) which of the distinct values, smallest first, each is."""
    return np.asarray(np.unique(values, return_inverse=True)[1])


def _spearman(one: NDArray[np.intp], other: NDArray[np.intp], weights: Weights) -> Floats:
    return _correlation(_ranks(one, weights), _ranks(other, weights), weights)


def _ranks(run: NDArray[np.intp], weights: Weights) -> Floats:
    """(R, N) mean ranks, up to one constant that a correlation doesn't see."""
    order = np.argsort(run, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(run[order]) != 0))
    of_run = np.add.reduceat(weights[:, order], starts, axis=1)
    return np.asarray((np.cumsum(of_run, axis=1) - of_run / 2)[:, run])
