"""What an embedder is for: saying whether two samples are of one identity, and whose a sample is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.retrieval import Items, distinct, nearest, random_recall, ranks_of, with_another
from edgemm.measure.scores import IDENTIFICATION, VERIFICATION, Scored
from edgemm.runtime.errors import DataError

if TYPE_CHECKING:
    from edgemm.data.dataset import Pair, Sample

PAIRS = 20_000
"""Most pairs that are compared, a quarter of them genuine at most; enough different ones for a FAR of 1e-3."""

Places = NDArray[np.int64]


def check_identities(split: str, samples: Sequence[Sample], modality: str, pairs: Sequence[Pair] = ()) -> None:
    """Raises DataError unless there are two identities, one with two samples, and all samples of pairs are there."""
    labels = distinct(samples, modality).labels
    if len(set(labels)) < 2 or len(set(labels)) == len(labels):
        raise DataError(
            f"split '{split}': {len(labels)} {modality} samples of {len(set(labels))} identities; verification needs "
            "two identities (labels) at least, and two samples of one"
        )
    lacking = {s.id for s in samples if s.raw(modality) is None}
    if bare := next((name for pair in pairs for name in (pair.a, pair.b) if name in lacking), None):
        raise DataError(f"split '{split}', sample '{bare}': in a pair of data.pairs, and has no {modality}")


def verification(
    split: str,
    samples: Sequence[Sample],
    modality: str,
    vectors: np.ndarray,
    *,
    pairs: Sequence[Pair] = (),
    examples: int = 0,
    shown_groups: Sequence[str] = (),
) -> list[Scored]:
    """Verification over pairs, and identification of each sample among all others.

    Args:
        modality: the one that is embedded; an identity is a label.
        vectors: unit (distinct raw samples, width).
        pairs: those to compare; none: all, or a draw of them.
        examples: samples whose nearest others are kept.
        shown_groups: groups that may be shown; empty: all.

    Raises:
        DataError: fewer than two identities, or none with two samples; a pair of a sample without the modality.
    """
    check_identities(split, samples, modality, pairs)
    items = distinct(samples, modality)
    names, identity = np.unique(items.labels, return_inverse=True)
    one, other, counts = _given_pairs(samples, items, modality, pairs) if pairs else identity_pairs(identity)
    cosines = (vectors[one] * vectors[other]).sum(axis=1, dtype=np.float64)
    details: dict[str, Any] = {
        "split": split,
        "task": VERIFICATION,
        "first": identity[one].tolist(),
        "second": identity[other].tolist(),
        "identities": len(names),
        **counts,
        **({"given": True} if pairs else {}),
        **({"fold": [pair.fold for pair in pairs]} if pairs and pairs[0].fold is not None else {}),
    }
    return [
        Scored("similarities", split, VERIFICATION, tuple(np.round(cosines, 6).tolist()), details),
        _identification(split, items, vectors, modality, examples=examples, shown_groups=shown_groups),
    ]


def identity_pairs(
    identity: NDArray[np.integer], *, most: int = PAIRS, seed: int = 0
) -> tuple[Places, Places, dict[str, int]]:
    """Pairs of samples to compare: all, or a seeded draw of both kinds where there are more than ``most``.

    Args:
        identity: (N,) number of each sample's identity.

    Returns:
        (P,) and (P,) places of the two samples, and how many genuine and different pairs there are in all.
    """
    count = len(identity)
    order = np.argsort(identity, kind="stable")
    borders = [0, *(np.flatnonzero(np.diff(identity[order])) + 1).tolist(), count]
    blocks = [order[a:b] for a, b in pairwise(borders)]
    within = [np.stack([block[i] for i in np.triu_indices(len(block), 1)]) for block in blocks]
    genuine = np.concatenate(within, axis=1)
    whole = {"genuine": genuine.shape[1], "different": count * (count - 1) // 2 - genuine.shape[1]}
    if count * (count - 1) // 2 <= most:
        one, other = np.triu_indices(count, 1)
        return one, other, whole
    rng = np.random.default_rng(seed)
    if genuine.shape[1] > most // 4:
        genuine = genuine[:, np.sort(rng.choice(genuine.shape[1], most // 4, replace=False))]
    wanted = min(most - genuine.shape[1], whole["different"])
    different = np.zeros((2, 0), np.int64)
    while different.shape[1] < wanted:
        drawn = np.sort(rng.integers(0, count, (2, 4 * wanted)), axis=0)
        drawn = drawn[:, identity[drawn[0]] != identity[drawn[1]]]
        different = np.unique(np.concatenate([different, drawn], axis=1), axis=1)
    different = different[:, np.sort(rng.choice(different.shape[1], wanted, replace=False))]
    one, other = np.concatenate([genuine, different], axis=1)
    return one, other, whole


def _given_pairs(
    samples: Sequence[Sample], items: Items, modality: str, pairs: Sequence[Pair]
) -> tuple[Places, Places, dict[str, int]]:
    """As ``identity_pairs``, of the pairs that the data names."""
    place = {raw: i for i, raw in enumerate(items.raws)}
    of = {s.id: place[raw] for s in samples if (raw := s.raw(modality)) is not None}
    one, other = np.array([(of[pair.a], of[pair.b]) for pair in pairs], np.int64).T
    genuine = sum(pair.same for pair in pairs)
    return one, other, {"genuine": genuine, "different": len(pairs) - genuine}


def _identification(
    split: str, items: Items, vectors: np.ndarray, modality: str, *, examples: int, shown_groups: Sequence[str]
) -> Scored:
    queries, themselves = with_another(items)  # an identity of one sample is only ever a wrong answer
    asked = vectors[themselves]
    ranks, positives = ranks_of(asked, vectors, queries.labels, items.labels, themselves=themselves)
    others = len(items.labels) - 1
    details: dict[str, Any] = {
        "split": split,
        "task": IDENTIFICATION,
        "clusters": queries.labels,
        "gallery": others,
        "cutoffs": {"rank-1": 1, "rank-5": 5},
        "chance": {f"rank-{k}": random_recall(positives, others, k) for k in (1, 5)},
    }
    kept = nearest(
        asked, vectors, queries, items, between=(modality, modality), examples=examples, shown_groups=shown_groups,
        themselves=themselves,
    )  # fmt: skip
    return Scored("ranks", split, IDENTIFICATION, tuple(map(float, ranks)), details, kept)
