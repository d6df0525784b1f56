"""The front against the definition, pair by pair."""

from __future__ import annotations

import numpy as np

from edgemm.measure.pareto import pareto_front


def test_the_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(c), float(s)) for c, s in rng.integers(0, 6, size=(12, 2))]  # few values: many ties
        expected = {
            i
            for i, (c, s) in enumerate(points)
            if not any(oc <= c and os >= s and (oc, os) != (c, s) for oc, os in points)
        }
        front = pareto_front(points)
        assert set(front) == expected
        assert [points[i][0] for i in front] == sorted(points[i][0] for i in front)


def test_no_points_have_no_front() -> None:
    assert pareto_front([]) == ()
