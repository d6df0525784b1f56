"""What it costs: every figure of what ships that is worse than the reference's by more than chance, the worst first.

A headline is one figure of many. Here none is left out: each task, split and metric is compared on the same samples,
and counts where the interval of the paired difference excludes zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgemm.measure import as_text
from edgemm.measure.metrics import Estimate
from edgemm.measure.row import Row, Score
from edgemm.measure.scores import ANSWERS, LOWER_IS_BETTER, TEACHERS, is_ablation, is_shuffled
from edgemm.measure.table import default_row, reference_row


@dataclass(frozen=True, slots=True)
class Cost:
    """One figure that is worse: the reference's score and that of what ships, whose ``difference`` is paired."""

    before: Score
    after: Score
    where: str = ""

    @property
    def difference(self) -> Estimate:
        """Of what ships to the reference; its interval excludes zero."""
        assert self.after.difference is not None
        return self.after.difference


@dataclass(frozen=True, slots=True)
class Costs:
    """All that is worse, and how many figures were compared and are better by more than chance.

    Args:
        leading: of each task and split the figure that lost most, as the bundle ships: with everything given, and in
            the teacher's gallery where there is one. What a model answers without one of its modalities, or finds in a
            gallery that doesn't ship, is in the tables, and is not what anyone asks it for.
    """

    worse: tuple[Cost, ...]
    better: int
    compared: int
    leading: tuple[Cost, ...] = ()


def costs(rows: Sequence[Row]) -> Costs:
    """Compare what ships with the reference on every task, split and metric; the worst first.

    Shares come first, by points lost; then ranks, errors and correlations, by what they lost of the reference's value.
    What a model knows with a modality shuffled or averaged away is no figure that anyone wants high; it has a section
    of its own.
    """
    reference, ships = reference_row(rows), default_row(rows)
    worse: list[Cost] = []
    better = compared = 0
    for after in ships.scores if reference and ships and ships is not reference else ():
        before = reference.score(after.split, after.task, after.metric) if reference else None
        if before is None or after.difference is None or is_shuffled(after.task):
            continue
        compared += 1
        gain = -1 if after.metric in LOWER_IS_BETTER else 1
        low, high = sorted((gain * after.difference.low, gain * after.difference.high))
        better += low > 0
        if high < 0:
            worse.append(Cost(before, after, _where(after, ships)))
    worse.sort(key=_order)
    shipped = [cost for cost in worse if not is_ablation(cost.after.task) and not _in_own_gallery(cost.after, ships)]
    leading: dict[tuple[str, str], Cost] = {}
    for cost in shipped:  # the first of each task is the one that lost most
        leading.setdefault((cost.after.split, cost.after.task), cost)
    return Costs(tuple(worse), better, compared, tuple(leading.values()))


def _in_own_gallery(score: Score, row: Row | None) -> bool:
    """Return whether the model's own gallery was searched, where the teacher's is searched too and is what ships."""
    return row is not None and any(other.task == f"{score.task}{TEACHERS}" for other in row.scores)


def _where(score: Score, row: Row | None) -> str:
    """Task and split; a search in the model's own gallery says so where the teacher's is searched as well."""
    if score.task == ANSWERS:
        return score.split
    return f"{score.task}{', own gallery' * _in_own_gallery(score, row)}, {score.split}"


def _order(cost: Cost) -> tuple[bool, float]:
    lost = abs(cost.difference.value)
    return not cost.after.is_share, -(
        lost if cost.after.is_share else lost / max(abs(cost.before.estimate.value), 1e-12)
    )


def cost_lines(found: Costs, *, most: int) -> list[str]:
    """Return the leading ones in a line each: ``"image→text, unseen-vendor: R@1 −4.2 points [−6.0, −2.4]"``."""
    return [line(cost) for cost in found.leading[:most]]


def line(cost: Cost) -> str:
    """Return one cost: task and split, metric, difference with its interval."""
    score = cost.after
    return f"{cost.where}: {score.metric} {as_text.difference(score)}"
