"""Answers of a classifier or regressor: with all modalities, with one at a time taken away, and with some missing.

What one modality alone leads to was encoded once; every question here only combines it. A modality is taken away by
giving each sample another's (shuffled) or the average (mean), and is missing where the bundle's placeholders stand in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.encode import Rows, can_average, combine, encode, split_chain, stand_ins, weighted_mean
from edgemm.measure.outputs import scoring_of
from edgemm.measure.scores import ANSWERS, Scored
from edgemm.measure.shuffle import other_items
from edgemm.runtime.bundle import Bundle, Part
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Answer, Classes, answers_in

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

SHUFFLES = 3


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What every sample's modalities lead to by themselves.

    Args:
        rows: modality -> its values, one row for each distinct raw sample.
        which: modality -> (samples,) the row of each sample, -1 where it lacks the modality.
        joint: the parts where modalities meet.
        stand_ins: value -> what stands in where it is missing.
    """

    bundle: Bundle
    output: str
    rows: Mapping[str, Rows]
    which: Mapping[str, np.ndarray]
    joint: Sequence[Part]
    stand_ins: Mapping[str, np.ndarray]

    def values(self, which: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        """Return each value's rows in the order of the samples."""
        return {
            name: [self.stand_ins[name] if i < 0 else made[i] for i in which[modality]]
            for modality, by_name in self.rows.items()
            for name, made in by_name.items()
            if name in self.stand_ins or (which[modality] >= 0).all()
        }

    def answer(self, values: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
        """(samples, ...) the output."""
        if self.joint:
            return combine(self.bundle, self.joint, values, self.output)
        return np.concatenate(list(values[self.output]))


def droppable(bundle: Bundle) -> tuple[str, ...]:
    """The modalities that may be missing: placeholders stand in for everything that the joint parts take of them."""
    chain = split_chain(bundle, tuple(bundle.manifest.inputs))
    taken = {name for part in chain.joint for name in part.input_names}
    wanted = {modality: taken.intersection(names) for modality, names in chain.alone.items()}
    return tuple(m for m, own in wanted.items() if own and own == stand_ins(bundle, m, own).keys())


def check_modalities(
    split: str, samples: Sequence[Sample], modalities: Sequence[str], may_lack: Collection[str]
) -> None:
    """Raises DataError naming a modality that a sample lacks and can't do without."""
    for modality in modalities:
        lacking = [s for s in samples if s.raw(modality) is None]
        if not lacking or modality in may_lack:
            continue
        if len(lacking) == len(samples):
            raise DataError(f"split '{split}': no sample has {modality}, which the model takes; it has no placeholder")
        raise DataError(
            f"split '{split}', sample '{lacking[0].id}': no {modality}, which others of the split have; the model has "
            "no placeholder that stands in"
        )
    if bare := next((s for s in samples if all(s.raw(m) is None for m in modalities)), None):
        raise DataError(f"split '{split}', sample '{bare.id}': has none of {', '.join(modalities)}")


def answers(
    bundle: Bundle, split: str, samples: Sequence[Sample], *, advance: Callable[[int], None] = lambda _: None
) -> list[Scored]:
    """Return the bundle's answers, its ablations, and its answers with modalities missing where it has placeholders.

    The first output that answers is the task ``"answers"``, and is looked into; each further one is a task of its own
    name, held against the column of its kind.

    Raises:
        DataError: a sample that lacks the truth, or a modality that nothing stands in for.
        BundleError: outputs that are not finite.
    """
    answering = answers_in(bundle.outputs)
    for answer in answering.values():
        if isinstance(answer, Classes) and not answer.labels:
            raise DataError(f"bundle '{bundle.manifest.name}', split '{split}': a classifier needs labels; it has none")
        scoring_of(answer).check(split, samples)
    missable = droppable(bundle)
    check_modalities(split, samples, tuple(bundle.manifest.inputs), missable)
    (output, answer), *further = answering.items()
    encoded = _encoded(bundle, samples, output, advance)
    scored = partial(_scored, split, _shared(split, samples, answer), answer)
    results = [scored(ANSWERS, [encoded.answer(encoded.values(encoded.which))], **_named(answer))]
    for name, other in further:
        beside = replace(encoded, output=name)
        made = [beside.answer(beside.values(beside.which))]
        results.append(_scored(split, _shared(split, samples, other), other, name, made, **_named(other)))
    there = [m for m, which in encoded.which.items() if (which >= 0).any()]
    if len(there) < 2:
        return results
    for kept in there:
        others = [m for m in there if m != kept]
        shuffles = [_shuffled(encoded.which, others, seed) for seed in range(SHUFFLES)]
        name = f"{kept} only ({' and '.join(others)} shuffled)"
        made = [encoded.answer(encoded.values(which)) for which in shuffles]
        results.append(scored(name, made, repeats=SHUFFLES))
        if all(can_average(values) for m in others for values in encoded.rows[m].values()):
            name = f"{kept} only ({' and '.join(others)} mean)"
            results.append(scored(name, [encoded.answer(_averaged(encoded, others))]))
    droppable_here = [m for m in there if m in missable]
    for size in (1, 2):
        for missing in combinations(droppable_here, size):
            if size == len(there):
                continue
            which = {m: np.full_like(w, -1) if m in missing else w for m, w in encoded.which.items()}
            name = f"{ANSWERS}, without {' and '.join(missing)}"
            results.append(scored(name, [encoded.answer(encoded.values(which))]))
    return results


def _scored(
    split: str, shared: Mapping[str, Any], answer: Answer, task: str, made: Sequence[np.ndarray], **details: Any
) -> Scored:
    scoring = scoring_of(answer)
    taken = tuple(x for each in made for x in scoring.kept(each))
    return Scored(scoring.recorded(), split, task, taken, {**shared, "task": task, **details})


def _named(answer: Answer) -> dict[str, Any]:
    return {"labels": list(answer.labels)} if isinstance(answer, Classes) else {}


def _encoded(bundle: Bundle, samples: Sequence[Sample], output: str, advance: Callable[[int], None]) -> _Encoded:
    chain = split_chain(bundle, tuple(bundle.manifest.inputs))
    rows: dict[str, Rows] = {}
    which: dict[str, np.ndarray] = {}
    missing: dict[str, np.ndarray] = {}
    for modality, names in chain.alone.items():
        place = {raw: i for i, raw in enumerate(distinct_raws(samples, modality))}
        which[modality] = np.array([-1 if (raw := s.raw(modality)) is None else place[raw] for s in samples])
        rows[modality] = (
            encode(bundle, modality, list(place), names, advance=advance) if place else {n: [] for n in names}
        )
        missing |= stand_ins(bundle, modality, names)
    return _Encoded(bundle, output, rows, which, chain.joint, missing)


def distinct_raws(samples: Sequence[Sample], modality: str) -> list[Any]:
    """Return the raw samples of one modality, each once, in their first order."""
    return list(dict.fromkeys(raw for s in samples if (raw := s.raw(modality)) is not None))


def _shared(split: str, samples: Sequence[Sample], answer: Answer) -> dict[str, Any]:
    drawn = [s.drawn_with() for s in samples]
    names = {one: f"c{i}" for i, one in enumerate(dict.fromkeys(drawn))}  # paths themselves say nothing
    details = scoring_of(answer).details(samples)
    shared = {
        "split": split,
        "truth": details.pop("truth"),
        "groups": [s.group for s in samples],
        "clusters": [names[one] for one in drawn],
    }
    return shared | details


def _shuffled(which: Mapping[str, np.ndarray], others: Collection[str], seed: int) -> dict[str, np.ndarray]:
    return {**which, **{modality: other_items(which[modality], seed) for modality in others}}


def _averaged(encoded: _Encoded, others: Collection[str]) -> dict[str, list[np.ndarray]]:
    values = encoded.values(encoded.which)
    for modality in others:
        which = encoded.which[modality]
        for name, made in encoded.rows[modality].items():
            average = weighted_mean(made, which)
            values[name] = [average if i >= 0 else encoded.stand_ins[name] for i in which]
    return values
