"""Values: what passes ask of the values of a graph, and how they put one in another's place.

A pass reads and rewrites the main graph alone. The bodies of If, Loop and Scan stay as they are: there a value may be
a state and an output at once, and the engine takes no outer value as an output, so what is right in the main graph is
wrong in a body.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def is_standard(node: ir.Node | None, *op_types: str) -> bool:
    """Whether a node is one of these operators of the ONNX standard; an operator of that name elsewhere is another."""
    return node is not None and node.op_type in op_types and node.domain in ("", "ai.onnx")


def constant(value: ir.Value | None) -> np.ndarray | None:
    """Return the array of a value that no caller can change, or None."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def sole_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value, in the graph where it is made, once; None where the value is an output."""
    uses = list(value.uses())
    producer = value.producer()
    if len(uses) != 1 or value.is_graph_output():
        return None
    reader = uses[0].node
    return reader if producer is None or reader.graph is producer.graph else None


def opset_of(model: ir.Model) -> int:
    """Return the version of the standard's operators that a model uses; 0 where it uses none."""
    return max((model.opset_imports.get(domain, 0) for domain in ("", "ai.onnx")), default=0)


def add_weight(model: ir.Model, name: str, array: np.ndarray | np.generic) -> ir.Value:
    """Register an initializer under ``name``, numbered where another initializer has the name."""
    unique, i = name, 1
    while unique in model.graph.initializers:
        unique, i = f"{name}_{i}", i + 1
    tensor = ir.tensor(np.asarray(array), name=unique)
    value = ir.Value(
        name=unique, const_value=tensor, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype)
    )
    model.graph.register_initializer(value)
    return value


def put_in_place_(old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` be read wherever ``old`` is, under its name, and remove the node that made ``old``."""
    node, name = old.producer(), old.name
    assert node is not None
    assert node.graph is not None
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    new.name = name
