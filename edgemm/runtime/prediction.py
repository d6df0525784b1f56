"""Prediction: what the bundle answers, as arrays and, where labels or a gallery are there, as named matches."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np

from edgemm.runtime.errors import InputError

Match = tuple[str, float]


@dataclass(frozen=True)
class LabelSet:
    """Names for the classes of a value of logits; ``independent``: any number of them may be right at once."""

    value: str
    labels: tuple[str, ...]
    independent: bool = False

    def scores(self, logits: np.ndarray) -> np.ndarray:
        """Softmax over the last axis, or a sigmoid of each where independent; (batch, classes) float32 in 0..1."""
        if self.independent:
            return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80), dtype=np.float32)))
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True), dtype=np.float32)
        return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale (N, D) floats to rows of length 1, float32; rows of zeros stay.

    Halved or doubled first, which is exact, until the largest number is about 1: the squares of 1e30 are infinite in
    float32, those of 300 in float16, and those of 1e-30 are 0.
    """
    made = rows.astype(np.promote_types(rows.dtype, np.float32), order="C")
    largest = np.abs(made).max(axis=-1, keepdims=True, initial=0)
    made = np.ldexp(made, -np.frexp(largest)[1], out=made).astype(np.float32, copy=False)
    return np.asarray(made / np.maximum(np.linalg.norm(made, axis=-1, keepdims=True), 1e-12))


@dataclass(frozen=True)
class GallerySet:
    """Embeddings to search: ``vectors`` float32 (N, D) with rows of length 1, their N labels, threads for a search.

    ``threads`` as a bundle has them, 0: one per core. Scores don't depend on the number, to the bit.
    """

    vectors: np.ndarray
    labels: tuple[str, ...]
    threads: int = 1

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine similarity to every entry; (batch, N) float32 in -1..1."""
        asked = unit(embeddings)
        found = np.empty((len(asked), len(self.vectors)), np.float32)

        def search(rows: slice) -> None:
            # einsum, not matmul: numpy's BLAS takes every core, whatever was asked for, and for one query both wait
            # for memory alone (100,000 x 256 on one thread: 3.1 ms; reading as many bytes: 2.9 ms).
            np.einsum("nd,bd->bn", self.vectors[rows], asked, out=found[:, rows], optimize=False)

        count = max(1, min(self.threads or os.cpu_count() or 1, self.vectors.size // _WORTH_A_THREAD))
        edges = [len(self.vectors) * i // count for i in range(count + 1)]
        pieces = [slice(a, b) for a, b in pairwise(edges)]
        if count == 1:
            search(pieces[0])
        else:
            with ThreadPoolExecutor(count) as threads:  # made for each search, so that a forked process has them too
                list(threads.map(search, pieces))
        return found


Ranker = LabelSet | GallerySet

_WORTH_A_THREAD = 4_000_000  # numbers; a thread takes 0.1 ms to start, and reads as many in 0.5
_FEW = 256  # scores that are sorted sooner than looked through


def best_of(scores: np.ndarray, top: int) -> np.ndarray:
    """Return places of the ``top`` highest of (N,) scores, best first; of equal ones the first in place comes first.

    The same as ``np.argsort(-scores, kind="stable")[:top]``, without sorting what is not asked for.
    """
    count = len(scores)
    if top < count and count > _FEW:
        least = np.partition(scores, count - top)[count - top]
        above = np.flatnonzero(scores > least)
        found = np.concatenate([above, np.flatnonzero(scores == least)[: top - len(above)]])
        if len(found) == top:  # fewer where some are NaN, which equals nothing
            return np.asarray(found[np.argsort(-scores[found], kind="stable")])
    return np.argsort(-scores, kind="stable")[:top]


def named_by(ranker: Ranker, values: np.ndarray, *, top: int) -> tuple[tuple[Match, ...], ...]:
    """Return per row of ``values`` the best ``top`` (label, score), best first."""
    return tuple(
        tuple((ranker.labels[place], float(row[place])) for place in best_of(row, top)) for row in ranker.scores(values)
    )


@dataclass(frozen=True)
class Prediction:
    """Outputs of one ``predict``.

    Attributes:
        outputs: value name -> array with the batch as first axis.
        top: how many matches ``matches`` holds per sample.
    """

    outputs: Mapping[str, np.ndarray]
    top: int = 5
    _ranked: Mapping[str, Ranker] = field(default_factory=dict, repr=False, compare=False)

    @property
    def named(self) -> tuple[str, ...]:
        """The outputs that ``matches_of`` takes, in the bundle's order: several where a search was asked by several."""
        return tuple(self._ranked)

    @cached_property
    def matches(self) -> tuple[tuple[Match, ...], ...] | None:
        """Per sample the best ``top`` (label, score) of the first of ``named``; None where the bundle names nothing.

        Made when first read.
        """
        return self.matches_of(self.named[0]) if self._ranked else None

    def matches_of(self, output: str) -> tuple[tuple[Match, ...], ...]:
        """Return per sample the best ``top`` (label, score) of one output, best first.

        The score is the probability of a class by ``logits`` where the bundle has labels, else the cosine similarity to
        the bundle's gallery of an output that is an embedding of its width.

        Raises:
            InputError: an output that the bundle names nothing for.
        """
        if output not in self._ranked:
            raise InputError(f"matches_of: nothing names '{output}'; there is {', '.join(self._ranked) or 'nothing'}")
        return named_by(self._ranked[output], self.outputs[output], top=self.top)
