"""Blame: which part of a compressed bundle costs the accuracy.

Each part is put back in turn, and the task metric watched. Bundles of one model share their value names, so a part of
one fits into the chain of the other. The mixed chain is a sealed bundle like any other and is measured as such.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgemm.measure import accuracy, metrics
from edgemm.measure.metrics import Estimate
from edgemm.measure.scores import TEACHERS, Scored, headline_metric, headline_task, statistics
from edgemm.runtime.archive import Archive, open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError
from edgemm.runtime.manifest import TargetEntry
from edgemm.stage import Progress, Silent

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample


@dataclass(frozen=True, slots=True)
class PartBlame:
    """What putting one part back gains.

    Args:
        part: its name.
        gain: of the metric, restored minus compressed on the same samples, with the paired interval.
        extra_bytes: what the part costs more when it is put back.
        restored: the raw result with the part put back.
    """

    part: str
    gain: Estimate
    extra_bytes: int
    restored: Scored


@dataclass(frozen=True, slots=True)
class Blame:
    """The metric of the compressed bundle, and each differing part's share in the loss, the largest first."""

    task: str
    metric: str
    compressed: Estimate
    parts: tuple[PartBlame, ...]


def blame(
    compressed: Path,
    reference: Path,
    *,
    split: str,
    samples: Sequence[Sample],
    target: str | None = None,
    base: Scored | None = None,
    progress: Progress | None = None,
) -> Blame:
    """Put the reference's parts back into the compressed bundle one at a time, and measure each mixture.

    Args:
        compressed: bundle whose loss is to be explained, on ``target``.
        reference: the same model before (float32), whose first target gives the parts; same engine.
        split: name of the evaluation split, for messages.
        samples: its samples.
        target: of the compressed bundle; None takes its first.
        base: what the compressed bundle scored, where that is known.
        progress: where to report.

    Raises:
        BundleError: the two are not one model (other parts, values or engine), or do not differ at all.
    """
    small, whole = open_archive(compressed), open_archive(reference)
    chosen, donor = small.manifest.target(target), whole.manifest.target(None)
    _check_one_model(small, whole, chosen, donor)
    files, before = small.manifest.files, whole.manifest.files
    differing = [p for p in chosen.files if files[chosen.files[p]].sha256 != before[donor.files[p]].sha256]
    if not differing:
        raise BundleError(
            f"{compressed}, target '{chosen.name}': every part is the same as in {reference}; nothing to blame"
        )
    with (progress or Silent()).task("blame", total=len(differing) + 1) as task:
        base = base or headline(accuracy.score(Bundle.open(compressed, target=chosen.name), split, samples))
        task.advance(note="compressed")
        metric = headline_metric(base)
        found = statistics(base)[metric]
        parts = []
        for part in differing:
            with tempfile.TemporaryDirectory(prefix="edgemm-blame-") as scratch:
                mixed = _mixture(small, whole, chosen, donor, part, Path(scratch))
                restored = headline(accuracy.score(Bundle.open(mixed), split, samples))
            gain = metrics.difference(statistics(restored)[metric].statistic, found.statistic, clusters=found.clusters)
            extra = before[donor.files[part]].bytes - files[chosen.files[part]].bytes
            parts.append(PartBlame(part, gain, extra, restored))
            task.advance(note=part)
    parts.sort(key=lambda p: -p.gain.value)
    estimate = metrics.estimate(found.statistic, clusters=found.clusters)
    return Blame(str(base.details["task"]), metric, estimate, tuple(parts))


def headline(scored: Sequence[Scored]) -> Scored:
    """Return the result that a loss is looked for in: of the task that stands for the bundle, in its own gallery."""
    own = {s.task: s for s in scored if not s.task.endswith(TEACHERS)}
    return own[headline_task(own)]


def _check_one_model(small: Archive, whole: Archive, chosen: TargetEntry, donor: TargetEntry) -> None:
    for part in small.manifest.parts:
        other = next((p for p in whole.manifest.parts if p.name == part.name), None)
        ours = (part.signature.input_names, part.signature.output_names)
        if other is None or (other.signature.input_names, other.signature.output_names) != ours:
            raise BundleError(
                f"{whole.path}: part '{part.name}' is not there or joins other values than in {small.path}; "
                "expected two bundles of one model"
            )
    if chosen.engine != donor.engine:
        raise BundleError(
            f"{small.path}, target '{chosen.name}' runs on {chosen.engine}, {whole.path} on {donor.engine}; "
            "expected one engine"
        )


def _mixture(small: Archive, whole: Archive, chosen: TargetEntry, donor: TargetEntry, part: str, folder: Path) -> Path:
    """Return a sealed bundle: the compressed one, with one part's file from the reference."""
    root = folder / "mixed"
    keep = {*chosen.files.values()}
    manifest = small.manifest
    keep |= {path for raw in manifest.inputs.values() for path in raw.files.values()}
    keep |= set(manifest.labels.values())
    keep |= set(manifest.placeholders.values())
    for name in keep:
        _write(root / name, small.read(name))
    restored = f"restored/{Path(donor.files[part]).name}"
    _write(root / restored, whole.read(donor.files[part]))
    target = replace(chosen, files={**chosen.files, part: restored})
    only = replace(manifest, targets=(target,), galleries={}, golden=(), golden_outputs={}, measurements=None, files={})
    seal(root, only)
    return root


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
