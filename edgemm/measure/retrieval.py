"""Retrieval in every direction between all modalities that lead to an embedding of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.encode import encode, split_chain
from edgemm.measure.metrics import retrieval_ranks
from edgemm.measure.scores import TEACHERS, Scored
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, DataError
from edgemm.runtime.prediction import unit

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

TOP = 5  # hits kept per example query
_ROWS = 1024  # queries compared at once: 1,024 x 20,000 float32 is 80 MB


@dataclass(frozen=True, slots=True)
class Items:
    """The distinct raw samples of one modality, with the label each stands for and the group it belongs to."""

    raws: list[Any]
    labels: list[str]
    groups: list[str | None]


def distinct(samples: Sequence[Sample], modality: str) -> Items:
    """Distinct raw samples in their first order, without those that lack it; one without label stands for itself."""
    found: dict[Any, tuple[str, str | None]] = {}
    for sample in samples:
        if (raw := sample.raw(modality)) is not None:
            found.setdefault(raw, (sample.label or sample.id, sample.group))
    return Items(list(found), [label for label, _ in found.values()], [group for _, group in found.values()])


def may_be_shown(raw: Any, group: str | None, shown_groups: Sequence[str]) -> bool:
    """Return whether an item may be drawn in a report: a text always, a file where its group may; no groups: all."""
    return isinstance(raw, str) or not shown_groups or group in shown_groups


def check_one_label(split: str, samples: Sequence[Sample], modality: str) -> None:
    """An item is right by its label. Raises DataError naming the item that has two."""
    labels: dict[Any, str] = {}
    for sample in samples:
        raw, label = sample.raw(modality), sample.label or sample.id
        if raw is not None and labels.setdefault(raw, label) != label:
            raise DataError(
                f"split '{split}': the {modality} '{raw}' stands under two labels, '{labels[raw]}' and '{label}'; "
                "retrieval needs one each"
            )


def check_pairs(split: str, samples: Sequence[Sample], modalities: Sequence[str]) -> None:
    """Raises DataError unless two of the modalities meet in a sample."""
    if not any(sum(s.raw(m) is not None for m in modalities) > 1 for s in samples):
        raise DataError(
            f"split '{split}': no sample has two of {', '.join(modalities)}; retrieval needs samples that have both"
        )


def embedded(bundle: Bundle) -> dict[str, str]:
    """Modality -> the output that is its embedding, for each that leads to one by itself."""
    alone = split_chain(bundle, tuple(bundle.manifest.inputs)).alone
    own = {m: [name for name in names if name in bundle.manifest.outputs] for m, names in alone.items()}
    return {m: names[0] for m, names in own.items() if len(names) == 1}


def embeddings(
    bundle: Bundle, split: str, samples: Sequence[Sample], *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """Modality -> unit vectors (distinct raw samples, width) float32, for each that the samples have.

    Raises:
        DataError: a raw sample under two labels.
        BundleError: outputs that are not finite.
    """
    there = {m: name for m, name in embedded(bundle).items() if any(s.raw(m) is not None for s in samples)}
    for modality in there:
        check_one_label(split, samples, modality)
    return {m: embed(bundle, m, name, distinct(samples, m).raws, advance=advance) for m, name in there.items()}


def embed(
    bundle: Bundle, modality: str, name: str, raws: Sequence[Any], *, advance: Callable[[int], None] = lambda _: None
) -> np.ndarray:
    """Unit vectors (raws, width) float32. Raises BundleError where one is not finite."""
    vectors = np.concatenate(encode(bundle, modality, raws, (name,), advance=advance)[name]).astype(np.float32)
    return unit(vectors)


def retrieval(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    vectors: Mapping[str, np.ndarray],
    *,
    gallery: Mapping[str, np.ndarray] | None = None,
    examples: int = 0,
    shown_groups: Sequence[str] = (),
) -> list[Scored]:
    """Return every direction of every two modalities, on the samples that have both, and each to other items of itself.

    Args:
        bundle: names the messages.
        vectors: the bundle's ``embeddings`` of these samples.
        gallery: the teacher's, where its embeddings are the gallery that ships.

    Raises:
        BundleError: embeddings of different widths.
        DataError: no sample has two of the modalities.
    """
    check_pairs(split, samples, list(vectors))
    galleries = {"": vectors, **({TEACHERS: gallery} if gallery is not None else {})}
    width, *others = (next(iter(searched.values())).shape[1] for searched in galleries.values())
    if any(other != width for other in others):
        raise BundleError(
            f"bundle '{bundle.manifest.name}': embeddings of {width} dimensions, those of the gallery have "
            f'{others[0]}; expected one space, or pack.gallery_encoder = "bundle"'
        )
    place = {m: {raw: i for i, raw in enumerate(distinct(samples, m).raws)} for m in vectors}
    found = []
    for whose, searched in galleries.items():
        for a, b in product(vectors, repeat=2):
            both = [s for s in samples if s.raw(a) is not None and s.raw(b) is not None]
            queries, targets = distinct(both, a), distinct(both, b)
            themselves = None
            if a == b:  # a picture finds others of the same thing
                queries, themselves = with_another(queries)
            if not queries.raws:
                continue
            asked = vectors[a][[place[a][raw] for raw in queries.raws]]
            held = searched[b][[place[b][raw] for raw in targets.raws]]
            task = f"{a}→{b}{whose}"
            ranks, positives = ranks_of(asked, held, queries.labels, targets.labels, themselves=themselves)
            details: dict[str, Any] = {
                "split": split,
                "task": task,
                "clusters": list(queries.labels),
                "gallery": len(targets.labels),
                "chance": {f"R@{k}": random_recall(positives, len(targets.labels), k) for k in (1, 10)},
            }
            kept = nearest(
                asked, held, queries, targets, between=(a, b), examples=examples if a != b else 0,
                shown_groups=shown_groups,
            )  # fmt: skip
            found.append(Scored("ranks", split, task, tuple(map(float, ranks)), details, kept))
    return found


def with_another(items: Items) -> tuple[Items, np.ndarray]:
    """Return those items whose label another one has too, and their places."""
    counts = Counter(items.labels)
    places = [i for i, label in enumerate(items.labels) if counts[label] > 1]
    kept = Items([items.raws[i] for i in places], [items.labels[i] for i in places], [items.groups[i] for i in places])
    return kept, np.asarray(places, np.int64)


def ranks_of(
    queries: np.ndarray,
    gallery: np.ndarray,
    query_labels: Sequence[str],
    gallery_labels: Sequence[str],
    *,
    themselves: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rank of each query's best positive, and how many positives it has; (Q,) int64 each.

    Args:
        queries, gallery: unit vectors (Q, D) and (G, D).
        query_labels, gallery_labels: equal labels are positives.
        themselves: (Q,) the query's own place in the gallery, which is left out.
    """
    _, numbers = np.unique([*query_labels, *gallery_labels], return_inverse=True)
    asked, held = numbers[: len(queries)], numbers[len(queries) :]
    ranks, counts = [], []
    for start in range(0, len(queries), _ROWS):
        rows = slice(start, start + _ROWS)
        scores = queries[rows] @ gallery.T
        positive = asked[rows, None] == held[None]
        if themselves is not None:
            own = np.arange(len(scores)), themselves[rows]
            scores[own], positive[own] = -np.inf, False
        ranks.append(retrieval_ranks(scores, positive))
        counts.append(positive.sum(axis=1))
    return np.concatenate(ranks), np.concatenate(counts)


