"""Contribution: how much of a model's accuracy each modality brings, or how much of a regression's error it takes off.

Exact Shapley values over all coalitions of modalities: what is present is the sample's own, what is absent comes from
other samples, and besides is the placeholder that the model was trained with, or, without one, the mean. The towers
run once for each distinct raw sample; a coalition only runs the parts where modalities meet. Every value is kept per
sample, so that intervals, groups and the difference of two models come from the same numbers.

Source: Shapley 1953, "A Value for n-Person Games"; over modalities: Parcalabescu & Frank 2023, "MM-SHAP".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from math import factorial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.encode import Rows, can_average, combine, encode, split_chain, stand_ins, weighted_mean
from edgemm.measure.metrics import Statistic, mean_of
from edgemm.measure.outputs import ACCURACY, PROBABILITY, PerSample, answer_among, scoring_of
from edgemm.measure.shuffle import other_items
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Answer

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

SHUFFLES: Final = 5
MOST: Final = 4  # modalities: 16 coalitions
SHUFFLED: Final = "another sample's"
PLACEHOLDER: Final = "placeholder"
MEAN: Final = "the mean"
SHARES: Final = (ACCURACY, PROBABILITY)

Coalition = frozenset[str]


@dataclass(frozen=True, slots=True)
class Contributions:
    """What one bundle does with the modalities of one split.

    Args:
        modalities: those that the samples have, in the bundle's order.
        answer: what the bundle answers.
        values: (what stands in for the absent, measure) -> coalition -> value of each sample, mean over the shuffles.
            Of a regression ``ERROR`` in the unit of the truth, and ``R_SQUARED``, whose mean over all samples is R²;
            of classes ``ACCURACY`` and ``PROBABILITY``, 0..1.
        outputs: with every modality present, (samples, classes) logits or (samples, 1) values.
        clusters: of each sample, for the bootstrap.
        groups: of each sample.
    """

    split: str
    modalities: tuple[str, ...]
    answer: Answer
    values: Mapping[tuple[str, str], Mapping[Coalition, PerSample]]
    outputs: NDArray[np.float32]
    clusters: tuple[str, ...]
    groups: tuple[str | None, ...]

    @property
    def absences(self) -> tuple[str, ...]:
        """What was put in the place of an absent modality: other samples', and the placeholder or the mean."""
        return tuple(dict.fromkeys(absent for absent, _ in self.values))

    @property
    def measure(self) -> str:
        """The measure that stands for what is answered."""
        return next(measure for _, measure in self.values)

    def full(self, absent: str, measure: str) -> PerSample:
        """Return the value with every modality; (samples,)."""
        return self.values[absent, measure][frozenset(self.modalities)]

    def empty(self, absent: str, measure: str) -> PerSample:
        """Return the value with none; (samples,)."""
        return self.values[absent, measure][frozenset()]

    def shapley(self, absent: str, measure: str) -> dict[str, PerSample]:
        """Modality -> its contribution to each sample; see ``shapley``."""
        return shapley(self.values[absent, measure], self.modalities)

    def rows(self, absent: str, measure: str) -> dict[str, PerSample]:
        """What a table shows: ``"all"``, each modality's contribution, ``"none"``; all = none + the contributions."""
        return {
            "all": self.full(absent, measure),
            **self.shapley(absent, measure),
            "none": self.empty(absent, measure),
        }


def shapley(values: Mapping[Coalition, PerSample], players: Sequence[str]) -> dict[str, PerSample]:
    """Exact Shapley values: the mean of what a player adds, over all orders in which players can join.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! * (v(S + i) - v(S)).
    Law: their sum is v(all) - v(none), sample by sample; a player that never changes v gets 0.

    Args:
        values: coalition -> (samples,), for every subset of ``players``.

    Source: Shapley 1953.
    """
    n = len(players)
    found = {}
    for player in players:
        others = [p for p in players if p != player]
        total = np.zeros_like(values[frozenset()])
        for without in map(frozenset, _subsets(others)):
            weight = factorial(len(without)) * factorial(n - len(without) - 1) / factorial(n)
            total += weight * (values[without | {player}] - values[without])
        found[player] = total
    return found


