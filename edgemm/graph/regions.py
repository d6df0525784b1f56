"""Regions: which nodes of a graph are computed in int8, and which values must therefore be quantized.

Convolutions and layers with constant weights are always worth it. What moves between convolutions (shortcut
additions, pooling, concatenation, reshapes) stays in int8 with them, so that nothing is converted to float and back
on the way. Attention's products of two activations, LayerNorm, softmax and GELU stay in float: they are where naive
int8 ruins a transformer, and a small part of its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import onnx_ir as ir

from edgemm.graph.passes.values import constant, is_standard, sole_reader

WEIGHTED = ("Conv", "MatMul", "Gemm")
RECURRENT = ("LSTM", "GRU", "RNN")
MIXING = ("Add", "Concat")
POOLING = ("MaxPool", "AveragePool", "GlobalAveragePool")
MOVING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice")
"""Operators whose output holds its first input's values: they share its scale."""


@dataclass
class Region:
    """What to quantize.

    ``weighted``: nodes with int8 weights. ``inner``: values produced in int8 (all their readers get the quantized
    value). ``edges``: float values of which only the int8 nodes get the quantized form. ``absorbed``: Clip and Relu
    nodes that the quantization itself performs. ``shared``: value -> the value whose scale it has. ``tables``: Gather
    nodes over constant float tables.
    """

    weighted: list[ir.Node] = field(default_factory=list)
    inner: list[ir.Value] = field(default_factory=list)
    edges: dict[ir.Value, list[ir.Node]] = field(default_factory=dict)
    absorbed: list[ir.Node] = field(default_factory=list)
    shared: dict[ir.Value, ir.Value] = field(default_factory=dict)
    tables: list[ir.Node] = field(default_factory=list)

    @property
    def quantized(self) -> list[ir.Value]:
        """Every value that gets a scale, inner ones first."""
        return [*self.inner, *(v for v in self.edges if v not in self.inner)]


def is_weighted(node: ir.Node) -> bool:
    """A Conv, MatMul or Gemm of an activation with constant float32 weights (Gemm: plain or transposed B only)."""
    return node.op_type in WEIGHTED and _obstacle(node) is None


def _obstacle(node: ir.Node) -> str | None:
    """Return what keeps a Conv, MatMul or Gemm from int8 arithmetic, or None where nothing in the node does."""
    if node.domain not in ("", "ai.onnx"):
        return f"an operator of the domain {node.domain}"
    source, weight = node.inputs[0], node.inputs[1]
    if constant(source) is not None:
        return "its constant factor is the first; int8 kernels take weights as the second"
    if weight is None or weight.const_value is None or constant(weight) is None:
        return "a product of two activations, which costs accuracy in int8"
    if weight.const_value.dtype != ir.DataType.FLOAT:
        return f"its weights are {weight.const_value.dtype.name.lower()}, not float32"
    rank = len(weight.const_value.shape)
    if rank < 2 or (node.op_type == "MatMul" and rank != 2):
        return f"its weights have {rank} dimension{'s' * (rank != 1)}; int8 kernels take 2"
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0):
            return "transA: int8 kernels take the activation as it is"
        if node.attributes.get_float("alpha", 1.0) != 1.0 or node.attributes.get_float("beta", 1.0) != 1.0:
            return "alpha or beta is not 1"
        if bias is not None and ((array := constant(bias)) is None or array.shape[:-1] not in ((), (1,))):
            return "its bias is not one constant row"
    if node.op_type == "Conv" and bias is not None and constant(bias) is None:
        return "its bias is not constant"
    return None


_NO_INT8_FORM = {
    "ConvTranspose": "onnxruntime has no int8 kernel for it",
    "Einsum": "engines have no int8 kernel for it; write it as MatMul",
    "Attention": "products of two activations, which cost accuracy in int8",
    "LSTM": "no static int8 form: its state is fed back inside; dynamic int8 is onnxruntime's alone, from 64 units",
    "GRU": "no static int8 form: its state is fed back inside; engines have no dynamic one either",
    "RNN": "no static int8 form: its state is fed back inside; engines have no dynamic one either",
    "LayerNormalization": "normalisation in int8 ruins accuracy",
    "RMSNormalization": "normalisation in int8 ruins accuracy",
    "InstanceNormalization": "normalisation in int8 ruins accuracy",
    "GroupNormalization": "normalisation in int8 ruins accuracy",
    "BatchNormalization": "no convolution or Gemm stands before it to be folded into",
}


