"""Lines of progress say what is known: how many of how many, and nothing of an end that nobody knows."""

from __future__ import annotations

import io
import re

from edgemm.pipeline.progress import Lines


def test_a_known_total_gives_a_count_and_the_time_left() -> None:
    heard = io.StringIO()
    with Lines(heard, every_s=0.0).task("calibration values", total=4) as task:
        task.advance()
    assert re.fullmatch(r"  calibration values: 1/4, [\d.]+ s left\n", heard.getvalue())


def test_an_unknown_total_gives_a_count_alone() -> None:
    heard = io.StringIO()
    with Lines(heard, every_s=0.0).task("calibration values", total=0) as task:
        task.advance(3, note="cat.png")
    assert heard.getvalue() == "  calibration values: 3  cat.png\n"
