"""Census: which layers of a graph are computed in int8, what they hold and multiply, and why the others are not.

Counted in a graph as it ships, not in the plan for it: a weight is int8 where the file stores 8-bit integers for it, a
product where both of its factors come out of a DequantizeLinear (or its operator takes integers itself).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgemm.graph.parity import OnnxGraph
from edgemm.graph.regions import RECURRENT, why_float
from edgemm.runtime.arithmetic import Arithmetic, FloatLayers
from edgemm.runtime.fields import printable

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

INTEGER = ("DynamicQuantizeLSTM",)
"""Operators that take integers by themselves, without Q/DQ around them."""

NORMS = (
    "LayerNormalization", "BatchNormalization", "InstanceNormalization", "GroupNormalization", "RMSNormalization",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layer:
    """One node with weights or products.

    ``name``: of its first output; ``known_as``: what its owner calls it. ``macs`` of one run; ``weights``: constant's
    name -> (numbers, in 8 bits).
    """

    name: str
    known_as: str
    operator: str
    weights: Mapping[str, tuple[int, bool]]
    macs: int
    int8: bool
    why: str


def arithmetic_of(
    shipped: ir.Model,
    feed: Mapping[str, np.ndarray],
    *,
    float32_bytes: int,
    keep_float: frozenset[str] = frozenset(),
    rolled_back: str | None = None,
) -> Arithmetic:
    """Return what a graph that ships is computed in.

    Args:
        shipped: the graph as read from its file.
        feed: one real sample.
        float32_bytes: of the file that it was made from.
        keep_float: layers that were to stay in float.
        rolled_back: why int8 arithmetic was taken back.
    """
    layers = layers_of(shipped, feed, keep_float=keep_float, rolled_back=rolled_back is not None)
    weights: dict[str, tuple[int, bool]] = {}
    for layer in layers:
        weights |= layer.weights
    groups: dict[tuple[str, str], list[Layer]] = {}
    for layer in layers:
        if not layer.int8:
            groups.setdefault((layer.operator, layer.why), []).append(layer)
    in_float = [
        FloatLayers(
            operator,
            why,
            tuple(printable(layer.known_as) or "(no name)" for layer in group),
            sum(dict(item for layer in group for item in _sizes(layer)).values()),
            sum(layer.macs for layer in group),
        )
        for (operator, why), group in groups.items()
    ]
    return Arithmetic(
        float32_bytes=float32_bytes,
        weights=sum(n for n, _ in weights.values()),
        int8_weights=sum(n for n, small in weights.values() if small),
        macs=sum(layer.macs for layer in layers),
        int8_macs=sum(layer.macs for layer in layers if layer.int8),
        in_float=tuple(sorted(in_float, key=lambda group: (-group.macs, -group.weights, group.operator))),
        rolled_back=rolled_back,
    )


def _sizes(layer: Layer) -> list[tuple[str, int]]:
    return [(name, size) for name, (size, _) in layer.weights.items()]


def layers_of(
    model: ir.Model,
    feed: Mapping[str, np.ndarray],
    *,
    keep_float: frozenset[str] = frozenset(),
    rolled_back: bool = False,
) -> list[Layer]:
    """Every node that multiplies, looks up or normalises, in the graph's order; those in bodies too, without macs."""
    top = set(model.graph)
    counted = [node for node in model.graph.all_nodes() if node.op_type in (*MACS, "Gather", *NORMS)]
    names = {
        str(v.name)
        for node in counted
        if node in top
        for v in (*node.inputs, *node.outputs)
        if v is not None and v.name
    }
    shapes = shapes_of(model, sorted(names), feed)
    layers = []
    for node in counted:
        found = {source.name: (source.size, source.small) for v in _factors(node) for source in _sources(v)}
        if node.op_type == "Gather" and not found:
            continue  # picks out of activations
        if node.op_type not in ("Gather", *NORMS) and not _multiplies(node):
            continue  # arithmetic of shapes
        int8 = _is_int8(node)
        inside = node not in top
        weight, name = weight_name(node), first_output(node)
        kept = keep_float | {str(node.outputs[0].name)} if weight in keep_float else keep_float
        why = "" if int8 else why_float(node, keep_float=kept, rolled_back=rolled_back, inside=inside)
        macs = _macs(node, {} if inside else shapes)
        layers.append(Layer(name, weight or name, node.op_type, found, macs, int8, why))
    return layers


