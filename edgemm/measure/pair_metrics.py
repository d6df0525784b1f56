"""Verification of pairs: ROC curve, its area, TAR at a FAR, equal error rate, accuracy at a threshold chosen elsewhere.

Pairs that share an identity are not independent, so identities are drawn, not pairs: a statistic here is a function of
weights (R, identities). A pair of two identities counts as the product of their weights, a pair within one identity as
often as that identity was drawn.
Source: Owen & Eckles 2012, "Bootstrapping data arrays of arbitrary order" (products of weights); Bolle, Ratha &
Pankanti 2004, "Error analysis of pattern recognition systems: the subsets bootstrap" (genuine pairs by identity).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.metrics import Statistic, Weights

Floats = NDArray[np.float64]

FALSE_ACCEPTS = 10  # a FAR is only shown where at least so many false accepts make it up


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of samples, the most alike first.

    Args:
        similarity: (P,) float64, descending.
        first, second: (P,) the identity of each, 0..identities-1; a genuine pair has the same twice.
        identities: how many there are.
        fold: (P,) the part of a cross-validation that each pair is in; None without.
    """

    similarity: Floats
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    identities: int
    fold: NDArray[np.str_] | None = None

    @property
    def genuine(self) -> NDArray[np.bool_]:
        """(P,) whether both are of one identity."""
        return np.asarray(self.first == self.second)


def sorted_pairs(
    similarity: Floats,
    first: NDArray[np.integer],
    second: NDArray[np.integer],
    fold: NDArray[np.str_] | None = None,
) -> Pairs:
    """Pairs in descending order of similarity, identities renumbered from 0."""
    order = np.argsort(-similarity, kind="stable")
    names, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    ones, others = np.split(numbers, 2)
    folds = None if fold is None else fold[order]
    return Pairs(similarity[order].astype(np.float64), ones[order], others[order], len(names), folds)


def roc(pairs: Pairs) -> tuple[Floats, Floats]:
    """False and true accept rates at every distinct threshold, from none accepted to all; (T,) each."""
    false, true = _accepted(pairs, np.ones((1, pairs.identities)))
    with np.errstate(invalid="ignore"):
        return (false / false[-1])[:, 0], (true / true[-1])[:, 0]


def area(pairs: Pairs) -> Statistic:
    """Area under the ROC curve; ties count half."""
    return partial(_area, pairs)


def tar_at(pairs: Pairs, far: float) -> Statistic | None:
    """Return share of genuine pairs accepted at the lowest threshold whose false accept rate is at most ``far``.

    None where the different pairs are too few: fewer than ``FALSE_ACCEPTS / far``.
    """
    if (~pairs.genuine).sum() * far < FALSE_ACCEPTS:
        return None
    return partial(_tar_at, pairs, far)


def equal_error_rate(pairs: Pairs) -> Statistic:
    """Return mean of false accept and false reject rate where they are nearest."""
    return partial(_equal_error_rate, pairs)


def accuracy_at_best_threshold(pairs: Pairs, *, seed: int = 0) -> Statistic | None:
    """Return mean of the shares of genuine and of different pairs that are decided rightly.

    The identities are cut into two halves; the threshold is the best one of the first half's pairs, and is tried on the
    second half's. None where a half lacks one of the two kinds.
    """
    half = np.random.default_rng(seed).permutation(pairs.identities) < pairs.identities // 2
    chosen, tried = half[pairs.first] & half[pairs.second], ~half[pairs.first] & ~half[pairs.second]
    if any(not (side & kind).any() for side in (chosen, tried) for kind in (pairs.genuine, ~pairs.genuine)):
        return None
    known = Pairs(pairs.similarity[chosen], pairs.first[chosen], pairs.second[chosen], pairs.identities)
    far, tar = roc(known)
    best = int(np.argmax(tar - far))
    ends = _ends(known.similarity)
    threshold = np.inf if best == 0 else known.similarity[ends[best - 1]]
    held = Pairs(pairs.similarity[tried], pairs.first[tried], pairs.second[tried], pairs.identities)
    return partial(_balanced, held, held.genuine == (held.similarity >= threshold))


def accuracy_over_folds(pairs: Pairs) -> Statistic | None:
    """Mean over the folds of the share of pairs decided rightly, at the threshold that is best on the other folds.

    None without folds.
    Source: Huang et al. 2007, "Labeled Faces in the Wild", the ten-fold protocol of its second view.
    """
    if pairs.fold is None:
        return None
    right = np.zeros(len(pairs.similarity), bool)
    for held in (pairs.fold == name for name in np.unique(pairs.fold)):
        threshold = _best_threshold(pairs.similarity[~held], pairs.genuine[~held])
        right[held] = pairs.genuine[held] == (pairs.similarity[held] >= threshold)
    return partial(_over_folds, pairs, right)


