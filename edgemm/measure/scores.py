"""From raw ranks or answers to named metrics: which statistics, over which samples, and what chance would get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import metrics


class Raw(Protocol):
    """Raw result of one task on one split; a Measurement, or what ``accuracy.score`` returns."""

    @property
    def kind(self) -> str:
        """``"ranks"`` or ``"answers"``."""
        ...

    @property
    def samples(self) -> tuple[float, ...]:
        """Rank of the best positive, or predicted class, of each sample."""
        ...

    @property
    def details(self) -> Mapping[str, Any]:
        """Clusters, and for answers truth and groups; ``repeats`` where each sample was answered several times."""
        ...


@dataclass(frozen=True, slots=True)
class Metric:
    """One statistic over the samples it is about, their clusters, and the value that chance would give (or None)."""

    statistic: metrics.Statistic
    clusters: NDArray[np.str_]
    chance: float | None


def statistics(raw: Raw) -> dict[str, Metric]:
    """The metrics of a task by name: R@1, R@10, median rank; or accuracy (overall and per group) and macro F1."""
    repeats = int(raw.details.get("repeats", 1))
    clusters = np.tile(np.asarray(raw.details["clusters"]), repeats)
    taken = np.asarray(raw.samples, np.int64)
    if raw.kind == "ranks":
        chance = raw.details.get("chance", {})
        return {
            "R@1": Metric(metrics.recall_at(taken, 1), clusters, chance.get("R@1")),
            "R@10": Metric(metrics.recall_at(taken, 10), clusters, chance.get("R@10")),
            "median rank": Metric(metrics.median_of(taken), clusters, None),
        }
    truth = np.tile(np.asarray(raw.details["truth"], np.int64), repeats)
    groups = np.tile(np.asarray([str(g or "") for g in raw.details["groups"]]), repeats)
    found: dict[str, Metric] = {}
    slices = [("accuracy", np.ones(len(truth), bool))]
    slices += [(f"accuracy, {str(g).lower()}", groups == g) for g in np.unique(groups) if g]
    for name, keep in slices:
        hits = (taken == truth)[keep].astype(np.float64)
        most_frequent = int(np.bincount(truth[keep & (truth >= 0)]).max(initial=0))
        found[name] = Metric(metrics.mean_of(hits), clusters[keep], most_frequent / int(keep.sum()))
    found["macro F1"] = Metric(metrics.macro_f1(truth, taken), clusters, None)
    return found
