"""Prediction: what the bundle answers, as arrays and, where labels or a gallery are there, as named matches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

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


@dataclass(frozen=True)
class GallerySet:
    """Embeddings to search: ``vectors`` float32 (D, N) with columns of length 1, and their N labels."""

    vectors: np.ndarray
    labels: tuple[str, ...]

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Cosine similarity to every entry; (batch, N) float32 in -1..1."""
        lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
        return np.asarray((embeddings / np.maximum(lengths, 1e-12)).astype(np.float32) @ self.vectors)


Ranker = LabelSet | GallerySet


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
        """Per sample the best ``top`` (label, score) of one output, best first.

        The score is the probability of a class by ``logits`` where the bundle has labels, else the cosine similarity to
        the bundle's gallery of an output that is an embedding of its width.

        Raises:
            InputError: an output that the bundle names nothing for.
        """
        if output not in self._ranked:
            raise InputError(f"matches_of: nothing names '{output}'; there is {', '.join(self._ranked) or 'nothing'}")
        ranker = self._ranked[output]
        scores = ranker.scores(self.outputs[output])
        best = np.argsort(-scores, axis=-1, kind="stable")[:, : self.top]
        return tuple(
            tuple((ranker.labels[column], float(row[column])) for column in columns)
            for row, columns in zip(scores, best, strict=True)
        )
