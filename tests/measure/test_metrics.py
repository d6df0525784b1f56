"""Metrics against plain references, and the bootstrap's coverage."""

from __future__ import annotations

import numpy as np
import pytest

from edgemm.measure import as_text, metrics
from edgemm.measure.class_metrics import macro, one_hot
from edgemm.measure.row import Score


def plain_rank(scores: list[float], positive: list[bool]) -> int:
    best = max(s for s, p in zip(scores, positive, strict=True) if p)
    return 1 + sum(1 for s, p in zip(scores, positive, strict=True) if s >= best and not p)


def plain_macro_f1(truth: list[int], predicted: list[int]) -> float:
    total = []
    for c in sorted(set(truth) | set(predicted)):
        tp = sum(t == p == c for t, p in zip(truth, predicted, strict=True))
        total.append(2 * tp / (truth.count(c) + predicted.count(c)))
    return sum(total) / len(total)


def test_ranks_agree_with_a_plain_loop_with_several_positives_and_ties() -> None:
    rng = np.random.default_rng(1)
    scores = rng.integers(0, 6, size=(40, 25)).astype(np.float32)  # few levels: many ties
    positive = rng.random((40, 25)) < 0.15
    positive[:, 3] = True
    expected = [plain_rank(list(s), list(p)) for s, p in zip(scores, positive, strict=True)]
    assert metrics.retrieval_ranks(scores, positive).tolist() == expected


def test_a_collapsed_embedding_gets_the_worst_rank() -> None:
    ranks = metrics.retrieval_ranks(np.ones((4, 10)), np.eye(4, 10, dtype=bool))
    assert ranks.tolist() == [10, 10, 10, 10]


def test_a_query_without_positive_and_nan_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="query 1 has no positive"):
        metrics.retrieval_ranks(np.ones((2, 2)), np.array([[True, False], [False, False]]))
    with pytest.raises(ValueError, match="NaN"):
        metrics.retrieval_ranks(np.full((1, 2), np.nan), np.array([[True, False]]))


def test_metrics_at_unit_weights_are_the_plain_metrics() -> None:
    rng = np.random.default_rng(2)
    ranks = rng.integers(1, 40, size=101)
    ones = np.ones((1, 101))
    assert metrics.recall_at(ranks, 10)(ones)[0] == pytest.approx(np.mean(ranks <= 10))
    assert metrics.median_of(ranks)(ones)[0] == np.median(ranks)
    assert metrics.median_of(ranks[:100])(ones[:, :100])[0] == np.median(ranks[:100])
    truth, predicted = rng.integers(0, 7, 101), rng.integers(0, 8, 101)
    assert macro("F1", *one_hot(truth, predicted))(ones)[0] == pytest.approx(
        plain_macro_f1(truth.tolist(), predicted.tolist())
    )


def test_weights_mean_the_same_as_repeating_the_samples() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = rng.integers(0, 5, 30), rng.integers(0, 5, 30)
    weights = rng.multinomial(30, np.full(30, 1 / 30), size=8).astype(float)
    for row in weights:
        repeated = np.repeat(np.arange(30), row.astype(int))
        expected = plain_macro_f1(truth[repeated].tolist(), predicted[repeated].tolist())
        assert macro("F1", *one_hot(truth, predicted))(row[None])[0] == pytest.approx(expected)
        assert metrics.median_of(truth)(row[None])[0] == np.median(truth[repeated])
        assert metrics.mean_of(truth.astype(float))(row[None])[0] == pytest.approx(truth[repeated].mean())


def test_the_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 300 experiments at 95 %: the count covered has a standard deviation of 3.8; percentile intervals are a bit narrow.
    rng = np.random.default_rng(4)
    covered = 0
    for experiment in range(300):
        hits = (rng.random(120) < 0.7).astype(float)
        e = metrics.estimate(metrics.mean_of(hits), clusters=np.arange(120), resamples=400, seed=experiment)
        covered += e.low <= 0.7 <= e.high
    assert 0.90 <= covered / 300 <= 0.98


