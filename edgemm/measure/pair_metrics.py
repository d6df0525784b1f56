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
    """

    similarity: Floats
    first: NDArray[np.intp]
    second: NDArray[np.intp]
    identities: int

    @property
    def genuine(self) -> NDArray[np.bool_]:
        """(P,) whether both are of one identity."""
        return np.asarray(self.first == self.second)

    def weights(self, drawn: Weights) -> Floats:
        """(R, P) from how often each identity was drawn, (R, identities)."""
        return np.where(self.genuine, drawn[:, self.first], drawn[:, self.first] * drawn[:, self.second])


def sorted_pairs(similarity: Floats, first: NDArray[np.integer], second: NDArray[np.integer]) -> Pairs:
    """Pairs in descending order of similarity, identities renumbered from 0."""
    order = np.argsort(-similarity, kind="stable")
    names, numbers = np.unique(np.concatenate([first, second]), return_inverse=True)
    ones, others = np.split(numbers, 2)
    return Pairs(similarity[order].astype(np.float64), ones[order], others[order], len(names))


def roc(pairs: Pairs) -> tuple[Floats, Floats]:
    """False and true accept rates at every distinct threshold, from none accepted to all; (T,) each."""
    far, tar = _rates(pairs, np.ones((1, pairs.identities)))
    return far[0], tar[0]


def area(pairs: Pairs) -> Statistic:
    """Area under the ROC curve; ties count half."""
    return partial(_area, pairs)


def tar_at(pairs: Pairs, far: float) -> Statistic | None:
    """Share of genuine pairs accepted at the lowest threshold whose false accept rate is at most ``far``.

    None where the different pairs are too few: fewer than ``FALSE_ACCEPTS / far``.
    """
    if (~pairs.genuine).sum() * far < FALSE_ACCEPTS:
        return None
    return partial(_tar_at, pairs, far)


def equal_error_rate(pairs: Pairs) -> Statistic:
    """Mean of false accept and false reject rate where they are nearest."""
    return partial(_equal_error_rate, pairs)


def accuracy_at_best_threshold(pairs: Pairs, *, seed: int = 0) -> Statistic | None:
    """Mean of the shares of genuine and of different pairs that are decided rightly.

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


def _ends(similarity: Floats) -> NDArray[np.intp]:
    """The last of each run of equal similarities."""
    return np.flatnonzero(np.append(np.diff(similarity) != 0, True))


def _rates(pairs: Pairs, drawn: Weights) -> tuple[Floats, Floats]:
    """(R, T) false and true accept rates, beginning with 0."""
    weights, ends = pairs.weights(drawn), _ends(pairs.similarity)
    rates = []
    for kind in (~pairs.genuine, pairs.genuine):
        accepted = np.cumsum(np.where(kind, weights, 0), axis=1)[:, ends]
        total = accepted[:, -1:]
        rate = np.divide(accepted, total, out=np.full_like(accepted, np.nan), where=total > 0)
        rates.append(np.concatenate([np.zeros((len(rate), 1)), rate], axis=1))
    return rates[0], rates[1]


def _area(pairs: Pairs, drawn: Weights) -> Floats:
    far, tar = _rates(pairs, drawn)
    return np.asarray((np.diff(far, axis=1) * (tar[:, 1:] + tar[:, :-1]) / 2).sum(axis=1))


def _tar_at(pairs: Pairs, limit: float, drawn: Weights) -> Floats:
    far, tar = _rates(pairs, drawn)
    last = (far <= limit).sum(axis=1) - 1
    return np.asarray(tar[np.arange(len(tar)), last])


def _equal_error_rate(pairs: Pairs, drawn: Weights) -> Floats:
    far, tar = _rates(pairs, drawn)
    apart = np.abs(far - (1 - tar))
    nearest = np.argmin(np.where(np.isnan(apart), np.inf, apart), axis=1)
    rows = np.arange(len(far))
    return np.asarray((far[rows, nearest] + 1 - tar[rows, nearest]) / 2)


def _balanced(pairs: Pairs, right: NDArray[np.bool_], drawn: Weights) -> Floats:
    weights = pairs.weights(drawn)
    shares = []
    for kind in (pairs.genuine, ~pairs.genuine):
        total = weights[:, kind].sum(axis=1)
        won = weights[:, kind & right].sum(axis=1)
        shares.append(np.divide(won, total, out=np.full(len(total), np.nan), where=total > 0))
    return np.asarray(np.mean(shares, axis=0))
