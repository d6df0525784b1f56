"""Recurrent: LSTMs in the dynamic int8 form that onnxruntime has an operator for.

Static int8 has no place inside an LSTM, whose state is fed back within the operator. onnxruntime's DynamicQuantizeLSTM
takes weights in 8 bits and rounds inputs and states at each step. GRU and RNN have no such operator, and other engines
have none at all: there they stay in float.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet

import numpy as np
import onnx_ir as ir

from edgemm.graph.passes.values import add_weight, constant, is_standard

DOMAIN = "com.microsoft"
OPERATOR = "DynamicQuantizeLSTM"

FEWEST_UNITS = 64
"""Of a state for which int8 pays. One thread with VNNI, time against float32: 1.25 at 16 and 32 units, .79 at 64, .57
at 128, .40 at 256, .28 at 512; cosine .9999."""


def dynamic_lstms(graph: ir.Graph, *, keep_float: AbstractSet[str] = frozenset()) -> list[ir.Node]:
    """Return the LSTMs of a graph that can be written so: constant float32 weights, time first, not too small."""
    return [
        node
        for node in graph
        if is_standard(node, "LSTM")
        and node.attributes.get_int("layout", 0) == 0
        and node.attributes.get_int("hidden_size", 0) >= FEWEST_UNITS
        and not keep_float & {str(value.name) for value in node.outputs}
        and all((w := constant(v)) is not None and w.dtype == np.float32 and w.ndim == 3 for v in node.inputs[1:3])
    ]


def write_dynamic_lstms_(model: ir.Model, nodes: list[ir.Node]) -> None:
    """Rewrite in place.

    1. LSTM(x, W, R, …) -> DynamicQuantizeLSTM(x, int8 Wᵀ, int8 Rᵀ, …, scales and zero points), symmetric, with a scale
       per direction and gate's row

    Args:
        model: the graph that the nodes are of.
        nodes: as ``dynamic_lstms`` finds them.
    """
    for node in nodes:
        name = str(node.outputs[0].name or node.name)
        inputs: list[ir.Value | None] = [*node.inputs, *[None] * (8 - len(node.inputs))]
        for index, letter in ((1, "w"), (2, "r")):
            weight = constant(inputs[index])
            assert weight is not None
            levels, scales = _rows(weight)
            inputs[index] = add_weight(model, f"{name}_{letter}", levels)
            inputs.append(add_weight(model, f"{name}_{letter}_scale", scales))
            inputs.append(add_weight(model, f"{name}_{letter}_zero_point", np.zeros(scales.shape, np.int8)))
        kept = {key: value for key, value in node.attributes.items() if key != "layout"}
        new = ir.Node(DOMAIN, OPERATOR, inputs, kept.values(), num_outputs=len(node.outputs), name=node.name)
        model.graph.insert_before(node, new)
        for old, made in zip(node.outputs, new.outputs, strict=True):
            made.shape, made.type = old.shape, old.type
            label = old.name
            old.replace_all_uses_with(made, replace_graph_outputs=True)
            old.name, made.name = None, label
        model.graph.remove(node, safe=True)
    if nodes:
        model.opset_imports[DOMAIN] = 1


def _rows(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(directions, rows, columns) float32 to int8 (directions, columns, rows) and scales (directions, rows)."""
    largest = np.abs(weight).max(axis=2)
    scales = np.where(largest > 0, largest / 127, 1.0).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    levels = np.clip(np.round(weight / scales[..., None]), -127, 127).astype(np.int8)
    return np.ascontiguousarray(levels.transpose(0, 2, 1)), scales
