"""Constants: what can be computed before the graph runs is computed once, by the engine that would run it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgemm.graph.passes.values import constant, is_standard

LARGEST = 512 * 512
"""Elements that a folded output may have beyond those of the inputs that go away with its node."""

KEPT = frozenset(
    (
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli", "Dropout",
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear",
    )
)  # fmt: skip
"""Operators that give another answer each time, and those whose place in the graph says what is int8."""


class FoldConstants(InPlacePass):
    """Turn what depends on constants alone into initializers.

    1. Constant, with a tensor, a number or numbers -> an initializer
    2. an operator of the standard of which every input is a constant -> an initializer per output

    Takes the main graph, any rank, opset and attribute. Left alone: operators in ``KEPT``, with a body, with an output
    of the graph, of strings or of a type that numpy doesn't have, and with outputs much larger than their inputs.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        for node in list(model.graph):
            tensors = _values_of(node, model)
            if tensors is None:
                continue
            for old, tensor in zip(node.outputs, tensors, strict=True):
                if not old.uses():
                    continue
                name, old.name = str(old.name), None
                tensor.name = name
                made = ir.Value(
                    name=name,
                    const_value=tensor,
                    shape=ir.Shape(tensor.shape.numpy()),
                    type=ir.TensorType(tensor.dtype),
                )
                model.graph.register_initializer(made)
                old.replace_all_uses_with(made)
            model.graph.remove(node, safe=True)
            modified = True
        return PassResult(model, modified=modified)


def _values_of(node: ir.Node, model: ir.Model) -> Sequence[ir.TensorProtocol] | None:
    """Return the tensors that a node makes of constants, one per output, or None where it stays."""
    if node.domain not in ("", "ai.onnx") or node.op_type in KEPT or any(v.is_graph_output() for v in node.outputs):
        return None
    if is_standard(node, "Constant"):
        return _of_constant(node)
    if not node.inputs or any(v is not None and constant(v) is None for v in node.inputs):
        return None
    if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
        return None
    if any(v is not None and v.const_value is not None and v.const_value.dtype.is_string() for v in node.inputs):
        return None
    return _computed(node, model)


def _of_constant(node: ir.Node) -> Sequence[ir.TensorProtocol] | None:
    if len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref():
        return None
    if attribute.name == "value":
        return [attribute.as_tensor()]
    if attribute.name in ("value_float", "value_floats"):
        return [ir.tensor(np.asarray(attribute.value, np.float32))]
    if attribute.name in ("value_int", "value_ints"):
        return [ir.tensor(np.asarray(attribute.value, np.int64))]
    return None


def _computed(node: ir.Node, model: ir.Model) -> Sequence[ir.TensorProtocol] | None:
    """Return what onnxruntime makes of a node's constants, without any optimization of its own."""
    from edgemm.runtime.engine_onnxruntime import cpu_options, cpu_session, ort

    weights = {str(v.name): v for v in node.inputs if v is not None}
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    proto.graph.name = "constants"
    proto.graph.node.append(ir.to_proto(node))
    for value in weights.values():
        assert value.const_value is not None
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(ir.to_proto(value.const_value))
        tensor.name = str(value.name)
    names = [str(v.name) for v in node.outputs if v.name]
    if len(names) != len(node.outputs):
        return None
    goes_away = sum(v.const_value.size for v in weights.values() if v.const_value and len(v.uses()) == 1)
    try:
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        types = {v.name: v.type for v in onnx.shape_inference.infer_shapes(proto, data_prop=True).graph.output}
        sizes = [_size(types[name]) for name in names]
        if any(size is None or size > max(LARGEST, goes_away) for size in sizes):
            return None
        for output in proto.graph.output:
            output.type.CopyFrom(types[output.name])
        options = cpu_options(1)
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        made = cpu_session(proto.SerializeToString(), options).run(names, {})
    except Exception:  # what can't be computed here is left where it is, and fails where it is run
        return None
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "fiub" for array in made):
        return None
    return [ir.tensor(array) for array in made]


def _size(type_proto: onnx.TypeProto) -> int | None:
    if not type_proto.HasField("tensor_type") or not type_proto.tensor_type.HasField("shape"):
        return None
    dims = type_proto.tensor_type.shape.dim
    return math.prod(d.dim_value for d in dims) if all(d.HasField("dim_value") for d in dims) else None
