"""Likeness: how near a quantized graph comes to the float32 graph it was made from, and how long it takes.

Both are opened and run by the engine that was asked for, not by the one that calibrated.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np

from edgemm.graph.parity import cosine
from edgemm.graph.race import latency_ratio
from edgemm.runtime.arithmetic import Arithmetic, float_lines, part_line, percent
from edgemm.runtime.engines import Session
from edgemm.runtime.errors import QuantizeError
from edgemm.runtime.outputs import VALUES
from edgemm.runtime.session import open_session
from edgemm.runtime.timing import Ratio

SAMPLES = 64
"""Compared at most."""


@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosine to float32 of one output, of each sample's rows: mean and worst."""

    mean: float
    worst: float


@dataclass(frozen=True, slots=True)
class Likeness:
    """What became of one part.

    Args:
        part: its name.
        engine: that ran both forms.
        size_bytes: of the quantized file.
        arithmetic: what the quantized file computes in.
        samples: that were compared.
        cosines: output -> cosine to float32; outputs of floats alone.
        equal: output -> share of its numbers that are float32's; outputs of integers and truth values.
        same_class: output of classes -> share of its rows with the largest value in the same place.
        ratio: of the quantized form's time to float32's, calls in turns.
    """

    part: str
    engine: str
    size_bytes: int
    arithmetic: Arithmetic
    samples: int
    cosines: Mapping[str, Cosines]
    equal: Mapping[str, float]
    same_class: Mapping[str, float]
    ratio: Ratio


def likeness(
    part: str,
    float32: bytes,
    quantized: bytes,
    feeds: Iterable[Mapping[str, np.ndarray]],
    *,
    engine: str,
    threads: int,
    arithmetic: Arithmetic,
    classes: Collection[str] = (VALUES["classes"],),
) -> Likeness:
    """Run both forms on real samples (at most ``SAMPLES``) and time them in turns.

    Args:
        classes: names of the outputs that are scores of classes.

    Raises:
        EngineNotInstalled: naming the extra.
        EngineError: the engine refuses a graph or a sample.
        QuantizeError: an output whose shape, type or finiteness differs from float32's.
    """
    what = f"part '{part}'"
    before = open_session(engine, float32, threads=threads, what=f"{what}, float32")
    after = open_session(engine, quantized, threads=threads, what=f"{what}, int8")
    found: dict[str, list[float]] = {}
    equal: dict[str, list[float]] = {}
    same: dict[str, list[bool]] = {}
    first: Mapping[str, np.ndarray] | None = None
    count = 0
    for feed in islice(feeds, SAMPLES):
        first = feed if first is None else first
        count += 1
        for name, got, expected in _outputs(before, after, feed, what=what):
            if expected.dtype.kind != "f":
                equal.setdefault(name, []).append(float((got == expected).mean()))
                continue
            found.setdefault(name, []).extend(cosine(got[i : i + 1], row[None]) for i, row in enumerate(expected))
            if name in classes and expected.ndim == 2:
                same.setdefault(name, []).extend(got.argmax(1) == expected.argmax(1))
    if first is None:
        raise QuantizeError(f"{what}: no sample to compare on")
    return Likeness(
        part,
        engine,
        len(quantized),
        arithmetic,
        count,
        {name: Cosines(float(np.mean(values)), min(values)) for name, values in found.items()},
        {name: float(np.mean(shares)) for name, shares in equal.items()},
        {name: float(np.mean(alike)) for name, alike in same.items()},
        latency_ratio(quantized, float32, first, engine=engine, threads=threads, what=what),
    )


def _outputs(
    before: Session, after: Session, feed: Mapping[str, np.ndarray], *, what: str
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """(name, quantized, float32) of every output of numbers that has any."""
    expected, got = before.run(feed), after.run(feed)
    pairs = []
    for name, value in expected.items():
        made = got[name]
        if made.shape != value.shape or made.dtype != value.dtype:
            raise QuantizeError(
                f"{what}: its output '{name}' is {made.dtype} {list(made.shape)} in int8, and {value.dtype} "
                f"{list(value.shape)} in float32"
            )
        if value.dtype.kind not in "fiub":
            continue
        if value.dtype.kind == "f" and not (np.isfinite(made).all() and np.isfinite(value).all()):
            form = "int8" if np.isfinite(value).all() else "float32"
            raise QuantizeError(f"{what}: its output '{name}' holds nan or infinity in {form}")
        if value.size and (value.ndim or value.dtype.kind != "f"):
            pairs.append((name, made, value))
    return pairs


def likeness_lines(found: Likeness) -> list[str]:
    """Return what became of a part, in lines for a terminal."""
    lines = [f"{found.part}: {part_line(found.arithmetic, found.size_bytes)}"]
    lines += [f"  {line}" for line in float_lines(found.arithmetic)]
    for name, cosines in found.cosines.items():
        same = f"; same class in {found.same_class[name]:.1%}" if name in found.same_class else ""
        lines.append(
            f"  {name}: cosine to float32 {cosines.mean:.4f} on average, {cosines.worst:.4f} at worst "
            f"({found.samples} calibration samples){same}"
        )
    lines += [
        f"  {name}: {percent(share)} of its numbers equal to float32's ({found.samples} calibration samples)"
        for name, share in found.equal.items()
    ]
    ratio = found.ratio
    word = {"faster": "faster", "slower": "SLOWER than float32", "no difference": ratio.no_difference}[ratio.verdict]
    interval = f"[{ratio.low:.2f}, {ratio.high:.2f}]"
    return [*lines, f"  takes {ratio.value:.2f} of float32's time {interval} on {found.engine} here: {word}"]
