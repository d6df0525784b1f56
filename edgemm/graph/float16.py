"""Float16: an explicitly typed half-precision graph, with float32 islands where half precision is not enough.

TensorRT no longer picks precisions by itself, so the types are written into the graph: weights and activations in
float16, casts where an island begins and ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgemm.graph.calibrate import calibrate
from edgemm.graph.passes import finish_
from edgemm.graph.passes.values import add_weight, constant
from edgemm.runtime.errors import QuantizeError

ISLANDS = (
    "LayerNormalization", "Softmax", "ReduceL2", "ReduceSum", "ReduceMean", "ReduceSumSquare", "LpNormalization",
    "Exp", "Pow", "Sqrt", "Resize",
)  # fmt: skip
"""Operators that sum squares or exponentials: float32 inside."""

HEADROOM = 4.0
"""A value is safe in float16 if calibration saw it below 65504 / HEADROOM."""

LARGEST = float(np.finfo(np.float16).max)


def float16_from_onnx(
    model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]] | None = None
) -> tuple[ir.Model, list[str]]:
    """Convert a clean float32 graph; inputs and outputs keep their float32 types.

    1. float32 weight w -> float16 w, unless it leaves float16's range (or is an epsilon that becomes 0): then its node
       is an island
    2. a node in ISLANDS, or that makes or reads a value calibration saw beyond 65504 / HEADROOM -> an island
    3. a float value that crosses into or out of an island, or the graph -> Cast

    Args:
        model: not changed.
        feeds: real inputs to scan ranges on; None trusts the operators' list alone.

    Returns:
        The graph, and the output names of the nodes that stay in float32 because of a range.

    Raises:
        QuantizeError: calibration data that doesn't fit.
    """
    result = model.clone()
    floats = _float_values(result)
    wide: set[str] = set()
    if feeds is not None:
        names = [str(v.name) for v in floats if v.const_value is None]
        statistics = calibrate(result, feeds, names, channels={}).values
        wide = {
            n for n, s in statistics.items()
            if max(abs(s.histogram.minimum), abs(s.histogram.maximum)) > LARGEST / HEADROOM
        }  # fmt: skip
    by_range: list[str] = []
    island: set[ir.Node] = set()
    for node in result.graph:
        overflows = any(v.name in wide for v in (*node.inputs, *node.outputs) if v is not None) or any(
            _too_wide(v) for v in node.inputs
        )
        if overflows:
            by_range.append(str(node.outputs[0].name))
        if overflows or node.op_type in ISLANDS:
            island.add(node)
    _write_types_(result, floats, island)
    return result, by_range


def _float_values(model: ir.Model) -> set[ir.Value]:
    """Return every float32 value. Types are inferred from operators, as a clean graph records none for inner values."""
    typed = model.clone()
    passes.ShapeInferencePass()(typed)
    names = {
        v.name
        for node in typed.graph
        for v in (*node.inputs, *node.outputs)
        if v is not None and v.dtype == ir.DataType.FLOAT
    }
    unknown = [v.name for node in typed.graph for v in node.outputs if v.dtype is None]
    if unknown:
        raise QuantizeError(f"float16: the type of '{unknown[0]}' can't be inferred; clean the graph first")
    return {v for node in model.graph for v in (*node.inputs, *node.outputs) if v is not None and v.name in names} | {
        v for v in (*model.graph.inputs, *model.graph.outputs) if v.dtype == ir.DataType.FLOAT
    }


def _too_wide(value: ir.Value | None) -> bool:
    array = constant(value)
    if array is None or array.dtype != np.float32:
        return False
    sizes = np.abs(array[np.isfinite(array)])
    # an epsilon that becomes zero guards nothing any more; a weight that small is nothing
    lost = array.size == 1 and bool(((sizes > 0) & (sizes < np.finfo(np.float16).smallest_subnormal / 2)).any())
    return lost or bool(sizes.max(initial=0) > LARGEST)


def _write_types_(model: ir.Model, floats: set[ir.Value], island: set[ir.Node]) -> None:
    graph = model.graph
    inputs = set(graph.inputs)
    halves: dict[ir.Value, ir.Value] = {}
    wides: dict[ir.Value, ir.Value] = {}

    def cast(value: ir.Value, to: ir.DataType) -> ir.Value:
        known = halves if to == ir.DataType.FLOAT16 else wides
        if value not in known:
            if value.const_value is not None:
                array = value.const_value.numpy().astype(np.float16)
                known[value] = add_weight(model, f"{value.name}_float16", array)
            else:
                node = ir.node("Cast", [value], {"to": to}, name=f"{value.name}_{to.name.lower()}_cast")
                node.outputs[0].name = f"{value.name}_{to.name.lower()}"
                producer = value.producer()
                if producer is None:
                    graph.insert_before(graph[0], node)
                else:
                    graph.insert_after(producer, node)
                known[value] = node.outputs[0]
        return known[value]

    is_wide = {v: v in inputs or v.const_value is not None or v.producer() in island for v in floats}
    for node in list(graph):
        for i, value in enumerate(node.inputs):
            if value is None or value not in floats:
                continue
            if node in island:
                if not is_wide[value]:
                    node.replace_input_with(i, cast(value, ir.DataType.FLOAT))
            elif is_wide[value] and not _keeps_float_input(node, i):
                node.replace_input_with(i, cast(value, ir.DataType.FLOAT16))
        if node.op_type == "Cast" and node.outputs[0] in floats and node not in island:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    for i, value in enumerate(list(graph.outputs)):
        if value in floats and not is_wide[value]:
            name = value.name
            wide = cast(value, ir.DataType.FLOAT)
            value.name = f"{name}_half"
            wide.name, wide.shape, wide.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
            value.type = ir.TensorType(ir.DataType.FLOAT16)
            graph.outputs[i] = wide
    finish_(model)


def _keeps_float_input(node: ir.Node, index: int) -> bool:
    return node.op_type == "Resize" and index == 2
