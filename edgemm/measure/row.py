"""Row: what the end table knows of one variant on one target; ``table`` derives it from measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgemm.measure.metrics import Estimate
from edgemm.measure.scores import NOT_SHARES
from edgemm.runtime.timing import Ratio, Summary


@dataclass(frozen=True, slots=True)
class Score:
    """One task metric of one row.

    Args:
        split: evaluation split.
        task: ``"text→image"``, ``"answers"``, ``"verification"``, or an ablation such as
            ``"text only (image shuffled)"`` or ``"answers, without audio"``.
        metric: as ``scores.statistics`` names it: ``"R@1"``, ``"median rank"``, ``"accuracy, open"``, ``"macro F1"``.
        estimate: value and bootstrap interval; shares are 0..1.
        difference: to the reference row on the same samples (paired), None for the reference itself.
        chance: what the most frequent truth (classes) or a random order (retrieval) would get, where that is known.
    """

    split: str
    task: str
    metric: str
    estimate: Estimate
    difference: Estimate | None
    chance: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether the value is a share (shown in %) rather than a rank, an error or a correlation."""
        return self.metric not in NOT_SHARES


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a few samples, too few for an interval."""

    median_ms: float
    low_ms: float
    high_ms: float
    count: int


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked in one go, and how long it takes.

    Args:
        name: ``"text"``, ``"image and text"``: the modalities given together; empty where the record doesn't say.
        latency: end to end: from raw inputs to outputs and their names, a search in the gallery included.
        speedup: the reference's latency over this one's, paired; None for the reference.
        parts: names of the parts that it runs; empty where the record doesn't say.
    """

    name: str
    latency: Summary
    speedup: Ratio | None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """One variant on one target. ``latency`` and ``scores`` are None/empty where it could not run here.

    ``latency`` and ``speedup`` are those of the request that stands for the bundle: the one that its headline score is
    of.
    """

    variant: str
    target: str
    engine: str
    precision: str
    sha256: str
    parameters: int
    size_bytes: int  # what ships for the target, the gallery included
    gallery_bytes: int
    part_bytes: Mapping[str, int]
    threads: int  # that its latency was measured with; 0: the engine's choice
    note: str
    latency: Summary | None
    speedup: Ratio | None  # of the reference's latency to this one's, paired
    part_ms: Mapping[str, Summary]
    starts: Mapping[str, Spread]  # "import", "open" and "first" inference of the cold starts
    peak_bytes: int | None
    scores: tuple[Score, ...] = field(default=())
    label: str = ""  # the precision in words where it says more: "int8 in 38 % of weights and …"
    requests: tuple[Request, ...] = ()  # that which stands for the bundle first

    @property
    def request(self) -> str:
        """Name of the request that ``latency`` is of: ``"text"``; empty where there is none or the record is silent."""
        return self.requests[0].name if self.requests else ""

    def score(self, split: str, task: str, metric: str) -> Score | None:
        """Return the score of that name, or None."""
        for score in self.scores:
            if (score.split, score.task, score.metric) == (split, task, metric):
                return score
        return None
