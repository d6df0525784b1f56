"""Errors and correlations against scikit-learn and scipy, on resamples that are written out."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

from edgemm.measure import as_text, metrics, value_metrics


def test_a_weight_of_n_is_the_sample_n_times() -> None:
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(50, 3, 70), 0)  # many equal values: ranks are shared
    predicted = np.round(truth + rng.normal(0, 2, 70), 0)
    weights = np.vstack([np.ones(70), rng.multinomial(70, np.full(70, 1 / 70), size=5)])
    for row in weights:
        which = np.repeat(np.arange(70), row.astype(int))
        t, p = truth[which], predicted[which]
        expected = {
            value_metrics.mean_absolute_error: mean_absolute_error(t, p),
            value_metrics.root_mean_squared_error: np.sqrt(mean_squared_error(t, p)),
            value_metrics.r_squared: r2_score(t, p),
            value_metrics.pearson: pearsonr(t, p).statistic,
            value_metrics.spearman: spearmanr(t, p).statistic,
        }
        for metric, value in expected.items():
            assert metric(truth, predicted)(row[None])[0] == pytest.approx(value, rel=1e-9), metric.__name__


def test_values_without_spread_have_no_correlation() -> None:
    flat, moving = np.ones(6), np.arange(6.0)
    one = np.ones((1, 6))
    assert np.isnan(value_metrics.r_squared(flat, moving)(one)[0])
    assert np.isnan(value_metrics.pearson(moving, flat)(one)[0])
    assert np.isnan(value_metrics.spearman(flat, moving)(one)[0])
    none = metrics.estimate(value_metrics.r_squared(flat, moving), clusters=np.arange(6))
    assert np.isnan([none.value, none.low, none.high]).all()


def test_an_error_of_0_gets_no_binomial_bound() -> None:
    exact = metrics.estimate(value_metrics.mean_absolute_error(np.arange(9.0), np.arange(9.0)), clusters=np.arange(9))
    assert (exact.low, exact.value, exact.high) == (0.0, 0.0, 0.0)


def test_small_quantities_are_figures_too() -> None:
    truth, predicted = (1e-9 * np.array(row) for row in ([3.0, 9.0, 4.0, 7.0], [3.5, 8.0, 5.0, 7.5]))
    found = value_metrics.pearson(truth, predicted)(np.ones((1, 4)))[0]
    assert found == pytest.approx(np.corrcoef(truth, predicted)[0, 1])
    assert [as_text.three_figures(v) for v in (1.234e-10, 0.00012345, 0.12345, 1234.5)] == [
        "1.23e-10", "0.000123", "0.123", "1234",
    ]  # fmt: skip
