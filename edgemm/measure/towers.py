"""Towers: which tower of a compressed retriever lost what, by letting the towers of two bundles search each other.

In a joint space a query tower of one bundle can search a gallery of the other's: what is lost with one tower swapped is
that tower's, what is lost only with both is that they drifted apart together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import retrieval
from edgemm.measure.metrics import retrieval_ranks
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, DataError

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample


@dataclass(frozen=True, slots=True)
class Embedded:
    """The distinct raw samples of one modality, with the label and group of each, and their unit vectors."""

    raws: tuple[Any, ...]
    labels: tuple[str, ...]
    groups: tuple[str | None, ...]
    vectors: NDArray[np.float32]  # (raws, width)


@dataclass(frozen=True, slots=True)
class Search:
    """One direction with the query tower of one bundle and the gallery of one.

    Args:
        query, gallery: modalities.
        query_of, gallery_of: names of the bundles whose towers embedded them.
        clusters: (queries,) label of each, for the bootstrap.
        ranks: (queries,) of the best right item, from 1.
        nearest: (queries, up to ``retrieval.TOP``) items in order.
    """

    query: str
    gallery: str
    query_of: str
    gallery_of: str
    clusters: tuple[str, ...]
    ranks: NDArray[np.int64]
    nearest: NDArray[np.intp]


def embed(
    bundle: Bundle, split: str, samples: Sequence[Sample], *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Embedded]:
    """Every modality of the samples that leads to an embedding of its own.

    Raises:
        DataError: fewer than two such modalities, or one raw item under two labels.
        BundleError: outputs that are not finite.
    """
    found: dict[str, Embedded] = {}
    there = modalities_of(bundle, samples)
    for modality, name in retrieval.embedded(bundle).items():
        if modality in there:
            retrieval.check_one_label(split, samples, modality)
            items = retrieval.distinct(samples, modality)
            vectors = retrieval.embed(bundle, modality, name, items.raws, advance=advance)
            found[modality] = Embedded(tuple(items.raws), tuple(items.labels), tuple(items.groups), vectors)
    if len(found) < 2:
        raise DataError(
            f"bundle '{bundle.manifest.name}', split '{split}': its outputs {list(bundle.manifest.outputs)} can't be "
            "explained; expected 'logits', or one embedding for each of two modalities"
        )
    return found


def modalities_of(bundle: Bundle, samples: Sequence[Sample]) -> list[str]:
    """Inputs of the bundle that any sample has."""
    return [m for m in bundle.manifest.inputs if any(s.raw(m) is not None for s in samples)]


def searches(embedded: Mapping[str, Mapping[str, Embedded]], *, shown_groups: Sequence[str] = ()) -> list[Search]:
    """Every direction, with the towers of every pair of bundles.

    Args:
        embedded: bundle name -> modality -> what it embedded, of the same samples.
        shown_groups: groups that ``nearest`` may hold; empty: all. Ranks are of the whole gallery, and texts
            are always shown.

    Raises:
        BundleError: the bundles' embeddings differ in width, so that they are of two spaces.
        DataError: a query whose label nothing in the gallery has.
    """
    found: list[Search] = []
    modalities = [m for m in next(iter(embedded.values())) if all(m in each for each in embedded.values())]
    widths = {name: {e.vectors.shape[1] for e in each.values()} for name, each in embedded.items()}
    if len(set().union(*widths.values())) > 1:
        said = ", ".join(f"'{name}' of {sorted(w)}" for name, w in widths.items())
        raise BundleError(f"embeddings of different widths, {said}; expected two bundles of one space")
    for query, gallery in product(modalities, modalities):
        if query == gallery:
            continue
        for query_of, gallery_of in product(embedded, embedded):
            asked, searched = embedded[query_of][query], embedded[gallery_of][gallery]
            positive = np.asarray(asked.labels)[:, None] == np.asarray(searched.labels)[None, :]
            has = positive.any(axis=1)
            if not has.all():
                label = asked.labels[int(np.argmin(has))]
                raise DataError(
                    f"{query}→{gallery}: nothing of '{label}' in the gallery; give it a {gallery} too, or leave out "
                    f"its {query}"
                )
            scores = asked.vectors @ searched.vectors.T
            may = np.array(
                [not shown_groups or gallery == "text" or group in shown_groups for group in searched.groups]
            )
            most = min(retrieval.TOP, int(may.sum()))
            nearest = np.argsort(-np.where(may, scores, -np.inf), axis=1, kind="stable")[:, :most]
            found.append(
                Search(query, gallery, query_of, gallery_of, asked.labels, retrieval_ranks(scores, positive), nearest)
            )
    return found