def contributions(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    *,
    shuffles: int = SHUFFLES,
    advance: Callable[[int], None] = lambda _: None,
) -> Contributions:
    """Measure every coalition of modalities of a bundle that answers: with classes or a quantity.

    A modality that a sample lacks is its placeholder in every coalition. The mean is that of the features over the
    samples, as in ``answers.answers``.

    Args:
        bundle: open, on the target to look into.
        split: its name, for messages.
        samples: with labels, of a regression with values.
        shuffles: how often absent modalities are drawn from other samples, seeds 0, 1, ….
        advance: told how many raw samples were encoded and coalitions run; ``steps`` says how many there will be.

    Raises:
        DataError: more than four modalities, a sample that lacks one which has no placeholder, or no truth.
        BundleError: outputs that are not finite.
    """
    answering = answer_among(bundle.outputs)
    assert answering is not None
    output, answer = answering
    scoring = scoring_of(answer)
    players, which, raws = _items(bundle, split, samples)
    truth = scoring.truth(f"bundle '{bundle.manifest.name}', split '{split}'", split, samples)
    split_ = split_chain(bundle, list(bundle.manifest.inputs))
    rows: dict[str, Rows] = {}
    for modality, names in split_.alone.items():
        read = raws[modality]
        rows[modality] = encode(bundle, modality, read, names, advance=advance) if read else {n: [] for n in names}
    absences = _absences(bundle, players, split_.alone, shuffles)
    averaged = all(can_average(made) for m in players for made in rows[m].values())
    if MEAN in absences and not averaged:
        advance(absences.pop(MEAN) * (2 ** len(players) - 1))
    for modality, names in split_.alone.items():
        held = stand_ins(bundle, modality, names)
        for name, made in rows[modality].items():  # behind the items their mean, and last, at -1, the placeholder
            if MEAN in absences and modality in players:
                made.append(weighted_mean(made, which[modality]))
            if name in held:
                made.append(held[name])

    def outputs(choice: Mapping[str, NDArray[np.intp]]) -> NDArray[np.float32]:
        chosen = {name: [values[i] for i in choice[m]] for m, made in rows.items() for name, values in made.items()}
        found = combine(bundle, split_.joint, chosen, output) if split_.joint else np.concatenate(chosen[output])
        advance(1)
        return np.asarray(found, np.float32)

    def absent_items(modality: str, absent: str, seed: int) -> NDArray[np.intp]:
        own = which[modality]
        if absent == SHUFFLED:
            return other_items(own, seed)
        return np.full_like(own, -1) if absent == PLACEHOLDER else np.where(own < 0, own, len(raws[modality]))

    whole = outputs(which)
    scored = scoring.measures(whole, truth)
    values: dict[tuple[str, str], dict[Coalition, PerSample]] = {}
    for absent, repeats in absences.items():
        for present in map(frozenset, _subsets(players)):
            drawn = []
            for seed in range(repeats if len(present) < len(players) else 0):
                choice = {
                    m: own if m in present or m not in players else absent_items(m, absent, seed)
                    for m, own in which.items()
                }
                drawn.append(scoring.measures(outputs(choice), truth))
            for measure in scored:
                mean = np.mean([d[measure] for d in drawn], axis=0) if drawn else scored[measure]
                values.setdefault((absent, measure), {})[present] = mean
    clusters = tuple(s.drawn_with() for s in samples)
    return Contributions(split, players, answer, values, whole, clusters, tuple(s.group for s in samples))


def steps(bundle: Bundle, split: str, samples: Sequence[Sample], *, shuffles: int = SHUFFLES) -> int:
    """Return how many steps ``contributions`` takes. Raises DataError as it does."""
    players, _, raws = _items(bundle, split, samples)
    alone = split_chain(bundle, list(bundle.manifest.inputs)).alone
    runs: int = (2 ** len(players) - 1) * sum(_absences(bundle, players, alone, shuffles).values())
    return sum(map(len, raws.values())) + 1 + runs


def mean_within(values: PerSample, inside: NDArray[np.bool_], *, signed: bool = False) -> Statistic:
    """Return the mean over the samples of a group: for ``metrics.estimate`` and ``metrics.difference``.

    Args:
        values: (samples,).
        inside: (samples,), those of the group.
        signed: a contribution and no share, so that all zeros mean zero and not a share of which none was seen.
    """
    mean = mean_of(values[inside])
    return (lambda weights: mean(weights)) if signed else mean


def losses(found: Contributions, samples: Sequence[Sample]) -> PerSample:
    """Return of classes the cross-entropy of each sample in nats, of a quantity its absolute error; (samples,).

    Over independent classes it is the mean. Where the bundle has no class for the truth it is infinite.
    """
    return scoring_of(found.answer).losses(found.outputs, samples)


def right(found: Contributions) -> NDArray[np.bool_]:
    """Which answers are right, (samples,); a quantity where its error is at most the bundle's mean absolute error."""
    return scoring_of(found.answer).right(found.full(SHUFFLED, found.measure))


def answers(found: Contributions, samples: Sequence[Sample]) -> list[tuple[str, str]]:
    """Return what the bundle says of each sample, and how sure or how wrong it is.

    The likeliest class, or every class above one half, and its probability; a quantity, and its error with the sign.
    """
    return scoring_of(found.answer).said(found.outputs, samples)


def _subsets(players: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return chain.from_iterable(combinations(players, size) for size in range(len(players) + 1))


def _absences(
    bundle: Bundle, players: Sequence[str], alone: Mapping[str, Sequence[str]], shuffles: int
) -> dict[str, int]:
    """Ways to leave a modality out, and how many draws each needs."""
    stands_in = all(set(alone[m]) == stand_ins(bundle, m, alone[m]).keys() for m in players)
    return {SHUFFLED: shuffles, PLACEHOLDER if stands_in else MEAN: 1}


def _items(
    bundle: Bundle, split: str, samples: Sequence[Sample]
) -> tuple[tuple[str, ...], dict[str, NDArray[np.intp]], dict[str, list[Any]]]:
    """The modalities that samples have; per input the item of each sample, -1 for none; the distinct raw items."""
    inputs = bundle.manifest.inputs
    where = f"bundle '{bundle.manifest.name}', split '{split}'"
    players = tuple(m for m in inputs if any(s.raw(m) is not None for s in samples))
    if not 1 <= len(players) <= MOST:
        raise DataError(f"{where}: got {len(players)} modalities, contributions are of 1 to {MOST}")
    alone = split_chain(bundle, list(inputs)).alone
    which, raws = {}, {}
    for modality in inputs:
        given = [s.raw(modality) for s in samples]
        raws[modality] = list(dict.fromkeys(raw for raw in given if raw is not None))
        place = {raw: i for i, raw in enumerate(raws[modality])}
        which[modality] = np.array([-1 if raw is None else place[raw] for raw in given], np.intp)
        lacking = which[modality] < 0
        if lacking.any() and set(alone[modality]) != stand_ins(bundle, modality, alone[modality]).keys():
            lacks = samples[int(np.argmax(which[modality] < 0))].id
            raise DataError(f"{where}, sample '{lacks}': no {modality}, and the bundle has no placeholder for it")
    return players, which, raws
