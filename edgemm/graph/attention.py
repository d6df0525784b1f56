"""Attention: finds the attention maps inside an exported graph and makes them outputs, so that one can look at them.

An exporter writes attention out as MatMul, Softmax, MatMul, and quantization leaves the softmax in float; so the maps
of a float32 and of an int8 graph are found alike.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
import onnx_ir.passes.common

from edgemm.measure.attention import AttentionMap
from edgemm.runtime.errors import BundleError

_BETWEEN = frozenset(
    ("Add", "Mul", "Div", "Sub", "Where", "Cast", "Identity", "Clip", "QuantizeLinear", "DequantizeLinear")
)
"""What may lie between the product of queries and keys and the softmax: scale, mask, rounding."""

_SCORES_RANK = 4  # (batch, heads, queries, keys)


def with_attention_outputs(data: bytes, *, what: str = "graph") -> tuple[bytes, tuple[AttentionMap, ...]]:
    """Return the graph with every attention map as a further output.

    A map is the output of a Softmax over the last axis, which a MatMul reads as its first operand, and whose input is a
    MatMul of two activations, scaled and masked or not. Its shape is (batch, heads, queries, keys).

    Args:
        data: an ONNX file that holds its weights; float32, float16 or with Q/DQ.
        what: names the graph in messages.

    Returns:
        The file with the outputs added, to be run by onnxruntime, and the maps in the order of the layers; the file as
        it was where there is no attention.

    Raises:
        BundleError: not an ONNX graph (a compiled plan).
    """
    try:
        model = ir.from_proto(onnx.load_from_string(data))
    except Exception as error:  # protobuf's DecodeError and onnx_ir's own have no common base
        raise BundleError(f"{what}: not an ONNX graph; attention can be shown of ONNX graphs only") from error
    graph = model.graph
    inputs = {value.name for value in graph.inputs}
    maps: list[AttentionMap] = []
    for node in graph:
        if node.op_type != "Softmax" or node.attributes.get_int("axis", -1) not in (-1, _SCORES_RANK - 1):
            continue
        scores = _product_before(node.inputs[0])
        weights = node.outputs[0]
        if scores is None or not _mixes(weights):
            continue
        keys = _inputs_of(scores.inputs[1], inputs)
        if not keys:
            continue  # a layer with weights of its own, quantized
        if weights not in graph.outputs:
            weights.type = ir.TensorType(ir.DataType.FLOAT if weights.dtype is None else weights.dtype)
            weights.shape = None  # what an exporter wrote of it may name dimensions that an engine finds otherwise
            graph.outputs.append(weights)
        maps.append(AttentionMap(str(weights.name), keys))
    return (bytes(ir.to_proto(model).SerializeToString()), tuple(maps)) if maps else (data, ())


def patch_grid(data: bytes) -> tuple[int, int] | None:
    """(frequencies, times) of the patches that a graph cuts a spectrogram into, as AST does, by its one convolution.

    Args:
        data: an ONNX file that holds its weights, whose input is a spectrogram of one length.

    Returns:
        None where there is no such convolution, or more than one, or its result has no fixed size.
    """
    model = ir.from_proto(onnx.load_from_string(data))
    cuts = [node.outputs[0] for node in model.graph if node.op_type == "Conv"]
    if len(cuts) != 1:
        return None
    ir.passes.common.ShapeInferencePass()(model)
    shape = cuts[0].shape
    sides = [side for side in shape[2:] if isinstance(side, int)] if shape is not None else []
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _product_before(value: ir.Value | None) -> ir.Node | None:
    """Return the MatMul of two activations that a softmax's input comes from, through what may lie between."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop(0)
        node = value.producer() if value is not None else None
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.op_type == "MatMul" and all(v is not None and v.const_value is None for v in node.inputs):
            return node
        if node.op_type in _BETWEEN:
            waiting += node.inputs
    return None


def _mixes(weights: ir.Value) -> bool:
    """Whether a MatMul takes these weights as its first operand, perhaps through a cast or a guard against NaN."""
    waiting, seen = [weights], set()
    while waiting:
        value = waiting.pop(0)
        for use in value.uses():
            if use.node.op_type == "MatMul" and use.idx == 0:
                return True
            if use.node.op_type in _BETWEEN and use.node not in seen:
                seen.add(use.node)
                waiting += use.node.outputs
    return False


def _inputs_of(value: ir.Value | None, inputs: set[str | None]) -> tuple[str, ...]:
    """Return names of the graph's inputs that a value is made from."""
    found: set[str] = set()
    waiting: list[ir.Value | None] = [value]
    seen: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        if value.name in inputs:
            found.add(str(value.name))
        node = value.producer()
        if node is not None and node.op_type not in ("Shape", "Size"):  # how long it is, not what it holds
            waiting += node.inputs
    return tuple(sorted(found))
