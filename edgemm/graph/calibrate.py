"""Calibrate: what ranges activations really take, streamed through histograms of constant size.

A histogram's grid is [-2^k, 2^k] and grows by exact doubling, so its counts depend on the values alone: neither
on the order of the samples nor on how they were batched. Samples are run one at a time where the graph allows it,
because engines round differently at different batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from edgemm.graph.parity import OnnxGraph
from edgemm.runtime.errors import QuantizeError

BINS = 8192
MAX_PER_SAMPLE = 1 << 16
"""Elements of one tensor that one sample adds to its histogram; larger tensors are strided, extremes stay exact."""


@dataclass
class Histogram:
    """Counts on [-2^exponent, 2^exponent] in ``BINS`` bins, with exact extremes: 64 kB whatever it has seen."""

    minimum: float = float("inf")
    maximum: float = float("-inf")
    exponent: int | None = None
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: np.ndarray) -> None:
        """Count the elements of an array of finite floats, any shape."""
        low, high = float(values.min()), float(values.max())
        self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)
        largest = max(abs(low), abs(high), 2.0**-40)
        self._cover(int(np.floor(np.log2(largest))) + 1)
        assert self.exponent is not None
        flat = values.reshape(-1)
        if flat.size > MAX_PER_SAMPLE:
            flat = flat[:: -(-flat.size // MAX_PER_SAMPLE)]
        index = np.floor(flat.astype(np.float64) * (BINS / 2 * 2.0**-self.exponent)).astype(np.int64) + BINS // 2
        self.counts += np.bincount(index, minlength=BINS)[:BINS]

    def _cover(self, exponent: int) -> None:
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.exponent += 1

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres and counts of the bins that hold anything, ascending."""
        assert self.exponent is not None, "an empty histogram"
        filled = np.flatnonzero(self.counts)
        width = 2.0 ** (self.exponent + 1) / BINS
        centres = (filled - BINS // 2 + 0.5) * width
        return np.clip(centres, self.minimum, self.maximum), self.counts[filled]


@dataclass
class Statistics:
    """What calibration saw of one value: its histogram, and means per channel where they were asked for."""

    histogram: Histogram = field(default_factory=Histogram)
    channel_sums: np.ndarray | None = None
    elements_per_channel: int = 0

    @property
    def channel_means(self) -> np.ndarray:
        """(C,) float64."""
        assert self.channel_sums is not None
        return self.channel_sums / max(self.elements_per_channel, 1)


@dataclass(frozen=True)
class Calibration:
    """Statistics by value name, and how many samples they rest on."""

    values: Mapping[str, Statistics]
    samples: int


def calibrate(
    model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], values: Sequence[str], *, channels: Mapping[str, int]
) -> Calibration:
    """Run a float32 graph and gather statistics of inner values.

    Args:
        model: the graph; its inner values of those names are read.
        feeds: the graph's inputs, batch first; streamed, so a generator's samples are never all in memory.
        values: names of graph inputs or inner float values.
        channels: for some of them the channel axis, to gather means per channel.

    Raises:
        QuantizeError: no feeds, inputs that don't fit, or nan or infinity in any value.
    """
    graph = OnnxGraph(_with_outputs(model, values))
    inputs = {v.name: v for v in model.graph.inputs}
    found = {name: Statistics() for name in values}
    samples = 0
    for given in feeds:
        for feed in _one_by_one(model, check_feed(model, given, samples)):
            made = graph.run(feed, [n for n in values if n not in inputs])
            for name in values:
                array = feed[name] if name in inputs else made[name]
                if array.size:
                    _add(found[name], array, channels.get(name), name, samples)
            samples += 1
    if not samples:
        raise QuantizeError("calibration data is empty; static int8 needs real samples (64 or more)")
    return Calibration(found, samples)


def check_feed(model: ir.Model, feed: Mapping[str, np.ndarray], index: int) -> dict[str, np.ndarray]:
    """The feed's arrays in the graph's order and types. Raises QuantizeError for one that is missing or doesn't fit."""
    result: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        name = str(value.name)
        if name not in feed:
            raise QuantizeError(
                f"calibration sample {index}: no array for input '{name}'; the graph takes "
                f"{[v.name for v in model.graph.inputs]}, the sample has {sorted(feed)}"
            )
        array = np.asarray(feed[name])
        if value.dtype is not None and not value.dtype.is_string():
            array = as_typed(array, value.dtype.numpy())
        dtype = value.dtype.numpy().name if value.dtype is not None else array.dtype.name
        dims = list(value.shape) if value.shape is not None else [None] * array.ndim
        fits = array.ndim == len(dims) and all(
            not isinstance(d, int) or d == s for d, s in zip(dims, array.shape, strict=True)
        )
        if array.dtype.name != dtype or not fits or not array.size:
            shown = [d if isinstance(d, int) else str(d) for d in dims]
            raise QuantizeError(
                f"calibration sample {index}: '{name}' is {array.dtype.name} {list(array.shape)}, "
                f"expected {dtype} {shown}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise QuantizeError(
                f"calibration sample {index}: '{name}' holds nan or infinity; clean the calibration data"
            )
        result[name] = array
    return result


def as_typed(array: np.ndarray, dtype: np.dtype | str) -> np.ndarray:
    """An array in an input's type where it is of that kind and holds the same: float64 as float32, int32 as int64."""
    wanted = np.dtype(dtype)
    if (
        array.dtype == wanted
        or not {array.dtype.kind, wanted.kind} <= set("fiu")
        or (array.dtype.kind == "f") != (wanted.kind == "f")
    ):
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(wanted)
    same = np.isfinite(cast) == np.isfinite(array) if wanted.kind == "f" else cast == array
    return cast if bool(np.all(same)) else array


def _add(statistics: Statistics, array: np.ndarray, axis: int | None, name: str, sample: int) -> None:
    if not np.isfinite(array).all():
        raise QuantizeError(
            f"calibration sample {sample}: value '{name}' is nan or infinite in float32 already; "
            "the model overflows on this sample, so no range fits"
        )
    statistics.histogram.add(array)
    if axis is not None:
        rows = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
        sums = rows.sum(axis=0, dtype=np.float64)
        statistics.channel_sums = sums if statistics.channel_sums is None else statistics.channel_sums + sums
        statistics.elements_per_channel += len(rows)


def _one_by_one(model: ir.Model, feed: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yield rows of a batch, where every input has a dynamic first dimension of one name; else the feed as it is."""
    first = {str(v.shape[0]) if v.shape and not isinstance(v.shape[0], int) else None for v in model.graph.inputs}
    sizes = {array.shape[0] if array.ndim else 0 for array in feed.values()}
    if len(first) != 1 or None in first or len(sizes) != 1:
        yield feed
        return
    for row in range(sizes.pop()):
        yield {name: array[row : row + 1] for name, array in feed.items()}


def _with_outputs(model: ir.Model, values: Sequence[str]) -> ir.Model:
    copy = model.clone()
    present = {v.name for v in (*copy.graph.inputs, *copy.graph.outputs)}
    by_name = {v.name: v for node in copy.graph for v in node.outputs}
    for name in values:
        if name not in present:
            value = by_name[name]
            value.type = value.type or ir.TensorType(ir.DataType.FLOAT)
            copy.graph.outputs.append(value)
    return copy