def first_output(node: ir.Node) -> str:
    """Return a layer's first output that is not left empty."""
    return next((str(value.name) for value in node.outputs if value.name), "")


_NUMBERED = re.compile(r"(val_|.*::\w+_)?\d+")
"""Names that exporters count out for what has none."""


def weight_name(node: ir.Node) -> str:
    """The name of a layer's first weight, as its owner knows the layer (``"encoder.0.weight"``); empty without one."""
    names = [str(v.name) for v in map(_narrow, _factors(node)) if v.const_value is not None and v.name]
    return next((name for name in names if not _NUMBERED.fullmatch(name)), "")


def _narrow(value: ir.Value) -> ir.Value:
    """Return what a Cast widens at load, as it is stored; any other value as it is."""
    cast = value.producer()
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return value if source is None or source.const_value is None else source


def shapes_of(model: ir.Model, names: Sequence[str], feed: Mapping[str, np.ndarray]) -> dict[str, Shape]:
    """Return the shapes that values of a graph really take on one feed; constants among them.

    Shapes are outputs of Shape nodes, so that no value is kept.
    """
    copy = model.clone()
    known = {str(v.name): v for v in (*copy.graph.inputs, *copy.graph.initializers.values())}
    known |= {str(v.name): v for node in copy.graph for v in node.outputs}
    copy.graph.outputs.clear()
    asked: dict[str, str] = {}
    found: dict[str, Shape] = {}
    for index, name in enumerate(names):
        value = known.get(name)
        if value is None:
            continue
        if value.const_value is not None:
            found[name] = tuple(int(d) for d in value.const_value.shape.numpy())
            continue
        node = ir.node("Shape", [value], name=f"edgemm_shape_{index}")
        out = node.outputs[0]
        out.name, out.type = f"edgemm_shape_of_{index}", ir.TensorType(ir.DataType.INT64)
        copy.graph.append(node)
        copy.graph.outputs.append(out)
        asked[str(out.name)] = name
    if asked:
        made = OnnxGraph(copy).run(feed)
        found |= {asked[out]: tuple(int(d) for d in shape) for out, shape in made.items()}
    return found


# --- weights ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    name: str
    size: int
    small: bool  # stored in 8 bits


def _factors(node: ir.Node) -> list[ir.Value]:
    """Return the inputs that may be weights: not biases, states, indices or axes."""
    positions: Sequence[int]
    if node.op_type in (*RECURRENT, *INTEGER):
        positions = (1, 2)
    elif node.op_type == "Gather":
        positions = (0,)
    elif node.op_type in ("Conv", "ConvTranspose", *NORMS):
        positions = (1,)
    elif node.op_type == "Einsum":
        positions = range(len(node.inputs))
    else:
        positions = (0, 1)
    return [v for i in positions if i < len(node.inputs) and (v := node.inputs[i]) is not None]


_SMALL = (ir.DataType.INT8, ir.DataType.UINT8)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def _sources(value: ir.Value | None) -> list[_Source]:
    """The constants of floats or 8-bit integers that a value is made from; none where an activation is among them.

    Scales are not among them: neither a DequantizeLinear's nor those of a product of constants (see ``storage``).
    """
    found: dict[str, _Source] = {}
    waiting, seen = [value], set[ir.Value]()
    while waiting:
        value = waiting.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        if (tensor := value.const_value) is not None:
            if len(tensor.shape) and tensor.dtype in (*_SMALL, *_FLOATS):
                found[str(value.name)] = _Source(str(value.name), tensor.size, tensor.dtype in _SMALL)
            continue
        node = value.producer()
        if node is None:
            return []
        scaled = node.op_type == "DequantizeLinear" or (node.op_type == "Mul" and _constant(node.inputs[1]))
        waiting += node.inputs[:1] if scaled else node.inputs
    return list(found.values())


