"""Precision, recall, F1 and average precision over classes, as functions of bootstrap weights (see ``metrics``).

A class counts in a macro mean where it occurs: in truth or answers for F1, in answers for precision, and in truth for
recall and average precision. So a resample that lacks a rare class isn't punished for it.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.metrics import Statistic, Weights, mean_of

Bools = NDArray[np.bool_]
Kind = Literal["precision", "recall", "F1"]
KINDS: tuple[Kind, ...] = ("precision", "recall", "F1")
THRESHOLD = 0.5  # of a probability, for a class of a multi-label model to be given


def one_hot(truth: NDArray[np.integer], predicted: NDArray[np.integer]) -> tuple[Bools, Bools]:
    """(N, classes) each, over the classes that occur in either."""
    classes = np.union1d(truth, predicted)
    return truth[:, None] == classes, predicted[:, None] == classes


def macro(kind: Kind, is_truth: Bools, is_predicted: Bools) -> Statistic:
    """Unweighted mean over classes of (N, C) truth and prediction; 0 where nothing at all occurs.

    As scikit-learn's ``precision_recall_fscore_support(average="macro", zero_division=nan)``, except that F1 is 0 for a
    class that occurs and is never right.
    """
    return partial(_macro, kind, is_truth.astype(np.float64), is_predicted.astype(np.float64))


def micro_f1(is_truth: Bools, is_predicted: Bools) -> Statistic:
    """F1 of all (N, C) decisions together: 2·TP / (truth + given)."""
    both = (is_truth & is_predicted).sum(axis=1).astype(np.float64)
    either = is_truth.sum(axis=1).astype(np.float64) + is_predicted.sum(axis=1)
    return partial(_share_of_sums, 2 * both, either)


def subset_accuracy(is_truth: Bools, is_predicted: Bools) -> Statistic:
    """Return share of samples whose set of classes is exactly right."""
    return mean_of((is_truth == is_predicted).all(axis=1).astype(np.float64))


def macro_average_precision(is_truth: Bools, scores: NDArray[np.floating]) -> Statistic:
    """Return mean over the classes that have a positive of Σ (Rₙ - Rₙ₋₁)·Pₙ, samples of one score taken together.

    Args:
        is_truth: (N, C).
        scores: (N, C), higher is surer.

    Source: the definition of scikit-learn's ``average_precision_score``.
    """
    classes = [_Ranked.of(scores[:, c], is_truth[:, c]) for c in range(scores.shape[1])]
    return partial(_macro_average_precision, classes)


def per_class(is_truth: Bools, is_predicted: Bools) -> NDArray[np.float64]:
    """(C, 3) precision, recall and F1 of each class of (N, C); NaN where nothing was given (or is true)."""
    both = (is_truth & is_predicted).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.stack(
            [
                both / is_predicted.sum(axis=0),
                both / is_truth.sum(axis=0),
                2 * both / (is_truth.sum(axis=0) + is_predicted.sum(axis=0)),
            ],
            axis=1,
        )


def confusion(truth: NDArray[np.integer], predicted: NDArray[np.integer], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: row is the truth, column the answer; truths outside 0..classes-1 are left out."""
    known = truth >= 0
    flat = np.bincount(truth[known] * classes + predicted[known], minlength=classes * classes)
    return flat.reshape(classes, classes)


def _macro(kind: Kind, is_truth: Weights, is_predicted: Weights, weights: Weights) -> NDArray[np.float64]:
    both = weights @ (is_truth * is_predicted)
    if kind == "F1":
        both, whole = 2 * both, weights @ (is_truth + is_predicted)
    else:
        whole = weights @ (is_predicted if kind == "precision" else is_truth)
    each = np.divide(both, whole, out=np.zeros_like(both), where=whole > 0)
    return np.asarray(each.sum(axis=1) / np.maximum((whole > 0).sum(axis=1), 1))


def _share_of_sums(part: Weights, whole: Weights, weights: Weights) -> NDArray[np.float64]:
    total = weights @ whole
    return np.asarray(np.divide(weights @ part, total, out=np.zeros(len(weights)), where=total > 0))


class _Ranked:
    """One class's samples from the surest down.

    Args:
        order: (N,) places of the samples.
        hits: (P,) places, in that order, of those that are true.
        ends: (P,) of each of those, the place of the last sample that is as sure.
    """

    def __init__(self, order: NDArray[np.intp], hits: NDArray[np.intp], ends: NDArray[np.intp]) -> None:
        self.order, self.hits, self.ends = order, hits, ends

    @classmethod
    def of(cls, scores: NDArray[np.floating], is_truth: Bools) -> _Ranked:
        order = np.argsort(-scores, kind="stable")
        last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
        hits = np.flatnonzero(is_truth[order])
        return cls(order, hits, last[np.searchsorted(last, hits)])

    def average_precision(self, times: NDArray[np.float32]) -> NDArray[np.float64]:
        """(R,) from (N, R) weights, whose sums are exact in float32; NaN where no positive was drawn."""
        drawn = times[self.order]
        taken = np.cumsum(drawn, axis=0)[self.ends]
        positive = drawn[self.hits]
        right = np.cumsum(positive, axis=0)[np.searchsorted(self.hits, self.ends, side="right") - 1]
        precision = np.divide(right, taken, out=np.zeros(right.shape), where=taken > 0)
        total = right[-1].astype(np.float64)
        gained = (positive * precision).sum(axis=0)
        return np.asarray(np.divide(gained, total, out=np.full(len(total), np.nan), where=total > 0))


def _macro_average_precision(classes: list[_Ranked], weights: Weights) -> NDArray[np.float64]:
    times = np.ascontiguousarray(weights.T, np.float32)
    each = np.stack([c.average_precision(times) for c in classes if len(c.hits)] or [np.full(len(weights), np.nan)])
    there = ~np.isnan(each)
    return np.asarray(
        np.divide(
            np.where(there, each, 0).sum(axis=0), there.sum(axis=0), out=np.full(len(weights), np.nan),
            where=there.any(axis=0),
        )
    )  # fmt: skip
