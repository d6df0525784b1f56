"""What a run says at its end, beside the table: hand-made rows, one sentence for what a user must not overlook."""

from __future__ import annotations

import numpy as np
import pytest

from edgemm.measure.metrics import Estimate
from edgemm.measure.table import Row, Score
from edgemm.pipeline.run import far_below
from edgemm.runtime.timing import summary


def row(variant: str, recall: float, difference: float | None, *, spread: float = 0.05) -> Row:
    """A row whose R@10 is known, in a gallery in which chance finds 40 %."""
    found = Estimate(recall, recall - spread, recall + spread, 100)
    drop = None if difference is None else Estimate(difference, difference - spread, difference + spread, 100)
    score = Score("test", "text→image", "R@10", found, drop, chance=0.4)
    latency = summary(np.full(100, 1_000_000, np.int64))
    return Row(variant, "cpu", "onnxruntime", "int8", variant, 10, 10, 0, {}, "", latency, None, {}, {}, None, (score,))


@pytest.mark.parametrize(
    ("recall", "said"),
    [
        (0.95, None),
        (0.90, None),  # ten points are not more than ten
        (0.85, "R@10 text→image on 'test' is 15.0 points below teacher; see in which row"),
        (0.43, "R@10 text→image on 'test' is 57.0 points below teacher, no better than chance (40 %); see in which"),
    ],
)
def test_what_ships_far_below_its_teacher_is_said(recall: float, said: str | None) -> None:
    lines = far_below([row("teacher", 1.0, None), row("int8", recall, round(recall - 1, 6))])
    if said is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"warning: int8, cpu: {said}")


def test_a_teacher_at_chance_is_no_yardstick() -> None:
    assert far_below([row("teacher", 0.42, None), row("int8", 0.41, -0.01)]) == []


def test_a_teacher_alone_is_not_compared() -> None:
    assert far_below([row("teacher", 0.42, None)]) == []
