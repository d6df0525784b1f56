"""Encode: runs what depends on one modality once per distinct raw sample, so that every later question is cheap.

A chain falls into the parts that one modality alone leads to, and the parts where modalities meet (fusion, head). The
first are run once for every distinct image or string; retrieval, answers and each ablation then only combine
what is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.runtime import chain
from edgemm.runtime.bundle import Bundle, Part
from edgemm.runtime.errors import BundleError

BATCH = 32

Rows = dict[str, list[np.ndarray]]  # value name -> one (1, ...) array per distinct sample


@dataclass(frozen=True, slots=True)
class Split:
    """A bundle's chain, split where modalities meet.

    Args:
        alone: modality -> the values that it makes by itself and that something later (or the caller) needs.
        joint: the parts that need several modalities, in order.
    """

    alone: Mapping[str, tuple[str, ...]]
    joint: tuple[Part, ...]


def split_chain(bundle: Bundle, modalities: Sequence[str]) -> Split:
    """Where the chain of these modalities splits."""
    given = {modality: bundle.manifest.inputs[modality].values for modality in modalities}
    alone = {part for values in given.values() for part in chain.runnable(bundle.parts, values)}
    together = chain.runnable(bundle.parts, [name for values in given.values() for name in values])
    joint = tuple(part for part in together if part not in alone)
    needed = set(bundle.manifest.outputs).union(*(part.input_names for part in joint))
    return Split(
        {m: tuple(sorted(needed & chain.reachable(bundle.parts, values))) for m, values in given.items()}, joint
    )


def encode(
    bundle: Bundle,
    modality: str,
    raws: Sequence[Any],
    names: Iterable[str],
    *,
    advance: Callable[[int], None] = lambda _: None,
) -> Rows:
    """Return the named values of every raw sample, through the bundle's own preprocessing and engine.

    Args:
        bundle: open.
        modality: which of its inputs.
        names: values to keep, that this modality alone leads to.
        raws: distinct raw samples: paths, strings; of tensors ``.npy`` files.
        advance: told how many samples were finished.

    Raises:
        BundleError: a value holds NaN or infinity; the message names value and sample.
        InputError, EngineError: from the runtime.
    """
    wanted = tuple(names)
    limit = min(
        [BATCH, *(p.entry.signature.dims["batch"].max for p in bundle.parts if "batch" in p.entry.signature.dims)]
    )
    # Strings of like length are batched together: less padding, the same values.
    order = sorted(range(len(raws)), key=lambda i: len(raws[i]) if isinstance(raws[i], str) else 0)
    rows: Rows = {name: [np.empty(0)] * len(raws) for name in wanted}
    for start in range(0, len(order), limit):
        chunk = order[start : start + limit]
        known = bundle.run(bundle.values(**{modality: [raws[i] for i in chunk]}), placeholders=False)
        for name in wanted:
            value = known[name]
            for place, i in enumerate(chunk):
                row = value[place] if isinstance(value, list) else value[place : place + 1]
                if row.dtype.kind == "f" and not np.isfinite(row).all():
                    raise BundleError(
                        f"bundle '{bundle.manifest.name}', target '{bundle.target.name}': value '{name}' of "
                        f"{str(raws[i])[:80]!r} holds NaN or infinity, expected finite numbers"
                    )
                rows[name][i] = row
        advance(len(chunk))
    return rows


def stand_ins(bundle: Bundle, modality: str, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Of ``names`` those that are known where the modality is missing: placeholders, and what parts make of them."""
    made = {n for part in bundle.parts if part.entry.modality == modality for n in part.output_names}
    given = {n: bundle.placeholder(n) for n in bundle.manifest.placeholders if n in made}
    known = bundle.run(given, placeholders=False) if given else {}
    return {name: value for name in names if isinstance(value := known.get(name), np.ndarray)}


def can_average(rows: Sequence[np.ndarray]) -> bool:
    """Whether the rows of one value are numbers of one shape, so that their mean can stand in for any of them."""
    return rows[0].dtype.kind == "f" and len({row.shape for row in rows}) == 1


def weighted_mean(rows: Sequence[np.ndarray], which: np.ndarray) -> np.ndarray:
    """Return the mean of a value over the samples, (1, ...) of its dtype.

    Args:
        rows: one (1, ...) array per distinct raw sample.
        which: (samples,) the row of each sample, negative where it has none.
    """
    return np.asarray(np.mean([rows[i] for i in which[which >= 0]], axis=0, dtype=np.float64).astype(rows[0].dtype))


def combine(
    bundle: Bundle, joint: Sequence[Part], values: Mapping[str, Sequence[np.ndarray]], output: str
) -> np.ndarray:
    """Run the joint parts on one row per sample and return ``output``: (samples, ...).

    Rows of one value that differ in length (tokens) are padded with zeros behind; their mask, being a value
    too, says so.
    """
    count = len(next(iter(values.values())))
    limit = min([BATCH, *(p.entry.signature.dims["batch"].max for p in joint if "batch" in p.entry.signature.dims)])
    made: list[np.ndarray] = []
    for start in range(0, count, limit):
        known = {name: _stack(rows[start : start + limit]) for name, rows in values.items()}
        known = chain.run_all(joint, known, lambda part, feeds: part.session.run(feeds))
        if not np.isfinite(known[output]).all():
            raise BundleError(
                f"bundle '{bundle.manifest.name}', target '{bundle.target.name}': "
                f"output '{output}' holds NaN or infinity"
            )
        made.append(known[output])
    return np.concatenate(made)


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    if len({row.shape for row in rows}) == 1:
        return np.concatenate(rows)
    longest = max(row.shape[1] for row in rows)
    return np.concatenate(
        [np.pad(row, [(0, 0), (0, longest - row.shape[1]), *([(0, 0)] * (row.ndim - 2))]) for row in rows]
    )
