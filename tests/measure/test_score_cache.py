"""Kept scores: given again as they were, and scored again where they were damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemm.measure import score_cache
from edgemm.measure.scores import Scored
from edgemm.stage import Context

SCORED = Scored("values", "test", "regression", (0.625, 2.0), {"truth": [0.5, 2.25]})


def test_scores_are_read_as_they_were_written(tmp_path: Path) -> None:
    said: list[str] = []
    path = score_cache.file_of(Context(scratch=tmp_path, cache=tmp_path), ["a graph", 1])
    assert score_cache.read(path, say=said.append) is None  # none yet, which is nothing to say
    score_cache.write(path, [SCORED])
    (found,) = score_cache.read(path, say=said.append) or ()
    assert (found.samples, found.details) == (SCORED.samples, SCORED.details)
    assert said == []


@pytest.mark.parametrize("damage", ["a digit", "cut", "empty", "of another key"])
def test_damaged_scores_are_not_taken_and_that_is_said(tmp_path: Path, damage: str) -> None:
    context = Context(scratch=tmp_path, cache=tmp_path)
    path, other = (score_cache.file_of(context, ["a graph", number]) for number in (1, 2))
    assert path is not None
    assert other is not None
    score_cache.write(other, [SCORED])
    data = other.read_bytes()
    assert b"0.625" in data
    path.write_bytes(
        {"a digit": data.replace(b"0.625", b"0.925"), "cut": data[:50], "empty": b"", "of another key": data}[damage]
    )
    said: list[str] = []
    assert score_cache.read(path, say=said.append) is None
    assert said == [f"scores: {path}: damaged since it was written; scored again"]
