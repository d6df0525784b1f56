"""Which variants are worth having: those that no other beats on both latency and accuracy."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> tuple[int, ...]:
    """Return indices of the points that no other point dominates, by rising cost.

    A point dominates another if it costs no more, scores no less, and is strictly better in one of the two. Of equal
    points all are kept.

    Args:
        points: (cost, score) each, cost smaller is better (ms, bytes), score larger is better.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    best = float("-inf")
    for i in order:
        cost, score = points[i]
        if score > best or (front and points[front[-1]] == (cost, score)):
            front.append(i)
            best = score
    return tuple(front)