def random_recall(positives: np.ndarray, gallery: int, k: int) -> float:
    """Return mean chance that a random order puts a positive among the first k: 1 - C(M - p, k) / C(M, k)."""
    missing = np.ones(len(positives))
    for i in range(min(k, gallery)):
        missing *= np.clip(gallery - positives - i, 0, None) / (gallery - i)
    return float(np.mean(1 - missing))


def nearest(
    asked: np.ndarray,
    held: np.ndarray,
    queries: Items,
    targets: Items,
    *,
    between: tuple[str, str],
    examples: int,
    shown_groups: Sequence[str],
    themselves: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """Return the nearest items of a few queries, among those that may be shown. Paths are names, not contents.

    Args:
        asked, held: unit vectors (Q, D) of the queries and (G, D) of the items.
        between: modality of the queries and of the items.
        examples: queries, drawn by a fixed seed among those that a right item may be shown for.
        shown_groups: groups that may be shown, empty: all; texts always are.
        themselves: (Q,) the query's own place among the items, which is left out.
    """
    may_ask, may = (
        np.array(
            [may_be_shown(raw, group, shown_groups) for raw, group in zip(items.raws, items.groups, strict=True)], bool
        )
        for items in (queries, targets)
    )
    counts = Counter(label for label, ok in zip(targets.labels, may, strict=True) if ok)
    itself = themselves is not None
    drawn = [i for i, label in enumerate(queries.labels) if may_ask[i] and counts[label] > itself]
    chosen = np.random.default_rng(0).permutation(drawn)[:examples]
    kept = []
    for i in sorted(int(i) for i in chosen):
        scores = np.where(may, held @ asked[i], -np.inf)
        if themselves is not None:
            scores[themselves[i]] = -np.inf
        order = np.argsort(-scores, kind="stable")[: min(TOP, int(may.sum()) - itself)]
        hits = [
            {"item": str(targets.raws[j]), "label": targets.labels[j], "right": targets.labels[j] == queries.labels[i]}
            for j in order
        ]
        query, wanted = between
        kept.append(
            {"modality": query, "query": str(queries.raws[i]), "label": queries.labels[i], "wanted": wanted,
             "hits": hits}
        )  # fmt: skip
    return kept
