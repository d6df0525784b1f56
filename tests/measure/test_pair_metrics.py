"""Verification against scikit-learn, a resample of identities against its pairs written out, and the draw of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from edgemm.measure import metrics, pair_metrics
from edgemm.measure.pair_metrics import Pairs, sorted_pairs
from edgemm.measure.verification import identity_pairs


def pairs_of(identities: int, each: int, *, seed: int = 0, levels: int = 60) -> Pairs:
    """All pairs of noisy identities, their similarities rounded so that many tie."""
    rng = np.random.default_rng(seed)
    identity = np.repeat(np.arange(identities), each)
    vectors = rng.standard_normal((identities, 8))[identity] + 0.9 * rng.standard_normal((len(identity), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    one, other = np.triu_indices(len(identity), 1)
    similarity = np.round((vectors[one] * vectors[other]).sum(axis=1) * levels) / levels
    return sorted_pairs(similarity, identity[one], identity[other])


def test_the_curve_and_what_is_read_off_it_are_scikit_learns() -> None:
    pairs = pairs_of(30, 4)
    far, tar, _ = roc_curve(pairs.genuine, pairs.similarity, drop_intermediate=False)
    made = pair_metrics.roc(pairs)
    np.testing.assert_allclose(made[0], far)
    np.testing.assert_allclose(made[1], tar)
    one = np.ones((1, pairs.identities))
    assert pair_metrics.area(pairs)(one)[0] == pytest.approx(roc_auc_score(pairs.genuine, pairs.similarity))
    strict = pair_metrics.tar_at(pairs, 1e-2)
    assert strict is not None
    assert strict(one)[0] == pytest.approx(tar[far <= 1e-2].max())
    nearest = np.argmin(np.abs(far - (1 - tar)))
    assert pair_metrics.equal_error_rate(pairs)(one)[0] == pytest.approx((far[nearest] + 1 - tar[nearest]) / 2)


def test_too_few_different_pairs_say_nothing_of_a_strict_far() -> None:
    pairs = pairs_of(30, 4)  # 120 samples: 6,960 different pairs, 7 false accepts at 1e-3
    assert pair_metrics.tar_at(pairs, 1e-3) is None
    assert pair_metrics.tar_at(pairs_of(36, 4), 1e-3) is not None  # 10,080


def test_drawing_identities_weighs_pairs_as_if_they_were_written_out() -> None:
    pairs = pairs_of(7, 3)
    drawn = np.array([2, 0, 1, 1, 3, 0, 0])
    times = np.where(pairs.genuine, drawn[pairs.first], drawn[pairs.first] * drawn[pairs.second])
    truth, similarity = np.repeat(pairs.genuine, times), np.repeat(pairs.similarity, times)
    far, tar, _ = roc_curve(truth, similarity, drop_intermediate=False)
    row = drawn[None].astype(float)
    assert pair_metrics.area(pairs)(row)[0] == pytest.approx(roc_auc_score(truth, similarity))
    nearest = np.abs(far - (1 - tar)).min()
    at = pair_metrics.equal_error_rate(pairs)(row)[0]
    assert any(
        at == pytest.approx((f + 1 - t) / 2) for f, t in zip(far, tar, strict=True) if abs(f - (1 - t)) == nearest
    )


def test_the_threshold_is_chosen_on_one_half_and_tried_on_the_other() -> None:
    # Every genuine pair at .9 and every other at .1: any half finds a threshold that is right on the other.
    identity = np.repeat(np.arange(6), 2)
    one, other = np.triu_indices(12, 1)
    same = identity[one] == identity[other]
    clean = sorted_pairs(np.where(same, 0.9, 0.1), identity[one], identity[other])
    best = pair_metrics.accuracy_at_best_threshold(clean)
    assert best is not None
    assert best(np.ones((1, 6)))[0] == 1.0
    # The halves disagree: what separates one says nothing of the other, whose pairs all lie above it or below it.
    half = np.random.default_rng(0).permutation(6) < 3
    shifted = np.where(same, 0.6, 0.4) + np.where(half[identity[one]] & half[identity[other]], 0.0, 2.0)
    torn = pair_metrics.accuracy_at_best_threshold(sorted_pairs(shifted, identity[one], identity[other]))
    assert torn is not None
    assert torn(np.ones((1, 6)))[0] == 0.5  # all genuine pairs are accepted, and so are all others
    lonely = sorted_pairs(np.array([0.5, 0.2]), np.array([0, 0]), np.array([0, 1]))
    assert pair_metrics.accuracy_at_best_threshold(lonely) is None


def test_identities_get_the_interval_that_repeated_experiments_show() -> None:
    # The spread of the area over 60 fresh sets of identities against the width that one set's bootstrap says.
    areas = [
        float(pair_metrics.area(pairs)(np.ones((1, pairs.identities)))[0])
        for pairs in (pairs_of(20, 3, seed=seed) for seed in range(60))
    ]
    widths = []
    for seed in range(8):
        pairs = pairs_of(20, 3, seed=seed)
        e = metrics.estimate(pair_metrics.area(pairs), clusters=np.arange(20), resamples=400)
        widths.append(e.high - e.low)
    true_width = 2 * 1.96 * np.std(areas)
    assert 0.7 < np.mean(widths) / true_width < 1.6


def test_all_pairs_are_compared_where_they_are_few_and_a_draw_of_both_kinds_where_not() -> None:
    identity = np.repeat(np.arange(50), 6)
    one, other, whole = identity_pairs(identity, most=10**9)
    assert len(one) == 300 * 299 // 2
    assert whole == {"genuine": 50 * 15, "different": len(one) - 750}
    one, other, same_whole = identity_pairs(identity, most=2000)
    genuine = identity[one] == identity[other]
    assert same_whole == whole
    assert (int(genuine.sum()), len(one)) == (500, 2000)  # a quarter at most
    assert len({(a, b) for a, b in zip(one.tolist(), other.tolist(), strict=True)}) == 2000
    assert (one != other).all()
    again = identity_pairs(identity, most=2000)
    np.testing.assert_array_equal(one, again[0])


def test_folds_count_alike_and_identities_are_drawn_with_their_pairs() -> None:
    # Fold a: three pairs, all above or below a threshold that fold b gives; fold b: two, one of them wrong at a's.
    similarity = np.array([0.9, 0.8, 0.2, 0.7, 0.6])
    first, second = np.array([0, 1, 2, 3, 0]), np.array([0, 1, 3, 3, 2])
    pairs = sorted_pairs(similarity, first, second, np.array(["a", "a", "a", "b", "b"]))
    folded = pair_metrics.accuracy_over_folds(pairs)
    assert folded is not None
    # b's best threshold is .7, at which a is right thrice; a's is .8, at which of b the genuine pair is missed.
    assert folded(np.ones((1, 4)))[0] == pytest.approx((1 + 1 / 2) / 2)
    # Without identity 3, and so without b's genuine pair and a's different one.
    assert folded(np.array([[1.0, 1, 1, 0]]))[0] == pytest.approx(1.0)
    assert np.isnan(folded(np.zeros((1, 4)))[0])
    assert pair_metrics.accuracy_over_folds(sorted_pairs(similarity, first, second)) is None
