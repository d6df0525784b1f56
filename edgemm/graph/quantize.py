"""Quantize: a float32 graph and real samples become an int8 graph written for the engine that will run it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import onnx_ir as ir

from edgemm.graph.biases import names_of, write_biases_
from edgemm.graph.calibrate import Calibration, calibrate, check_feed
from edgemm.graph.census import MACS, first_output
from edgemm.graph.parity import nonfinite
from edgemm.graph.passes import finish_, prepare_for_int8_
from edgemm.graph.passes.values import constant
from edgemm.graph.qdq import Scale, activation_scale, apply_, quantize_weight, weight_axis
from edgemm.graph.ranges import Method, choose_range
from edgemm.graph.recurrent import dynamic_lstms, write_dynamic_lstms_
from edgemm.graph.regions import Region, find_region, is_weighted, why_float
from edgemm.graph.storage import compress_weights, recurrent_layers, recurrent_names, store_recurrent_in_half_
from edgemm.runtime.engines import ENGINES, PORTABLE, Scheme
from edgemm.runtime.errors import QuantizeError


class NothingToQuantize(QuantizeError):
    """A graph without a layer that int8 could hold."""


@dataclass(frozen=True)
class Quantization:
    """How to quantize.

    Args:
        engine: a name in ``ENGINES``.
        method: how activation ranges are chosen.
        percentile: for ``method="percentile"``: share of elements kept, per cent.
        bias_correction: undo the mean error that rounding weights causes, through the bias (Nagel et al. 2019,
            "Data-Free Quantization through Weight Equalization and Bias Correction", with measured means).
        reduce_range: 7-bit weights, for x86 CPUs without VNNI, whose fast kernels sum u8 x s8 products in 16 bits,
            where 8-bit weights saturate; edgemm runs those with slower kernels (see ``cpu_options``).
        keep_float: layers to leave in float32, by a name of ``layer_names``.
    """

    engine: str = PORTABLE
    method: Method = "mse"
    percentile: float = 99.99
    bias_correction: bool = True
    reduce_range: bool = False
    keep_float: frozenset[str] = frozenset()

    @property
    def scheme(self) -> Scheme:
        """The engine's scheme. Raises QuantizeError naming the engines there are."""
        if self.engine not in ENGINES:
            raise QuantizeError(f"quantize: no engine '{self.engine}'; expected one of {list(ENGINES)}")
        scheme = ENGINES[self.engine].scheme
        if not self.reduce_range:
            return scheme
        return replace(scheme, weight_levels=64)


DEFAULT = Quantization()


def quantize_onnx(
    model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], config: Quantization = DEFAULT
) -> ir.Model:
    """Static int8 of one graph.

    Args:
        model: float32, clean (see ``passes.clean_``); not changed.
        feeds: real inputs, batch first.
        config: how to quantize.

    Returns:
        A new graph with the same inputs and outputs. Where the only layers are convolutions whose results the engine
        would round, only their weights are int8, and what is computed is float32. Where they are recurrent layers
        without an int8 form, their weights are float16, likewise.

    Raises:
        NothingToQuantize: no layer in it can be quantized.
        QuantizeError: a weight holds nan or infinity, or the calibration data doesn't fit.
    """
    scheme = config.scheme
    result = model.clone()
    prepare_for_int8_(result)
    feeds = iter(feeds)
    if (first := next(feeds, None)) is not None:
        write_biases_(result, check_feed(result, first, 0), keep_float=config.keep_float)
        feeds = chain([first], feeds)
    kept = {first_output(node) for node in result.graph if config.keep_float & set(names_of(node))}
    lstms = dynamic_lstms(result.graph, keep_float=config.keep_float | kept) if scheme.dynamic_lstm else []
    region = find_region(
        result.graph, keep_float=config.keep_float | kept, absorb=scheme.absorb, float_results=scheme.float_results
    )
    if not region.weighted and not region.tables and not lstms:
        results = find_region(result.graph, keep_float=config.keep_float | kept, float_results=True).weighted
        halved = recurrent_layers(result.graph, keep_float=config.keep_float | kept) if scheme.half_recurrent else []
        if results or halved:  # their weights can be stored in less without a cost in time
            _require_finite(node.inputs[1] for node in results)
            return compress_weights(result, keep_float=config.keep_float | kept)
        raise NothingToQuantize(f"quantize: {_why_nothing(result, config.keep_float)}; nothing to do")
    weights = [*(node.inputs[1] for node in region.weighted), *(node.inputs[0] for node in region.tables)]
    _require_finite([*weights, *(value for node in lstms for value in node.inputs[1:3])])
    calibration = calibrate(
        result,
        feeds,
        [str(v.name) for v in region.quantized if v not in region.shared],
        channels=_channel_axes(region),
    )
    scales = _scales(region, calibration, config, scheme)
    corrections = _corrections(region, calibration, scheme) if config.bias_correction else {}
    apply_(result, region, scales, scheme, corrections=corrections)
    write_dynamic_lstms_(result, lstms)
    if scheme.half_recurrent:
        store_recurrent_in_half_(result, keep_float=config.keep_float | kept)
    finish_(result)
    return result


