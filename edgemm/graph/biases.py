"""Biases: products and the additions behind them, written so that onnxruntime keeps them as int8 products.

Where it knows the shape of x, onnxruntime rewrites Add(MatMul(x, W), b) to Gemm(x, W, b), with a Reshape before and
behind it if x has more than two dimensions. It does so before it looks for int8 products, and then finds none: the
Reshape and the float b are in the way, and the product runs in float32 behind a DequantizeLinear. Int8 was 2 to 4 times
slower than float32 so, in every graph of a fixed shape.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgemm.graph.census import MACS, first_output, shapes_of, weight_name
from edgemm.graph.passes.values import add_weight, constant, is_standard, put_in_place_, sole_reader
from edgemm.graph.regions import is_weighted


def write_biases_(model: ir.Model, feed: Mapping[str, np.ndarray], *, keep_float: frozenset[str]) -> None:
    """Rewrite a float graph in place; exact.

    1. MatMul(x, W), x of two dimensions -> Gemm(x, W)
    2. Add(MatMul(x, W), b), x of two dimensions, b a constant row -> Gemm(x, W, b)
    3. Add(MatMul(x, W), b), x of more dimensions, b (N,) -> b as (1, N), which no rule of onnxruntime takes for a bias

    Args:
        model: clean.
        feed: one real sample; the ranks are those that it really has.
        keep_float: names of layers that stay in float, see ``layer_names``; they keep their form.
    """
    products = [
        node
        for node in model.graph
        if node.op_type == "MatMul" and is_weighted(node) and not keep_float & set(names_of(node))
    ]
    shapes = shapes_of(model, [str(node.inputs[0].name) for node in products if node.inputs[0] is not None], feed)
    for node in products:
        source = node.inputs[0]
        assert source is not None
        rank = len(shapes.get(str(source.name), ()))
        if rank == 2:
            _write_gemm_(model, node)
        elif rank > 2:
            for use in list(node.outputs[0].uses()):
                _write_row_(model, use.node)


def names_of(node: ir.Node) -> list[str]:
    """Names that ``keep_float`` may call a layer by: its output's, that of the addition it takes in, its weight's."""
    add, weight = _addition(node), weight_name(node) if node.op_type in (*MACS, "Gather") else ""
    added = [str(add.outputs[0].name)] if add is not None else []
    return [first_output(node), *added, *([weight] if weight else [])]


def _addition(node: ir.Node) -> ir.Node | None:
    """Return the Add of a constant row that alone reads a MatMul's output."""
    if not is_standard(node, "MatMul"):
        return None
    add, weight = sole_reader(node.outputs[0]), constant(node.inputs[1])
    if weight is None or add is None or not is_standard(add, "Add"):
        return None
    bias = next((array for v in add.inputs if (array := constant(v)) is not None), None)
    return add if bias is not None and bias.shape in ((weight.shape[1],), (1, weight.shape[1])) else None


def _write_gemm_(model: ir.Model, node: ir.Node) -> None:
    add = _addition(node)
    inputs = list(node.inputs)
    last = node
    if add is not None:
        bias = next(array for v in add.inputs if (array := constant(v)) is not None)
        inputs.append(add_weight(model, f"{node.outputs[0].name}_bias", bias.reshape(-1)))
        last = add
    gemm = ir.node("Gemm", inputs, name=node.name)
    # inside, the product keeps the name by which keep_float knows it
    name = last.outputs[0].name if last.outputs[0].is_graph_output() else node.outputs[0].name
    model.graph.insert_before(node, gemm)
    put_in_place_(last.outputs[0], gemm.outputs[0])
    if last is not node:
        model.graph.remove(node, safe=True)
    gemm.outputs[0].name = name


def _write_row_(model: ir.Model, add: ir.Node) -> None:
    if not is_standard(add, "Add") or add.graph is not model.graph:
        return
    for index, value in enumerate(add.inputs):
        bias = constant(value)
        if value is not None and bias is not None and bias.ndim == 1 and bias.size > 1:
            add.replace_input_with(index, add_weight(model, f"{value.name}_row", bias[None]))
