"""From raw results to named metrics: which statistics, over which samples, and what chance would get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import class_metrics, metrics, pair_metrics, value_metrics

TEACHERS: Final = ", teacher's gallery"  # behind the name of a retrieval task whose gallery the teacher embedded
ANSWERS: Final = "answers"  # the task of a classifier or regressor with everything that a sample has
IDENTIFICATION: Final = "identification"
VERIFICATION: Final = "verification"
HEADLINES: Final = (f"text→image{TEACHERS}", "text→image", ANSWERS, IDENTIFICATION)
"""Tasks that stand for a bundle; the gallery that ships comes first."""

HEADLINE_METRICS: Final = ("R@10", "rank-1", "accuracy", "macro average precision", "R²")
"""The metric that stands for a task: of retrieval, identification, one class, several classes, a value."""

NOT_SHARES: Final = frozenset({"median rank", "MAE", "RMSE", "R²", "Pearson", "Spearman"})
LOWER_IS_BETTER: Final = frozenset({"median rank", "MAE", "RMSE", "equal error rate"})
FARS: Final = (1e-2, 1e-3)


class Raw(Protocol):
    """Raw result of one task on one split; a Measurement, or a ``Scored``."""

    @property
    def kind(self) -> str:
        """``"ranks"``, ``"answers"``, ``"probabilities"``, ``"values"`` or ``"similarities"``."""
        ...

    @property
    def samples(self) -> tuple[float, ...]:
        """See ``Scored``."""
        ...

    @property
    def details(self) -> Mapping[str, Any]:
        """See ``Scored``."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """Raw result of one task on one split: what becomes a Measurement of that kind.

    Args:
        kind: what the samples are. ``ranks``: rank of the best positive, 1 is best. ``answers``: the class given.
            ``probabilities``: of every class, sample after sample. ``values``: the quantity predicted.
            ``similarities``: cosine of each pair.
        details: ``split`` and ``task``, and what the samples need to be read again. ``clusters`` of all but
            similarities; ``truth`` (a class, a list of classes, a value) and ``groups`` of answers, probabilities and
            values; ``classes``, how many, of probabilities; ``first`` and ``second`` identity of each pair, ``fold``
            where the data says one; ``repeats`` where each sample was answered several times; ``cutoffs`` of ranks by
            name where they aren't those of retrieval; ``labels``, the names of the classes.
        examples: nearest items of a few queries (``retrieval.nearest``); holds paths, so it is not kept as raw data.
    """

    kind: str
    split: str
    task: str
    samples: tuple[float, ...]
    details: Mapping[str, Any]
    examples: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Metric:
    """One statistic over the samples it is about, their clusters, and the value that chance would give (or None)."""

    statistic: metrics.Statistic
    clusters: NDArray[np.generic]
    chance: float | None


def statistics(raw: Raw) -> dict[str, Metric]:
    """Return the metrics of a task by name.

    Ranks: R@1, R@10 and the median (or the task's own cutoffs). Answers: accuracy (overall and per group), macro
    precision, recall and F1. Probabilities: macro average precision, micro and macro F1, subset accuracy. Values: MAE,
    RMSE, R², Pearson, Spearman. Similarities: ROC-AUC, TAR at FARs that the pairs suffice for, equal error rate,
    accuracy at the best threshold, and over folds where the pairs have some.
    """
    found = {
        "ranks": _ranks,
        "answers": _answers,
        "probabilities": _probabilities,
        "values": _values,
        "similarities": _similarities,
    }
    return found[raw.kind](raw)


def headline_metric(raw: Raw) -> str:
    """Return the metric that stands for a task and that a loss is counted in."""
    names = statistics(raw)
    return next((name for name in HEADLINE_METRICS if name in names), next(iter(names)))


def headline_task(tasks: Iterable[str]) -> str:
    """Return the task that stands for a bundle, of those it was measured by.

    text→image, or else from text to another modality, or the first between two; in the gallery that ships.
    """
    there = list(tasks)
    between = [t for t in there if not _is_to_itself(t)] or there
    from_text = [t for t in between if t.startswith("text→")] or between
    return next((t for t in HEADLINES if t in there), min(from_text, key=lambda t: not t.endswith(TEACHERS)))


def _is_to_itself(task: str) -> bool:
    asked, _, wanted = task.removesuffix(TEACHERS).partition("→")
    return asked == wanted


def is_ablation(task: str) -> bool:
    """Return whether a modality was taken away."""
    return is_shuffled(task) or task.startswith(f"{ANSWERS}, without ")


def is_shuffled(task: str) -> bool:
    """Return whether one modality stands alone, the others being another sample's or an average."""
    return " only (" in task


def truth_matrix(raw: Raw) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return of probabilities: (N, C) what is right, and (N, C) how sure; repeats stand below each other."""
    classes, repeats = int(raw.details["classes"]), int(raw.details.get("repeats", 1))
    is_truth = np.zeros((len(raw.details["truth"]), classes), bool)
    for row, right in zip(is_truth, raw.details["truth"], strict=True):
        row[[c for c in right if c >= 0]] = True
    return np.tile(is_truth, (repeats, 1)), np.asarray(raw.samples).reshape(-1, classes)


def pairs(raw: Raw) -> pair_metrics.Pairs:
    """Return of similarities: the pairs, the most alike first."""
    fold = raw.details.get("fold")
    return pair_metrics.sorted_pairs(
        np.asarray(raw.samples),
        np.asarray(raw.details["first"]),
        np.asarray(raw.details["second"]),
        None if fold is None else np.asarray(fold, str),
    )


def _clusters(raw: Raw) -> NDArray[np.str_]:
    return np.tile(np.asarray(raw.details["clusters"], str), int(raw.details.get("repeats", 1)))


def _ranks(raw: Raw) -> dict[str, Metric]:
    clusters, taken = _clusters(raw), np.asarray(raw.samples, np.int64)
    chance = raw.details.get("chance", {})
    cutoffs = raw.details.get("cutoffs", {"R@1": 1, "R@10": 10})
    found = {name: Metric(metrics.recall_at(taken, k), clusters, chance.get(name)) for name, k in cutoffs.items()}
    if "cutoffs" not in raw.details:
        found["median rank"] = Metric(metrics.median_of(taken), clusters, None)
    return found


def _answers(raw: Raw) -> dict[str, Metric]:
    repeats, clusters = int(raw.details.get("repeats", 1)), _clusters(raw)
    taken = np.asarray(raw.samples, np.int64)
    truth = np.tile(np.asarray(raw.details["truth"], np.int64), repeats)
    groups = np.tile(np.asarray([str(g or "") for g in raw.details["groups"]]), repeats)
    found: dict[str, Metric] = {}
    slices = [("accuracy", np.ones(len(truth), bool))]
    slices += [(f"accuracy, {str(g).lower()}", groups == g) for g in np.unique(groups) if g]
    for name, keep in slices:
        hits = (taken == truth)[keep].astype(np.float64)
        most_frequent = int(np.bincount(truth[keep & (truth >= 0)]).max(initial=0))
        found[name] = Metric(metrics.mean_of(hits), clusters[keep], most_frequent / int(keep.sum()))
    of_classes = class_metrics.one_hot(truth, taken)
    for kind in class_metrics.KINDS:
        found[f"macro {kind}"] = Metric(class_metrics.macro(kind, *of_classes), clusters, None)
    return found


def _probabilities(raw: Raw) -> dict[str, Metric]:
    clusters = _clusters(raw)
    is_truth, probabilities = truth_matrix(raw)
    given = probabilities > class_metrics.THRESHOLD
    # A class that training never gave is one more that is missed; it has no probability to be ranked by.
    strange = np.array([any(c < 0 for c in right) for right in raw.details["truth"]])
    strange = np.tile(strange, int(raw.details.get("repeats", 1)))[:, None]
    every = np.hstack([is_truth, strange]), np.hstack([given, np.zeros_like(strange)])
    chance = float(np.mean([rate for rate in is_truth.mean(axis=0) if rate])) if is_truth.any() else None
    return {
        "macro average precision": Metric(
            class_metrics.macro_average_precision(is_truth, probabilities), clusters, chance
        ),
        "micro F1": Metric(class_metrics.micro_f1(*every), clusters, None),
        "macro F1": Metric(class_metrics.macro("F1", *every), clusters, None),
        "subset accuracy": Metric(class_metrics.subset_accuracy(*every), clusters, None),
    }


def _values(raw: Raw) -> dict[str, Metric]:
    clusters, taken = _clusters(raw), np.asarray(raw.samples)
    truth = np.tile(np.asarray(raw.details["truth"], np.float64), int(raw.details.get("repeats", 1)))
    found = {
        "R²": value_metrics.r_squared,
        "MAE": value_metrics.mean_absolute_error,
        "RMSE": value_metrics.root_mean_squared_error,
        "Pearson": value_metrics.pearson,
        "Spearman": value_metrics.spearman,
    }
    return {name: Metric(metric(truth, taken), clusters, None) for name, metric in found.items()}


def _similarities(raw: Raw) -> dict[str, Metric]:
    compared = pairs(raw)
    found = {"ROC-AUC": (pair_metrics.area(compared), 0.5)}
    for far in FARS:
        if tar := pair_metrics.tar_at(compared, far):
            found[f"TAR at FAR {far:g}"] = tar, far
    found["equal error rate"] = pair_metrics.equal_error_rate(compared), 0.5
    if best := pair_metrics.accuracy_at_best_threshold(compared):
        found["accuracy at best threshold"] = best, 0.5
    if folded := pair_metrics.accuracy_over_folds(compared):
        genuine = float(compared.genuine.mean())
        found["accuracy over folds"] = folded, max(genuine, 1 - genuine)
    identities = np.arange(compared.identities)
    return {name: Metric(statistic, identities, chance) for name, (statistic, chance) in found.items()}