def test_clustered_samples_get_the_wider_interval_that_they_deserve() -> None:
    rng = np.random.default_rng(5)
    hits = np.repeat(rng.random(40) < 0.5, 10).astype(float)  # ten copies of forty answers
    alone = metrics.estimate(metrics.mean_of(hits), clusters=np.arange(400))
    together = metrics.estimate(metrics.mean_of(hits), clusters=np.repeat(np.arange(40), 10))
    assert alone.value == together.value
    assert 2.5 < (together.high - together.low) / (alone.high - alone.low) < 4  # sqrt(10) = 3.2


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(6)
    a = (rng.random(300) < 0.7).astype(float)
    b = a.copy()
    b[rng.choice(300, 6, replace=False)] = 0
    d = metrics.difference(metrics.mean_of(b), metrics.mean_of(a), clusters=np.arange(300))
    single = metrics.estimate(metrics.mean_of(a), clusters=np.arange(300))
    assert d.value == pytest.approx(b.mean() - a.mean())
    assert d.high - d.low < (single.high - single.low) / 2
    same = metrics.difference(metrics.mean_of(a), metrics.mean_of(a), clusters=np.arange(300))
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)


def test_a_perfect_score_keeps_an_interval() -> None:
    e = metrics.estimate(metrics.mean_of(np.ones(50)), clusters=np.arange(50))
    assert e.value == e.high == 1.0
    assert e.low == pytest.approx(0.025 ** (1 / 50))
    zero = metrics.estimate(metrics.mean_of(np.zeros(50)), clusters=np.arange(50))
    assert zero.high == pytest.approx(1 - 0.025 ** (1 / 50))


def test_only_a_share_gets_the_binomial_bound() -> None:
    ranks = metrics.estimate(metrics.median_of(np.ones(50)), clusters=np.arange(50))
    assert (ranks.low, ranks.value, ranks.high) == (1.0, 1.0, 1.0)  # no rank is below 1
    classes = np.arange(50) % 5
    f1 = metrics.estimate(macro("F1", *one_hot(classes, classes)), clusters=np.arange(50))
    assert (f1.low, f1.value, f1.high) == (1.0, 1.0, 1.0)
    halves = metrics.estimate(metrics.mean_of(np.tile([0.5, 1.5], 25)), clusters=np.repeat(np.arange(25), 2))
    assert halves.low == halves.high == 1.0  # a mean of 1, but of no zeros and ones


def test_nothing_measured_is_not_a_number() -> None:
    assert np.isnan(metrics.estimate(metrics.mean_of(np.ones(0)), clusters=[]).value)


def test_one_cluster_says_nothing_of_what_others_would_have_given() -> None:
    right = metrics.mean_of(np.array([1.0, 1.0, 1.0, 1.0, 0.0]))
    found = metrics.estimate(right, clusters=["a"] * 5)
    assert (found.value, np.isnan(found.low), np.isnan(found.high)) == (0.8, True, True)
    lost = metrics.difference(right, metrics.mean_of(np.ones(5)), clusters=["a"] * 5)
    assert (pytest.approx(-0.2), False) == (lost.value, lost.is_beyond_chance)
    assert as_text.points(lost) == f"{as_text.MINUS}20.0"


def test_a_difference_that_chance_may_have_made_is_called_none() -> None:
    said = [
        as_text.difference(Score("test", "answers", metric, whole, metrics.Estimate(value, low, high, 9)))
        for metric, value, low, high in (
            ("accuracy", -0.006, -0.014, 0.002), ("accuracy", -0.042, -0.06, -0.024), ("MAE", 1.0, -1.0, 2.0),
            ("accuracy", -0.2, np.nan, np.nan),
        )
        for whole in [metrics.Estimate(0.9, 0.8, 1.0, 9)]
    ]  # fmt: skip
    minus = as_text.MINUS
    assert said == [
        f"{minus}0.6 points [{minus}1.4, +0.2], no difference", f"{minus}4.2 points [{minus}6.0, {minus}2.4]",
        f"+1.00 [{minus}1.00, +2.00], no difference", f"{minus}20.0 points",
    ]  # fmt: skip