def _best_threshold(similarity: Floats, genuine: NDArray[np.bool_]) -> float:
    """Return the highest of those that decide the most pairs rightly; pairs in descending order of similarity."""
    ends = _ends(similarity)
    gained = np.append(0, np.cumsum(np.where(genuine, 1, -1))[ends])  # over accepting none
    best = int(np.argmax(gained))
    return float("inf") if best == 0 else float(similarity[ends[best - 1]])


def _ends(similarity: Floats) -> NDArray[np.intp]:
    """Return the last of each run of equal similarities."""
    return np.flatnonzero(np.append(np.diff(similarity) != 0, True))


def _accepted(pairs: Pairs, drawn: Weights) -> tuple[Floats, Floats]:
    """(T + 1, R) how much of the different and of the genuine pairs is accepted, from nothing to all.

    Resamples lie side by side, and counts are exact in float32 below 2^24: five times as fast as rows of float64.
    """
    times = np.ascontiguousarray(drawn.T, np.float32)  # (identities, R)
    genuine = pairs.genuine
    ends = _ends(pairs.similarity)
    found = []
    for kind, places in (("false", np.flatnonzero(~genuine)), ("true", np.flatnonzero(genuine))):
        weights = times[pairs.first[places]]
        if kind == "false":
            weights *= times[pairs.second[places]]
        taken = np.zeros((len(places) + 1, weights.shape[1]), np.float32)
        np.cumsum(weights, axis=0, out=taken[1:])
        found.append(taken[np.append(0, np.searchsorted(places, ends, side="right"))])
    return found[0], found[1]


def _area(pairs: Pairs, drawn: Weights) -> Floats:
    false, true = _accepted(pairs, drawn)
    under = np.einsum("tr,tr->r", np.diff(false, axis=0), true[1:] + true[:-1], dtype=np.float64) / 2
    return _share(under, false[-1].astype(np.float64) * true[-1])


def _tar_at(pairs: Pairs, limit: float, drawn: Weights) -> Floats:
    false, true = _accepted(pairs, drawn)
    with np.errstate(invalid="ignore"):
        last = np.maximum((false / false[-1].astype(np.float64) <= limit).sum(axis=0) - 1, 0)
    return _share(true[last, np.arange(len(last))], np.where(false[-1] > 0, true[-1], 0))


def _equal_error_rate(pairs: Pairs, drawn: Weights) -> Floats:
    false, true = _accepted(pairs, drawn)
    all_false, all_true = false[-1].astype(np.float64), true[-1].astype(np.float64)
    # False accepts rise and false rejects fall: they are nearest just before they cross, or where they have.
    crossed = (false * all_true + true * all_false < all_false * all_true).sum(axis=0)
    rows = np.arange(len(crossed))
    best = np.full(len(rows), np.nan)
    apart = np.full(len(rows), np.inf)
    for place in (np.maximum(crossed - 1, 0), np.minimum(crossed, len(false) - 1)):
        far, frr = _share(false[place, rows], all_false), 1 - _share(true[place, rows], all_true)
        nearer = np.abs(far - frr) < apart
        best, apart = np.where(nearer, (far + frr) / 2, best), np.where(nearer, np.abs(far - frr), apart)
    return best


def _balanced(pairs: Pairs, right: NDArray[np.bool_], drawn: Weights) -> Floats:
    weights, genuine = _weights(pairs, drawn), pairs.genuine
    shares = [
        _share((weights * (kind & right)).sum(axis=1), (weights * kind).sum(axis=1)) for kind in (genuine, ~genuine)
    ]
    return np.asarray(np.mean(shares, axis=0))


def _over_folds(pairs: Pairs, right: NDArray[np.bool_], drawn: Weights) -> Floats:
    assert pairs.fold is not None
    weights = _weights(pairs, drawn)
    folds = (np.unique(pairs.fold)[:, None] == pairs.fold).T.astype(np.float64)  # (P, folds)
    whole = weights @ folds
    shares = _share((weights * right) @ folds, whole)
    return _share(np.nansum(shares, axis=1), (whole > 0).sum(axis=1))


def _weights(pairs: Pairs, drawn: Weights) -> Floats:
    """(R, P): a genuine pair as often as its identity was drawn, any other by the product of its two."""
    first = drawn[:, pairs.first]
    return np.where(pairs.genuine, first, first * drawn[:, pairs.second])


def _share(part: Floats, whole: Floats) -> Floats:
    """Part / whole, NaN where a resample holds no such pair."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.asarray(np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0))
