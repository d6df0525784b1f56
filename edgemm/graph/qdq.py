"""Q/DQ: write a quantization plan into a graph as explicit QuantizeLinear and DequantizeLinear pairs.

This is the one form that onnxruntime, OpenVINO and TensorRT all fuse; what differs by engine is the type of the
activations and of the biases, which ``Scheme`` holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgemm.graph.passes.values import add_weight, constant, put_in_place_
from edgemm.graph.regions import Region
from edgemm.runtime.engines import Scheme


@dataclass(frozen=True)
class Scale:
    """Per-tensor affine quantization of an activation."""

    scale: float
    zero_point: int
    dtype: str


def activation_scale(low: float, high: float, scheme: Scheme) -> Scale:
    """Return the scale that covers [low, high] (0 inside) under a scheme."""
    if scheme.symmetric:
        end = max(-low, high)
        return Scale(float(np.float32(end / 127)) if end > 0 else 1.0, 0, "int8")
    step = float(np.float32((high - low) / 255)) if high > low else 1.0
    return Scale(step, int(np.clip(round(-low / step), 0, 255)), "uint8")


def quantize_weight(weight: np.ndarray, axis: int, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 per channel of ``axis``: int8 like ``weight`` and float32 scales (C,); a zero channel gets 1."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight).max(axis=others)
    scales = np.where(largest > 0, largest / levels, 1.0).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
    steps = np.round(weight / scales.reshape(shape))
    return np.clip(steps, -levels, levels).astype(np.int8), scales


def weight_axis(node: ir.Node) -> int:
    """Return the axis of output channels in a weighted node's weights."""
    if node.op_type == "Conv":
        return 0
    return 0 if node.attributes.get_int("transB", 0) else 1


def apply_(
    model: ir.Model,
    region: Region,
    scales: Mapping[str, Scale],
    scheme: Scheme,
    *,
    corrections: Mapping[str, np.ndarray],
) -> None:
    """Rewrite ``model`` in place.

    1. inner value v: v -> DQ(Q(v)), for every reader, and as an output of the graph
    2. edge value v: v -> DQ(Q(v)), for int8 readers only
    3. weights w of a weighted node -> DQ(int8 w), per output channel
    4. bias b -> DQ(int32 b) at s_x * s_w (scheme.integer_bias), plus its correction
    5. Relu, Clip around 0, where region.absorbed names it -> nothing: Q saturates there
    6. Gather(table, i) -> DQ(Gather(int8 table, i)), per column

    Args:
        model: the graph that ``region`` was found in.
        region: what to quantize.
        scheme: how the engine wants it written.
        scales: by name, for every value in ``region.quantized``.
        corrections: bias corrections (C,) by the weighted node's output name.
    """
    for node in region.weighted:
        _quantize_layer_(model, node, scales, scheme, corrections.get(str(node.outputs[0].name)))
    for node in region.absorbed:
        target, source = node.outputs[0], node.inputs[0]
        assert source is not None
        name = target.name
        scales = {**scales, str(source.name): scales[str(name)]}
        region.inner[region.inner.index(target)] = source
        if target.is_graph_output():
            put_in_place_(target, source)
        else:
            target.replace_all_uses_with(source)
            model.graph.remove(node, safe=True)
    for value in region.inner:
        _insert_pair_(model, value, scales[str(value.name)], None)
    for value, readers in region.edges.items():
        _insert_pair_(model, value, scales[str(value.name)], readers)
    if scheme.tables:
        for node in region.tables:
            _quantize_table_(model, node)


def _insert_pair_(model: ir.Model, value: ir.Value, scale: Scale, readers: list[ir.Node] | None) -> None:
    name = value.name
    s = add_weight(model, f"{name}_scale", np.float32(scale.scale))
    z = add_weight(model, f"{name}_zero_point", np.array(scale.zero_point, scale.dtype))
    q = ir.node("QuantizeLinear", [value, s, z], name=f"{name}_quantize")
    dq = ir.node("DequantizeLinear", [q.outputs[0], s, z], name=f"{name}_dequantize")
    q.outputs[0].name, dq.outputs[0].name = f"{name}_quantized", f"{name}_dequantized"
    if readers is None and value.is_graph_output():
        take_over_(model, value, dq.outputs[0], but=q)
    uses = [u for u in value.uses() if u.node is not q and (readers is None or u.node in readers)]
    for use in uses:
        use.node.replace_input_with(use.idx, dq.outputs[0])
    producer = value.producer()
    if producer is None:
        model.graph.insert_before(model.graph[0], [q, dq])
    else:
        model.graph.insert_after(producer, [q, dq])


