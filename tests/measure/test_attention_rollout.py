"""Roll-out by hand, and which rows are read."""

from __future__ import annotations

import numpy as np

from edgemm.measure.attention import grid, read_out, roll_out, word_weights


def test_two_layers_rolled_out_by_hand() -> None:
    first = np.array([[[1.0, 0.0], [1.0, 0.0]]])  # both tokens look at the first
    second = np.array([[[0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # two heads
    # mean of the heads of the second: [[0, 1], [.5, .5]]; with the shortcut [[.5, .5], [.25, .75]]
    # the first with the shortcut: [[1, 0], [.5, .5]]
    expected = np.array([[0.5, 0.5], [0.25, 0.75]]) @ np.array([[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(roll_out([first, second]), expected)
    np.testing.assert_allclose(roll_out([first, second]).sum(axis=1), 1.0)


def test_the_row_that_is_read_is_the_class_token_the_last_or_the_mean() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random((2, 4, 4))
    free = scores / scores.sum(axis=2, keepdims=True)
    causal = np.tril(scores)
    causal /= causal.sum(axis=2, keepdims=True)
    rolled = roll_out([free])
    np.testing.assert_array_equal(read_out(rolled, [free], first=True), rolled[0])
    np.testing.assert_allclose(read_out(rolled, [free], first=False), rolled.mean(axis=0))
    rolled = roll_out([causal])
    np.testing.assert_array_equal(read_out(rolled, [causal], first=False), rolled[-1])


def test_pieces_of_a_word_are_added_and_special_tokens_left_out() -> None:
    weights = np.array([0.4, 0.1, 0.2, 0.3, 0.0])
    offsets = [(0, 0), (0, 3), (3, 6), (7, 10), (0, 0)]
    found = word_weights(weights, "redder cat", offsets, [None, 0, 0, 1, None])
    assert [word for word, _ in found] == ["redder", "cat"]
    np.testing.assert_allclose([weight for _, weight in found], [0.5, 0.5])


def test_patches_are_a_square_or_nothing() -> None:
    square = grid(np.arange(4.0))
    assert square is not None
    np.testing.assert_array_equal(square, [[0, 1], [2, 3]])
    assert grid(np.arange(6.0)) is None