def why_float(
    node: ir.Node, *, keep_float: frozenset[str] = frozenset(), rolled_back: bool = False, inside: bool = False
) -> str:
    """Return why a layer that is in float in a quantized graph is so, in one phrase.

    Args:
        node: a layer of the graph that ships.
        keep_float: layers that were to stay in float, by their first output.
        rolled_back: int8 was slower, so the whole graph went back.
        inside: whether the node lies in the body of an If, Loop or Scan.
    """
    if inside:
        return "inside the body of an If, Loop or Scan, which is left alone"
    if node.outputs[0].name in keep_float:
        return "named in keep_float"
    if node.op_type in _NO_INT8_FORM:
        return _NO_INT8_FORM[node.op_type] + ("; weights stored in float16" if _is_halved(node) else "")
    if node.op_type == "Gather":
        return _table_obstacle(node) or "engines of this kind read embedding tables in float"
    if node.op_type in WEIGHTED and (why := _obstacle(node)) and not _is_stored(node):
        return why
    if rolled_back:
        return "int8 was slower and rolled back"
    if node.op_type == "Conv" and _is_result(node):
        return "its result is an output, which an int8 convolution would round to 256 steps"
    if node.graph is not None and node.op_type == "Conv" and _reads_pixels(node, node.graph):
        return "the first convolution of a picture or spectrogram: int8 costs accuracy there and saves no time"
    return "left in float by the quantizer"


def _is_halved(node: ir.Node) -> bool:
    """Return whether the weights of a recurrent layer are float16 that is widened at load (see ``storage``)."""
    cast = node.inputs[1].producer() if node.op_type in RECURRENT and node.inputs[1] is not None else None
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return source is not None and source.const_value is not None and source.const_value.dtype == ir.DataType.FLOAT16


