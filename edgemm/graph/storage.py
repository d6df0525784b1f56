"""Storage: weights kept as int8 or float16 in the file while the engine computes in float32.

For parts where int8 arithmetic does not pay, and for recurrent layers, which have none. Written as Cast and Mul of
constants, which every engine folds once at load; a DequantizeLinear in its place would be kept by onnxruntime and run
at every inference.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemm.graph.passes import finish_
from edgemm.graph.passes.values import add_weight, constant, is_standard
from edgemm.graph.qdq import quantize_weight, take_over_, weight_axis
from edgemm.graph.regions import RECURRENT, find_region


def compress_weights(model: ir.Model, *, keep_float: frozenset[str] = frozenset()) -> ir.Model:
    """Store the weights that int8 could use, and embedding tables, in a quarter of the bytes.

    1. weights w of Conv, MatMul, Gemm -> Mul(Cast(int8 w), scales), per output channel
    2. Gather(table, i) -> Mul(Cast(Gather(int8 table, i)), scales), per column
    3. what ``store_recurrent_in_half_`` does

    Args:
        model: float32; not changed.
        keep_float: layers to leave as they are, by their first output.

    Returns:
        A new graph whose results differ from the model's by the rounding of its weights alone.
    """
    result = model.clone()
    region = find_region(result.graph, keep_float=keep_float, float_results=True)
    for node in region.weighted:
        weight = constant(node.inputs[1])
        assert weight is not None
        axis = weight_axis(node)
        levels, scales = quantize_weight(weight, axis, 127)
        name = str(node.outputs[0].name)
        shape = [-1 if i == axis else 1 for i in range(weight.ndim)]
        cast, mul = _widen(result, add_weight(result, f"{name}_weight", levels), scales.reshape(shape), name)
        result.graph.insert_before(node, [cast, mul])
        node.replace_input_with(1, mul.outputs[0])
    for node in region.tables:
        table = constant(node.inputs[0])
        assert table is not None
        levels, scales = quantize_weight(table, 1, 127)
        found = node.outputs[0]
        name = str(found.name)
        node.replace_input_with(0, add_weight(result, f"{name}_table", levels))
        cast, mul = _widen(result, found, scales, f"{name}_table")
        take_over_(result, found, mul.outputs[0], but=cast)
        result.graph.insert_after(node, [cast, mul])
    store_recurrent_in_half_(result, keep_float=keep_float)
    finish_(result)
    return result


def recurrent_layers(graph: ir.Graph, *, keep_float: frozenset[str] = frozenset()) -> list[ir.Node]:
    """Return LSTMs, GRUs and RNNs whose weights float16 can hold, but those named in ``keep_float``."""
    return [
        node
        for node in graph
        if is_standard(node, *RECURRENT)
        and not keep_float & set(recurrent_names(node))
        and all(_fits_half(v) for v in node.inputs[1:3])
    ]


def recurrent_names(node: ir.Node) -> list[str]:
    """Return the names that ``keep_float`` may call a recurrent layer by: of its outputs and of its weights W and R."""
    return [str(value.name) for value in (*node.outputs, *node.inputs[1:3]) if value is not None and value.name]


def _fits_half(value: ir.Value | None) -> bool:
    """Return whether float16 holds a weight as exactly as its 11 bits can, and nothing needs it in float32 as well."""
    array = constant(value)
    if value is None or array is None or array.dtype != np.float32 or array.ndim != 3 or not array.size:
        return False
    if not all(is_standard(use.node, *RECURRENT) and use.idx in (1, 2) for use in value.uses()):
        return False
    largest = float(np.abs(array).max())
    if not largest <= float(np.finfo(np.float16).max):
        return False
    lost = np.abs(array - array.astype(np.float16).astype(np.float32)).max()
    return bool(lost <= largest * 2**-11)  # of numbers below 6e-5 float16 has fewer bits, and below 6e-8 none


def store_recurrent_in_half_(model: ir.Model, *, keep_float: frozenset[str] = frozenset()) -> None:
    """Store the weights of recurrent layers in half of the bytes, in place.

    1. weights W and R of LSTM, GRU, RNN -> Cast(float16 W), Cast(float16 R), under the names of W and R

    Engines widen them once, at load. Uniform weights of 32 to 256 units, 50 steps, one thread, onnxruntime and
    OpenVINO: cosine above .999999, .96 to 1.00 times float32's time.
    """
    widened: dict[ir.Value, ir.Value] = {}
    for node in recurrent_layers(model.graph, keep_float=keep_float):
        for index in (1, 2):
            weight = node.inputs[index]
            array = constant(weight)
            assert weight is not None
            assert array is not None
            if weight not in widened:
                name = str(weight.name)
                weight.name = f"{name}_float32"
                cast = ir.node("Cast", [add_weight(model, name, array.astype(np.float16))], {"to": ir.DataType.FLOAT})
                cast.name = cast.outputs[0].name = f"{name}_widened"
                model.graph.insert_before(model.graph[0], cast)
                widened[weight] = cast.outputs[0]
            node.replace_input_with(index, widened[weight])


def _widen(model: ir.Model, levels: ir.Value, scales: np.ndarray, name: str) -> tuple[ir.Node, ir.Node]:
    cast = ir.node("Cast", [levels], {"to": ir.DataType.FLOAT}, name=f"{name}_widen")
    cast.outputs[0].name = f"{name}_widened"
    mul = ir.node("Mul", [cast.outputs[0], add_weight(model, f"{name}_scales", scales)], name=f"{name}_rescale")
    mul.outputs[0].name = f"{name}_rescaled"
    return cast, mul
