"""Metrics of classes against scikit-learn, plain and weighted as a bootstrap resample weighs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from edgemm.measure import class_metrics


def test_macro_precision_recall_and_f1_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 6, 90), rng.integers(0, 7, 90)  # class 6 is given and never true
    ones, drawn = np.ones(90), rng.multinomial(90, np.full(90, 1 / 90)).astype(float)
    held = class_metrics.one_hot(truth, predicted)
    for weights in (ones, drawn):
        precision, recall, f1, _ = precision_recall_fscore_support(
            truth, predicted, average="macro", sample_weight=weights, zero_division=np.nan
        )
        for kind, expected in zip(class_metrics.KINDS, (precision, recall, f1), strict=True):
            assert class_metrics.macro(kind, *held)(weights[None])[0] == pytest.approx(expected), kind


def test_several_labels_are_scored_as_scikit_learn_does() -> None:
    rng = np.random.default_rng(1)
    truth = rng.random((80, 5)) < 0.3
    scores = np.round(np.clip(0.5 * truth + 0.7 * rng.random((80, 5)), 0, 1), 1)  # few levels: many ties
    given = scores > 0.5
    for weights in (np.ones(80), rng.multinomial(80, np.full(80, 1 / 80)).astype(float)):
        row = weights[None]
        assert class_metrics.macro_average_precision(truth, scores)(row)[0] == pytest.approx(
            average_precision_score(truth, scores, average="macro", sample_weight=weights)
        )
        for average, statistic in (
            ("micro", class_metrics.micro_f1(truth, given)),
            ("macro", class_metrics.macro("F1", truth, given)),
        ):
            expected = f1_score(truth, given, average=average, sample_weight=weights)
            assert statistic(row)[0] == pytest.approx(expected), average
        assert class_metrics.subset_accuracy(truth, given)(row)[0] == pytest.approx(
            accuracy_score(truth, given, sample_weight=weights)
        )


def test_a_class_without_positives_has_no_average_precision_to_count() -> None:
    truth = np.array([[True, False], [False, False]])
    statistic = class_metrics.macro_average_precision(truth, np.array([[0.9, 0.1], [0.2, 0.8]]))
    assert statistic(np.ones((1, 2)))[0] == 1.0
    assert np.isnan(statistic(np.array([[0.0, 2.0]]))[0])  # the positive was not drawn


def test_each_class_and_the_confusions_are_scikit_learns() -> None:
    rng = np.random.default_rng(2)
    truth, predicted = rng.integers(0, 4, 60), rng.integers(0, 4, 60)
    made = class_metrics.per_class(truth[:, None] == np.arange(4), predicted[:, None] == np.arange(4))
    expected = precision_recall_fscore_support(truth, predicted, average=None)[:3]
    np.testing.assert_allclose(made.T, expected)
    np.testing.assert_array_equal(
        class_metrics.confusion(truth, predicted, 4), confusion_matrix(truth, predicted, labels=range(4))
    )
    assert class_metrics.confusion(np.array([-1, 2]), np.array([0, 2]), 3).sum() == 1  # an unknown truth has no row
