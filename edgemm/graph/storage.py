"""Storage: weights kept as int8 in the file while the engine computes in float32.

For parts where int8 arithmetic does not pay. Written as Cast and Mul of constants, which every engine folds once at
load; a DequantizeLinear in its place would be kept by onnxruntime and run at every inference.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgemm.graph.passes import finish_
from edgemm.graph.passes.values import add_weight, constant
from edgemm.graph.qdq import quantize_weight, take_over_, weight_axis
from edgemm.graph.regions import find_region


def compress_weights(model: ir.Model, *, keep_float: frozenset[str] = frozenset()) -> ir.Model:
    """Store the weights that int8 could use, and embedding tables, in a quarter of the bytes.

    1. weights w of Conv, MatMul, Gemm -> Mul(Cast(int8 w), scales), per output channel
    2. Gather(table, i) -> Mul(Cast(Gather(int8 table, i)), scales), per column

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
    finish_(result)
    return result


def _widen(model: ir.Model, levels: ir.Value, scales: np.ndarray, name: str) -> tuple[ir.Node, ir.Node]:
    cast = ir.node("Cast", [levels], {"to": ir.DataType.FLOAT}, name=f"{name}_widen")
    cast.outputs[0].name = f"{name}_widened"
    mul = ir.node("Mul", [cast.outputs[0], add_weight(model, f"{name}_scales", scales)], name=f"{name}_rescale")
    mul.outputs[0].name = f"{name}_rescaled"
    return cast, mul
