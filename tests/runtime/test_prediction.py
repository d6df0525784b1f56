"""Matches: what is found is what a plain sort finds, and finding it takes the threads asked for and no copies."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from edgemm.runtime.prediction import GallerySet, best_of, unit


def unit_rows(count: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.parametrize("levels", [1, 2, 7, 1000, None], ids=lambda levels: f"{levels or 'all'}-values")
@pytest.mark.parametrize("count", [1, 5, 256, 257, 1000])
@pytest.mark.parametrize("top", [1, 5, 64, 999, 2000])
def test_the_best_are_those_of_a_stable_sort_whatever_ties(count: int, top: int, levels: int | None) -> None:
    rng = np.random.default_rng(count + top)
    scores = rng.standard_normal(count).astype(np.float32)
    if levels is not None:
        scores = (rng.integers(0, levels, count) / levels).astype(np.float32)
    assert best_of(scores, top).tolist() == np.argsort(-scores, kind="stable")[:top].tolist()


@pytest.mark.parametrize("share", [0.002, 0.5, 1.0])
def test_a_score_that_is_no_number_is_never_the_best(share: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(1000).astype(np.float32)
    scores[rng.permutation(1000)[: int(1000 * share)]] = np.nan
    assert best_of(scores, 5).tolist() == np.argsort(-scores, kind="stable")[:5].tolist()


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_a_search_gives_cosines_to_the_bit_the_same_on_any_number_of_threads(threads: int) -> None:
    vectors, asked = unit_rows(30_001, 300, 0), 3 * unit_rows(2, 300, 1)
    found = GallerySet(vectors, ("",) * len(vectors), threads).scores(asked)
    assert found.dtype == np.float32
    # 300 products of float32 in any order of adding: the sum of at most 1 is off by less than 1e-6
    np.testing.assert_allclose(found, (asked.astype(np.float64) / 3) @ vectors.T.astype(np.float64), atol=1e-6)
    assert np.array_equal(found, GallerySet(vectors, (), 1).scores(asked))


@pytest.mark.parametrize(("dtype", "size"), [("f2", 300), ("f2", 1e-6), ("f4", 1e30), ("f4", 1e-30), ("f8", 1e300)])
def test_rows_of_any_size_are_searched_by_their_direction(dtype: str, size: float) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.uniform(0.5, 1.0, (9, 16)) * rng.choice([-1, 1], (9, 16)) * size).astype(dtype)
    wide = rows.astype(np.longdouble) / np.longdouble(size)
    wide /= np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    gallery = GallerySet(unit(rows[:5]), tuple("abcde"))
    assert gallery.vectors.dtype == np.float32
    np.testing.assert_allclose(gallery.scores(rows[5:]), (wide[5:] @ wide[:5].T).astype("f8"), atol=1e-6)  # float32's


def test_a_row_of_zeros_is_like_nothing() -> None:
    gallery = GallerySet(unit(np.eye(3, dtype=np.float32)), tuple("abc"))
    assert gallery.scores(np.zeros((2, 3), np.float32)).tolist() == [[0, 0, 0], [0, 0, 0]]


def test_a_search_copies_nothing_of_the_gallery() -> None:
    vectors, asked = unit_rows(20_000, 128, 0), unit_rows(1, 128, 1)
    gallery = GallerySet(vectors, ())
    tracemalloc.start()
    try:
        gallery.scores(asked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 50  # the scores themselves are a 128th of it


def test_one_thread_is_one_thread() -> None:
    code = """
import time, numpy as np
from edgemm.runtime.prediction import GallerySet
gallery = GallerySet(np.ones((20_000, 256), np.float32), (), 1)
asked = np.ones((1, 256), np.float32)
gallery.scores(asked)
time.sleep(0.5)  # numpy's own threads wait for work after the import, and count as busy for that long
whole, own = time.process_time(), time.thread_time()
for _ in range(40):
    gallery.scores(asked)
print((time.process_time() - whole) / (time.thread_time() - own))
"""
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=free, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.2  # CPU time of the process over that of the thread that searched