def _why_nothing(model: ir.Model, keep_float: frozenset[str]) -> str:
    """Return what layers a graph has instead of those that can be int8, and why they can't."""
    nodes = [
        n for n in model.graph if n.op_type in MACS or (n.op_type == "Gather" and constant(n.inputs[0]) is not None)
    ]
    reasons = dict.fromkeys(f"{node.op_type}: {why_float(node, keep_float=keep_float)}" for node in nodes)
    if not reasons:
        return "the graph has no Conv, MatMul, Gemm or Gather with constant float32 weights"
    more = f"; {len(reasons) - 3} more reasons" if len(reasons) > 3 else ""
    return f"no layer of the graph can be int8 ({'; '.join(list(reasons)[:3])}{more})"


def _require_finite(weights: Iterable[ir.Value | None]) -> None:
    for weight in weights:
        array = constant(weight)
        if weight is not None and array is not None and (kind := nonfinite(array)) is not None:
            bad = int((~np.isfinite(array)).sum())
            raise QuantizeError(
                f"quantize: the weight '{weight.name}' holds {kind} ({bad} of {array.size} numbers); "
                "take a checkpoint from before its training diverged"
            )


def layer_names(model: ir.Model) -> set[str]:
    """Names that ``keep_float`` can hold for this graph: the weight and the first output of every layer with weights.

    A product has one more where its bias is added behind it: that of the addition that it may take in.
    """
    prepared = model.clone()
    prepare_for_int8_(prepared)
    region = find_region(prepared.graph)
    nodes = [*(node for node in prepared.graph if is_weighted(node)), *region.tables]
    names = {name for node in nodes for name in names_of(node)}
    names |= {name for node in dynamic_lstms(prepared.graph) for name in names_of(node)}
    return names | {name for node in recurrent_layers(prepared.graph) for name in recurrent_names(node)}


def _channel_axes(region: Region) -> dict[str, int]:
    """Channel axes of the inputs of layers whose bias will be corrected (values that share a scale are not watched)."""
    axes: dict[str, int] = {}
    for node in region.weighted:
        source = node.inputs[0]
        assert source is not None
        if source not in region.shared:
            axes[str(source.name)] = 1 if node.op_type == "Conv" else -1
    return axes


def _scales(region: Region, calibration: Calibration, config: Quantization, scheme: Scheme) -> dict[str, Scale]:
    scales: dict[str, Scale] = {}
    for value in region.quantized:
        source = region.shared.get(value, value)
        if str(source.name) not in scales:
            histogram = calibration.values[str(source.name)].histogram
            low, high = choose_range(histogram, config.method, percentile=config.percentile, symmetric=scheme.symmetric)
            scales[str(source.name)] = activation_scale(low, high, scheme)
        scales[str(value.name)] = scales[str(source.name)]
    return scales


def _corrections(region: Region, calibration: Calibration, scheme: Scheme) -> dict[str, np.ndarray]:
    """``-(dequantized W - W) E[x]`` per output channel, by the layer's output name."""
    found: dict[str, np.ndarray] = {}
    for node in region.weighted:
        source, weight = node.inputs[0], constant(node.inputs[1])
        assert source is not None
        assert weight is not None
        if source in region.shared:
            continue
        means = calibration.values[str(source.name)].channel_means
        axis = weight_axis(node)
        levels, scales = quantize_weight(weight, axis, scheme.weight_levels)
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        error = levels.astype(np.float64) * scales.reshape(shape) - weight
        if node.op_type == "Conv":
            groups = node.attributes.get_int("group", 1)
            error = error.reshape(len(error), error.shape[1], -1).sum(axis=2)  # (O, I / groups)
            inputs = np.repeat(means.reshape(groups, -1), len(error) // groups, axis=0)  # (O, I / groups)
            found[str(node.outputs[0].name)] = -(error * inputs).sum(axis=1)
        else:
            found[str(node.outputs[0].name)] = -(error @ means if axis == 0 else means @ error)
    return found