def _quantize_layer_(
    model: ir.Model, node: ir.Node, scales: Mapping[str, Scale], scheme: Scheme, correction: np.ndarray | None
) -> None:
    name = str(node.outputs[0].name)
    source, weight = node.inputs[0], node.inputs[1]
    array = constant(weight)
    assert source is not None
    assert array is not None
    axis = weight_axis(node)
    input_scale = scales[str(source.name)].scale
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if bias is not None:  # a Gemm's may be (1, N) or one number
        bias = np.broadcast_to(bias.reshape(-1), (array.shape[axis],))
    if correction is not None and (bias is not None or node.op_type != "MatMul"):
        bias = (np.zeros(array.shape[axis], np.float32) if bias is None else bias) + correction.astype(np.float32)
    levels, weight_scales = quantize_weight(array, axis, scheme.weight_levels)
    if bias is not None and scheme.integer_bias:
        # a channel of tiny weights and a large bias would not fit int32 at s_x * s_w: coarsen its weights
        floor = (np.abs(bias) / (input_scale * 2.0**30)).astype(np.float32)
        if (weight_scales < floor).any():
            weight_scales = np.maximum(weight_scales, floor)
            shape = [-1 if i == axis else 1 for i in range(array.ndim)]
            levels = np.clip(np.round(array / weight_scales.reshape(shape)), -127, 127).astype(np.int8)
    s = add_weight(model, f"{name}_weight_scale", weight_scales)
    z = add_weight(model, f"{name}_weight_zero_point", np.zeros(len(weight_scales), np.int8))
    q = add_weight(model, f"{name}_weight", levels)
    dq = ir.node("DequantizeLinear", [q, s, z], {"axis": axis}, name=f"{name}_weight_dequantize")
    dq.outputs[0].name = f"{name}_weight_dequantized"
    model.graph.insert_before(node, dq)
    node.replace_input_with(1, dq.outputs[0])
    if bias is None:
        return
    if scheme.integer_bias:
        bias_scales = (np.float32(input_scale) * weight_scales).astype(np.float32)
        steps = np.round(bias.astype(np.float64) / bias_scales).astype(np.int32)
        bs = add_weight(model, f"{name}_bias_scale", bias_scales)
        bz = add_weight(model, f"{name}_bias_zero_point", np.zeros(len(steps), np.int32))
        bq = add_weight(model, f"{name}_bias", steps)
        bdq = ir.node("DequantizeLinear", [bq, bs, bz], {"axis": 0}, name=f"{name}_bias_dequantize")
        bdq.outputs[0].name = f"{name}_bias_dequantized"
        model.graph.insert_before(node, bdq)
        new_bias: ir.Value = bdq.outputs[0]
    else:
        new_bias = add_weight(model, f"{name}_bias", bias.astype(np.float32))
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.replace_input_with(2, new_bias)


def _quantize_table_(model: ir.Model, node: ir.Node) -> None:
    table = constant(node.inputs[0])
    assert table is not None
    name = str(node.outputs[0].name)
    levels, table_scales = quantize_weight(table, 1, 127)
    indices = node.inputs[1]
    assert indices is not None
    rank = len(indices.shape) + 1 if indices.shape is not None else None
    s = add_weight(model, f"{name}_table_scale", table_scales)
    z = add_weight(model, f"{name}_table_zero_point", np.zeros(len(table_scales), np.int8))
    node.replace_input_with(0, add_weight(model, f"{name}_table", levels))
    found = node.outputs[0]
    dq = ir.node(
        "DequantizeLinear", [found, s, z], {"axis": -1 if rank is None else rank - 1}, name=f"{name}_table_dequantize"
    )
    dq.outputs[0].name = f"{name}_rows"
    take_over_(model, found, dq.outputs[0], but=dq)
    model.graph.insert_after(node, dq)


def take_over_(model: ir.Model, old: ir.Value, new: ir.Value, *, but: ir.Node) -> None:
    """Let ``new`` be read where ``old`` is, but by node ``but``, and be the output that ``old`` was, under its name."""
    new.type, new.shape, old.type = old.type, old.shape, None
    for use in [use for use in old.uses() if use.node is not but]:
        use.node.replace_input_with(use.idx, new)
    if old in model.graph.outputs:
        model.graph.outputs[model.graph.outputs.index(old)] = new
        name = old.name
        old.name, new.name = f"{name}_levels", name
