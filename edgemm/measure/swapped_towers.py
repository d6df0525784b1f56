"""Swapped towers: which tower of a compressed retriever lost what: the towers of two bundles search each other.

In a joint space a query tower of one bundle can search a gallery of the other's: what is lost with one tower swapped is
that tower's, what is lost only with both is that they drifted apart together. An embedder has one tower and a space of
its own: its samples search each other.
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
from edgemm.measure.verification import check_identities
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
        asked: (queries,) their places among what is embedded: all, of an embedder those whose label another has.
        clusters: (queries,) label of each, for the bootstrap.
        ranks: (queries,) of the best right item, from 1.
        margins: (queries,) cosine of the nearest right item less that of the nearest wrong one; above 0 is right.
        nearest: (queries, up to ``retrieval.TOP``) items in order.
    """

    query: str
    gallery: str
    query_of: str
    gallery_of: str
    asked: NDArray[np.intp]
    clusters: tuple[str, ...]
    ranks: NDArray[np.int64]
    margins: NDArray[np.float32]
    nearest: NDArray[np.intp]


def embed(
    bundle: Bundle, split: str, samples: Sequence[Sample], *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Embedded]:
    """Return every modality of the samples that leads to an embedding of its own.

    Raises:
        DataError: no such modality, one raw item under two labels, or one modality of a bundle that has more; of an
            embedder, too few identities.
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
    if not found:
        raise DataError(
            f"bundle '{bundle.manifest.name}', split '{split}': its outputs {list(bundle.manifest.outputs)} can't be "
            "explained; expected classes, a quantity, or embeddings that one modality each leads to"
        )
    if len(found) == 1:
        (modality,) = found
        if others := [m for m in retrieval.embedded(bundle) if m != modality]:
            raise DataError(
                f"bundle '{bundle.manifest.name}', split '{split}': the samples have '{modality}' alone, and no "
                f"{' or '.join(others)} to find or be found by; give samples of two modalities"
            )
        check_identities(split, samples, modality)
    return found


def modalities_of(bundle: Bundle, samples: Sequence[Sample]) -> list[str]:
    """Inputs of the bundle that any sample has."""
    return [m for m in bundle.manifest.inputs if any(s.raw(m) is not None for s in samples)]


def searches(embedded: Mapping[str, Mapping[str, Embedded]], *, shown_groups: Sequence[str] = ()) -> list[Search]:
    """Every direction, with the towers of every pair of bundles; of one modality each bundle's samples among others.

    Args:
        embedded: bundle name -> modality -> what it embedded, of the same samples.
        shown_groups: groups that ``nearest`` may hold; empty: all. Ranks are of the whole gallery, and texts
            are always shown.

    Raises:
        BundleError: the bundles' embeddings differ in width, so that they are of two spaces.
        DataError: a query whose label nothing in the gallery has.
    """
    modalities = [m for m in next(iter(embedded.values())) if all(m in each for each in embedded.values())]
    if len(modalities) == 1:
        return [
            _search((modalities[0],) * 2, (name,) * 2, (each[modalities[0]],) * 2, shown_groups)
            for name, each in embedded.items()
        ]
    widths = {name: {e.vectors.shape[1] for e in each.values()} for name, each in embedded.items()}
    if len(set().union(*widths.values())) > 1:
        said = ", ".join(f"'{name}' of {sorted(w)}" for name, w in widths.items())
        raise BundleError(f"embeddings of different widths, {said}; expected two bundles of one space")
    return [
        _search((query, gallery), (one, other), (embedded[one][query], embedded[other][gallery]), shown_groups)
        for query, gallery in product(modalities, modalities)
        if query != gallery
        for one, other in product(embedded, embedded)
    ]


def _search(
    between: tuple[str, str], names: tuple[str, str], sides: tuple[Embedded, Embedded], shown_groups: Sequence[str]
) -> Search:
    """Return one direction: query and gallery by modality, by bundle, and what each embedded."""
    (query, gallery), (asked, searched) = between, sides
    scores = asked.vectors @ searched.vectors.T
    positive = np.asarray(asked.labels)[:, None] == np.asarray(searched.labels)[None, :]
    may = np.array(
        [
            retrieval.may_be_shown(raw, group, shown_groups)
            for raw, group in zip(searched.raws, searched.groups, strict=True)
        ]
    )
    most = min(retrieval.TOP, int(may.sum()))
    places = np.arange(len(scores))
    if query == gallery:
        scores[places, places], positive[places, places] = -np.inf, False
        most = min(most, max(int(may.sum()) - 1, 0))
        places = np.flatnonzero(positive.any(axis=1))
        scores, positive = scores[places], positive[places]
    has = positive.any(axis=1)
    if not has.all():
        label = asked.labels[int(np.argmin(has))]
        raise DataError(
            f"{query}→{gallery}: nothing of '{label}' in the gallery; give it a {gallery} too, or leave out its {query}"
        )
    best, other = (np.where(kind, scores, -np.inf).max(axis=1) for kind in (positive, ~positive))
    return Search(
        query,
        gallery,
        *names,
        asked=places,
        clusters=tuple(asked.labels[i] for i in places),
        ranks=retrieval_ranks(scores, positive),
        margins=best - other,
        nearest=np.argsort(-np.where(may, scores, -np.inf), axis=1, kind="stable")[:, :most],
    )