def _is_stored(node: ir.Node) -> bool:
    """Return whether the weights are integers that are widened at load (see ``storage``)."""
    weight = node.inputs[1]
    mul = weight.producer() if weight is not None else None
    if mul is None or mul.op_type != "Mul" or constant(mul.inputs[1]) is None:
        return False
    cast = mul.inputs[0].producer() if mul.inputs[0] is not None else None
    return cast is not None and cast.op_type == "Cast" and constant(cast.inputs[0]) is not None


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Constant bounds of a Relu or Clip, or None for anything else."""
    if is_standard(node, "Relu"):
        return 0.0, float("inf")
    if not is_standard(node, "Clip"):
        return None
    bounds = []
    for i, default in ((1, -float("inf")), (2, float("inf"))):
        value = node.inputs[i] if len(node.inputs) > i else None
        array = constant(value)
        if value is not None and array is None:
            return None
        bounds.append(default if array is None else float(array))
    return bounds[0], bounds[1]


def find_region(
    graph: ir.Graph, *, keep_float: frozenset[str] = frozenset(), absorb: bool = True, float_results: bool = False
) -> Region:
    """Partition a clean graph.

    Args:
        graph: cleaned, in topological order.
        keep_float: names of weighted nodes, by their first output, to leave alone.
        absorb: whether quantization, which saturates at the ends of what it covers, may perform ReLU, ReLU6 and other
            clips around 0; an engine that wants so fuses nothing else between a convolution and its quantization.
        float_results: whether the engine has int8 convolutions that give floats.
    """
    region = Region()
    outputs = set(graph.outputs)
    int8: set[ir.Value] = set()

    def only_reader(value: ir.Value) -> ir.Node | None:
        reader = sole_reader(value)
        return reader if reader is not None and reader.graph is graph else None  # not one in the body of a loop

    def make_inner(made: ir.Value) -> None:
        value, reader = made, only_reader(made)
        if reader is not None and (bounds := clip_bounds(reader)) and reader.inputs[0] is made:
            value = reader.outputs[0]
            if absorb and bounds[0] <= 0.0 <= bounds[1]:
                region.absorbed.append(reader)
            elif absorb:
                value = made
        if value not in outputs or value is not made:
            region.inner.append(value)
            int8.add(value)

    for node in graph:
        weighted = is_weighted(node) and node.outputs[0].name not in keep_float
        if is_standard(node, "Conv") and _is_result(node) and not float_results:
            weighted = False
        if weighted and _reads_pixels(node, graph):
            make_inner(node.outputs[0])  # computed in float, read in int8
        elif weighted:
            region.weighted.append(node)
            source = node.inputs[0]
            assert source is not None
            if source not in int8:
                region.edges.setdefault(source, []).append(node)
            if node.op_type == "Conv" or _feeds_weighted_through_relu(node, only_reader):
                make_inner(node.outputs[0])
        elif _keeps_int8(node, int8):
            make_inner(node.outputs[0])
        elif is_standard(node, *MOVING) and node.inputs[0] in int8 and node.outputs[0] not in outputs:
            source = node.inputs[0]
            region.inner.append(node.outputs[0])
            region.shared[node.outputs[0]] = region.shared.get(source, source)
            int8.add(node.outputs[0])
        elif is_standard(node, "Gather") and _is_table(node) and node.outputs[0].name not in keep_float:
            region.tables.append(node)
    _keep_results(region, int8, float_results=float_results)
    _drop_dead_ends(region, int8)
    return region


def _keep_results(region: Region, int8: set[ir.Value], *, float_results: bool) -> None:
    """Leave what only leaves the graph as it is computed: of float nodes, and of convolutions where the engine can."""
    for value in [v for v in region.inner if v not in region.shared and _only_leaves(v)]:
        absorbed = next((node for node in region.absorbed if node.outputs[0] is value), None)
        made = absorbed.inputs[0] if absorbed is not None else value
        if made is not None and made.producer() in region.weighted and not float_results:
            continue
        region.inner.remove(value)
        int8.discard(value)
        if absorbed is not None:
            region.absorbed.remove(absorbed)


def _only_leaves(value: ir.Value) -> bool:
    """Return whether a value is read as an output of the graph alone, as it is, clipped, pooled or moved."""
    readers = [use.node for use in value.uses()]
    through = (*MOVING, *POOLING, "ReduceMean", "Relu", "Clip")
    if not readers:
        return value.is_graph_output()
    return all(is_standard(r, *through) and r.inputs[0] is value and _only_leaves(r.outputs[0]) for r in readers)


def _keeps_int8(node: ir.Node, int8: set[ir.Value]) -> bool:
    """Return an addition or concatenation of int8 values, or a pool of one."""
    if is_standard(node, *MIXING):
        return len(node.inputs) > 1 and all(v in int8 for v in node.inputs)
    return is_standard(node, *POOLING) and len(node.outputs) == 1 and node.inputs[0] in int8


def _is_result(node: ir.Node) -> bool:
    return node.outputs[0].is_graph_output()


def result_convolutions(graph: ir.Graph) -> list[ir.Node]:
    """The convolutions that could be int8 and whose result leaves the graph, which not every engine leaves in float."""
    return [node for node in graph if is_standard(node, "Conv") and is_weighted(node) and _only_leaves(node.outputs[0])]


def _reads_pixels(node: ir.Node, graph: ir.Graph) -> bool:
    """Return the first convolution of an image: a few inputs per output, so cheap, and everything after depends on it.

    EfficientNet-Lite0 with it in int8 falls from cosine .997 to .985, and runs no faster.
    """
    weight = constant(node.inputs[1])
    if not is_standard(node, "Conv") or node.inputs[0] not in graph.inputs or weight is None:
        return False
    return bool(weight.shape[1] * node.attributes.get_int("group", 1) <= 4)


def _feeds_weighted_through_relu(node: ir.Node, only_reader: Callable[[ir.Value], ir.Node | None]) -> bool:
    """Return a linear layer whose only reader is a ReLU that only weighted layers read (an MLP): it stays in int8."""
    reader = only_reader(node.outputs[0])
    if reader is None or clip_bounds(reader) is None:
        return False
    readers = [use.node for use in reader.outputs[0].uses()]
    return bool(readers) and all(is_weighted(r) for r in readers)


SMALLEST_TABLE = 4096
"""Numbers of an embedding table that is worth a DequantizeLinear."""


def _is_table(node: ir.Node) -> bool:
    return constant(node.inputs[0]) is not None and _table_obstacle(node) is None


def _table_obstacle(node: ir.Node) -> str | None:
    """Return what keeps a Gather's constant table from int8, or None."""
    table = node.inputs[0].const_value if node.inputs[0] is not None else None
    if table is None or table.dtype != ir.DataType.FLOAT:
        return "its table is no constant of float32"
    if len(table.shape) != 2 or node.attributes.get_int("axis", 0) != 0:
        return "not rows of a table of two dimensions"
    if table.size < SMALLEST_TABLE:
        return f"a table of fewer than {SMALLEST_TABLE} numbers, not worth it"
    return None


def _drop_dead_ends(region: Region, int8: set[ir.Value]) -> None:
    """Leave out shortcut, pool and move outputs that no int8 node reads: they would be quantized for nothing."""
    weighted = set(region.weighted)
    while True:
        dead = [
            v
            for v in region.inner
            if (p := v.producer()) is not None
            and p.op_type in (*MOVING, *MIXING, *POOLING)
            and not any(
                u.node in weighted or (u.node.op_type in (*MOVING, *MIXING, *POOLING) and _inner(u.node, int8))
                for u in v.uses()
            )
        ]
        if not dead:
            return
        for value in dead:
            region.inner.remove(value)
            region.shared.pop(value, None)
            int8.discard(value)


def _inner(node: ir.Node, int8: set[ir.Value]) -> bool:
    value = node.outputs[0]
    uses = list(value.uses())
    if len(uses) == 1 and clip_bounds(uses[0].node):
        value = uses[0].node.outputs[0]
    return value in int8