def _constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _multiplies(node: ir.Node) -> bool:
    """Return whether anything but constants is multiplied; folded away otherwise."""
    return any(v is not None and v.const_value is None and not _sources(v) for v in node.inputs)


def _is_int8(node: ir.Node) -> bool:
    if node.op_type in INTEGER:
        return True
    if node.op_type == "Gather":
        return all(source.small for v in _factors(node) for source in _sources(v))
    if node.op_type in (*RECURRENT, *NORMS):
        return False
    factors = [node.inputs[0], node.inputs[1]] if len(node.inputs) > 1 else []
    return bool(factors) and all(v is not None and _is_dequantized(v) for v in factors)


def _is_dequantized(value: ir.Value) -> bool:
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return False
    source = node.inputs[0]
    assert source is not None
    if source.const_value is not None:
        return source.const_value.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    return True


# --- multiply-accumulates --------------------------------------------------------------------------------------------


def _shape(value: ir.Value | None, shapes: Shapes) -> Shape:
    if value is None:
        return ()
    if value.const_value is not None:
        return tuple(int(d) for d in value.const_value.shape.numpy())
    return shapes.get(str(value.name), ())


def _macs(node: ir.Node, shapes: Shapes) -> int:
    count = MACS.get(node.op_type)
    if count is None:
        return 0
    given = [_shape(v, shapes) for v in node.inputs]
    made = _shape(node.outputs[0], shapes)
    try:
        return count(node, given, made)
    except (IndexError, KeyError):  # inside a body, where nothing ran that one could ask for shapes
        return 0


def _matmul(node: ir.Node, given: list[Shape], made: Shape) -> int:  # noqa: ARG001
    return math.prod(made) * given[0][-1]


def _gemm(node: ir.Node, given: list[Shape], made: Shape) -> int:
    return math.prod(made) * given[0][0 if node.attributes.get_int("transA", 0) else 1]


def _conv(node: ir.Node, given: list[Shape], made: Shape) -> int:  # noqa: ARG001
    return math.prod(made) * math.prod(given[1][1:]) if made else 0


def _conv_transpose(node: ir.Node, given: list[Shape], made: Shape) -> int:  # noqa: ARG001
    return math.prod(given[0]) * math.prod(given[1][1:]) if given[0] else 0


def _recurrent(node: ir.Node, given: list[Shape], made: Shape) -> int:  # noqa: ARG001
    """Return both products of every step: time x batch x (W + R), whatever layout the weights have."""
    x = given[0]
    return x[0] * x[1] * (math.prod(given[1]) + math.prod(given[2]))


def _einsum(node: ir.Node, given: list[Shape], made: Shape) -> int:  # noqa: ARG001
    """The product of the sizes of all labels, as for a plain sum over them; an ellipsis counts as its dimensions."""
    sizes: dict[str, int] = {}
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, given, strict=False):
        before, dots, after = term.partition("...")
        hidden = len(shape) - len(before) - len(after)
        labels = [*before, *(f"...{hidden - i}" for i in range(hidden) if dots), *after]
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values()) if len(given) > 1 and all(given) else 0


def _attention(node: ir.Node, given: list[Shape], made: Shape) -> int:
    """Queries by keys, and weights by values."""
    q, k, v = given[:3]
    if len(q) == 4:  # (batch, heads, tokens, size)
        batch, heads, queries, size = q
        keys, out = k[2], v[3]
    else:
        heads = node.attributes.get_int("q_num_heads", 1)
        batch, queries, size = q[0], q[1], q[2] // heads
        keys, out = k[1], made[-1] // heads
    return batch * heads * queries * keys * (size + out)


MACS: Mapping[str, Callable[[ir.Node, list[Shape], Shape], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Attention": _attention,
    **dict.fromkeys((*RECURRENT, *INTEGER), _recurrent),
}
"""Operator -> multiply-accumulates of one run, from shapes of inputs and of the first output."""
