"""ONNX limits: what a graph would ask of an engine, found in the bytes of its file before an engine sees them.

A graph is code. Engines check little of it: a division by zero, a cycle or a constant of terabytes ends in a killed
process, a hang or no memory left. This module refuses what can be recognised without running anything:

1. a cycle, a value made twice, subgraphs and functions nested deeper than ``DEEPEST``, a function that calls itself;
2. functions that expand to more than ``MOST_NODES`` nodes, and graphs of more;
3. tensors whose dims and bytes differ, and sparse tensors;
4. attributes that are divided by (``group``, ``strides``, ...) and are not positive, and sizes beyond all models;
5. constants of more than ``MADE_BYTES`` made from a few bytes (ConstantOfShape, Expand, Tile, Pad, Range, ...);
6. a Loop of more than ``MOST_TURNS`` turns; an integer division by a constant 0 or -1.

What it cannot recognise (sizes and divisors that are computed from the inputs) is what ``verify --isolated`` is for.
Whatever is out of the ordinary is named (``graph_operators``), so that a manifest can allow it: operators with
subgraphs (``Loop``), of other domains (``com.microsoft:Gelu``), functions (``local:F``), and integer divisions by a
value that is computed (``Div``, ``Mod``).

Source: onnx.proto and the operators of ONNX 1.19.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping

from edgemm.runtime.errors import EngineError
from edgemm.runtime.onnx_constants import (
    BITS,
    BOOL,
    COMPUTED,
    FLOAT,
    INT64,
    INTEGERS,
    SAME,
    Constant,
    Refused,
    computed_constant,
    constant_of,
    constant_of_node,
)
from edgemm.runtime.onnx_messages import Attribute, Messages, Node, Segments

MOST_NODES = 200_000
MADE_BYTES = 1 << 28
MOST_TURNS = 100_000
DEEPEST = 8
LARGEST_STEP = 1 << 20  # of a kernel, a stride, a pad: the sides of images and the lengths of sounds are below
LARGEST_SCALE = 1 << 16  # of all axes of a Resize together

_POSITIVE = frozenset(
    {"group", "strides", "dilations", "kernel_shape", "blocksize", "block_size", "num_outputs", "num_groups"}
    | {"num_heads", "kv_num_heads", "q_num_heads", "hidden_size", "size"}
)
_BOUNDED = frozenset({"pads", "output_padding", "border"})
_AXES = frozenset({"axis", "axes", "perm", "batch_axis", "time_axis", "batch_dims"})
_TO_INT64 = frozenset({"Shape", "Size", "NonZero", "ArgMax", "ArgMin"})
_TO_BOOL = frozenset({"Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Not", "Xor", "IsNaN"})
_WINDOWS = frozenset({"HannWindow", "HammingWindow", "BlackmanWindow"})

# operator -> inputs that it can't do without, and the attribute that stood for one of them in older opsets
_INPUTS: Mapping[str, tuple[int, str]] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Pow", "Mod", "MatMul", "Gemm", "Conv", "Gather"), (2, "")),
    **dict.fromkeys(
        ("Expand", "ConvTranspose", "CumSum", "Compress", "GridSample", "QuantizeLinear", "DequantizeLinear", "STFT"),
        (2, ""),
    ),
    **dict.fromkeys(("Where", "Range", "OneHot", "ScatterND", "RoiAlign", "LSTM", "GRU", "RNN"), (3, "")),
    "Pad": (2, "pads"),
    "Slice": (3, "starts"),
    "TopK": (2, "k"),
    "Reshape": (2, "shape"),
    "Tile": (2, ""),
    "Unsqueeze": (2, "axes"),
}


def graph_operators(data: bytes, *, what: str) -> tuple[str, ...]:
    """Refuse a graph that would kill, hang or flood an engine; name what in it is out of the ordinary.

    Args:
        data: the bytes of an ONNX file that ``onnx_wire.require_whole_graph`` has passed.
        what: names the graph in messages.

    Returns:
        Names, sorted: see the module's docstring. Empty for most graphs.

    Raises:
        EngineError: naming what is refused.
    """
    try:
        return tuple(sorted(_Check(data).model()))
    except Refused as error:
        raise EngineError(f"{what}: the graph is refused: {error}") from None
    except (ValueError, IndexError, struct.error, UnicodeDecodeError, OverflowError):
        raise EngineError(f"{what}: not an ONNX model; expected one self-contained ONNX file") from None


def require_operators(found: Iterable[str], allowed: Iterable[str], *, what: str) -> None:
    """Raise EngineError where a graph has operators out of the ordinary that the manifest does not allow by name."""
    if odd := sorted(set(found) - set(allowed)):
        raise EngineError(
            f"{what}: the graph has {', '.join(odd[:5])}, and the manifest's 'operators' of this target do not allow "
            f"{'it' if len(odd) == 1 else 'them'}; seal the bundle again if you trust its author"
        )


class _Check:
    def __init__(self, data: bytes) -> None:
        self._messages = Messages(data)
        self._found: set[str] = set()
        self._made = 0
        self._nodes = 0
        self._costs: dict[str, int] = {}  # function -> nodes once everything in it is expanded
        self._functions: dict[str, tuple[int, int]] = {}

    def model(self) -> set[str]:
        graph: list[tuple[int, int]] = []
        for number, place in self._messages.fields([(0, len(self._messages.data))]):
            if isinstance(place, tuple):
                if number == 7:
                    graph.append(place)
                elif number == 25:
                    self._function_named(place)
        self._found.update(self._functions)
        for name in self._functions:
            self._cost(name, ())
        total = self._graph(graph, {}, {}, depth=0)
        if total > MOST_NODES:
            raise Refused(f"it has {total} nodes once its functions are expanded, expected at most {MOST_NODES}")
        return self._found

    # --- functions ---------------------------------------------------------------------------------------------------

    def _function_named(self, place: tuple[int, int]) -> None:
        name = domain = ""
        for number, value in self._messages.fields([place]):
            if isinstance(value, tuple) and number in (1, 10):
                name, domain = (
                    (self._messages.text(value), domain) if number == 1 else (name, self._messages.text(value))
                )
        key = f"{domain}:{name}"
        if key in self._functions:
            raise Refused(f"function '{key[:80]}' is given twice")
        self._functions[key] = place

    def _cost(self, name: str, within: tuple[str, ...]) -> int:
        if name in within:
            raise Refused(f"function '{name[:80]}' calls itself")
        if len(within) > 100:
            raise Refused("functions call each other more than 100 deep")
        if name not in self._costs:
            nodes, known = [], {}
            for number, value in self._messages.fields([self._functions[name]]):
                if number == 7 and isinstance(value, tuple):
                    nodes.append(self._messages.node(value))
                elif number == 4 and isinstance(value, tuple):
                    known[self._messages.text(value)] = 0
            for node in nodes:
                if (called := f"{node.domain}:{node.op}") in self._functions:
                    self._cost(called, (*within, name))
            self._costs[name] = min(self._walk(nodes, known, {}, depth=1), 2**62)
        return self._costs[name]

    # --- graphs ------------------------------------------------------------------------------------------------------

    def _graph(
        self, place: Segments, outer_types: Mapping[str, int], outer: Mapping[str, Constant], *, depth: int
    ) -> int:
        """Check one graph; returns how many nodes it has once its functions are expanded."""
        if depth > DEEPEST:
            raise Refused(f"subgraphs nested deeper than {DEEPEST}")
        nodes: list[Node] = []
        types = dict(outer_types)
        constants = dict(outer)
        listed: list[tuple[int, int]] = []
        for number, value in self._messages.fields(place):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                nodes.append(self._messages.node(value))
            elif number == 5:
                tensor = self._messages.tensor([value])
                types[tensor.name] = tensor.dtype
                constants[tensor.name] = constant_of(self._messages, tensor)
            elif number == 11:
                listed.append(value)
            elif number == 15:
                raise Refused("it has sparse tensors")
        for value in listed:  # an input that is also an initializer is one that can be overridden
            name, dtype = self._messages.value_info(value)
            types.setdefault(name, dtype)
        return self._walk(nodes, types, constants, depth=depth)

    def _walk(self, nodes: list[Node], types: dict[str, int], constants: dict[str, Constant], *, depth: int) -> int:
        self._nodes += len(nodes)
        if self._nodes > MOST_NODES:
            raise Refused(f"it has more than {MOST_NODES} nodes")
        total = 0
        for node in self._in_order(nodes):
            attributes = {a.name: a for a in map(self._messages.attribute, node.attributes)} if node.attributes else {}
            if (called := f"{node.domain}:{node.op}") in self._functions:
                total += self._cost(called, ())
            else:
                total += 1
                if node.domain not in ("", "ai.onnx"):
                    self._found.add(node.kind)
            for attribute in attributes.values():
                self._check_attribute(node, attribute)
                for graph in attribute.graphs:
                    self._found.add(node.kind)
                    total += self._graph(graph, types, constants, depth=depth + 1)
            if node.domain in ("", "ai.onnx"):
                self._check_node(node, attributes, types, constants)
        return total

    def _in_order(self, nodes: list[Node]) -> list[Node]:
        """Return the nodes such that each comes after those whose values it takes. Raises where there is a cycle."""
        maker: dict[str, int] = {}
        for i, node in enumerate(nodes):
            for name in node.outputs:
                if name and maker.setdefault(name, i) != i:
                    raise Refused(f"value '{name[:80]}' is made twice")
        needs = []
        sorted_already = True
        for i, node in enumerate(nodes):
            taken = set(node.inputs)
            for place in node.attributes:
                if graphs := self._messages.attribute(place).graphs:
                    for graph in graphs:
                        self._names_used(graph, taken, 0)
            before = {maker[name] for name in taken if name in maker}
            sorted_already = sorted_already and all(j < i for j in before)
            needs.append(before)
        if sorted_already:
            return nodes
        users: list[list[int]] = [[] for _ in nodes]
        waiting = [len(before) for before in needs]
        for i, before in enumerate(needs):
            for j in before:
                users[j].append(i)
        ready = [i for i, count in enumerate(waiting) if not count]
        order = []
        while ready:
            i = ready.pop()
            order.append(nodes[i])
            for j in users[i]:
                waiting[j] -= 1
                if not waiting[j]:
                    ready.append(j)
        if len(order) != len(nodes):
            raise Refused("its nodes form a cycle")
        return order

    def _names_used(self, place: Segments, found: set[str], depth: int) -> None:
        if depth > DEEPEST:
            raise Refused(f"subgraphs nested deeper than {DEEPEST}")
        for number, value in self._messages.fields(place):
            if number == 1 and isinstance(value, tuple):
                node = self._messages.node(value)
                found.update(node.inputs)
                for attribute in map(self._messages.attribute, node.attributes):
                    for graph in attribute.graphs:
                        self._names_used(graph, found, depth + 1)
            elif number == 12 and isinstance(value, tuple):
                found.add(self._messages.value_info(value)[0])

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _check_attribute(self, node: Node, attribute: Attribute) -> None:
        name, where = attribute.name, f"{node.kind}'s '{attribute.name[:40]}'"
        low, high = -(2**63), 2**63
        if name in _POSITIVE:
            low, high = 1, LARGEST_STEP
        elif name in _BOUNDED:
            low, high = -LARGEST_STEP, LARGEST_STEP
        elif name in _AXES:
            low, high = -DEEPEST * 8, DEEPEST * 8
        for number in attribute.ints:
            if not low <= number <= high:
                raise Refused(f"{where} is {number}, expected {low} to {high}")
        if name == "shape" and node.op.startswith("Random"):
            self._count_made(node, attribute.ints, 4)
        if name in ("output_shape", "sample_size") and math.prod(map(abs, attribute.ints)) * 4 > MADE_BYTES:
            raise Refused(f"{where} is {attribute.ints[:6]}: more than {MADE_BYTES} bytes")
        if attribute.sparse:
            raise Refused("it has sparse tensors")
        for place in (attribute.tensor, *([one] for one in attribute.tensors)):
            if place:
                constant_of(self._messages, self._messages.tensor(place))

    def _check_node(
        self,
        node: Node,
        attributes: Mapping[str, Attribute],
        types: dict[str, int],
        constants: dict[str, Constant],
    ) -> None:
        """Refuse what a node would do with its constants; note the types, and the constants that it makes."""
        op, inputs = node.op, node.inputs
        least, formerly = _INPUTS.get(op, (0, ""))
        if (len(inputs) < least or "" in inputs[:least]) and formerly not in attributes:
            raise Refused(f"{op} has {len(inputs)} inputs, expected at least {least} that are given")
        dtype = types.get(inputs[0], 0) if inputs else 0
        size = max(BITS.get(dtype, 32) // 8, 1)
        given = [constants.get(name) if name else None for name in inputs]
        known = [one.values if one is not None else None for one in given]

        def value(i: int) -> tuple[float, ...] | None:
            return known[i] if i < len(known) else None

        made: Constant | None = None
        if op == "Constant":
            dtype, made = constant_of_node(self._messages, attributes)
        elif op == "Cast":
            dtype = attributes["to"].ints[0] if "to" in attributes and attributes["to"].ints else 0
            made = given[0] if given else None
        elif op in ("Div", "Mod"):
            self._check_division(op, inputs, types, constants)
        elif op == "ConstantOfShape":
            filled = attributes.get("value")
            tensor = self._messages.tensor(filled.tensor) if filled is not None and filled.tensor else None
            dtype = tensor.dtype if tensor is not None else FLOAT
            if (shape := value(0)) is not None:
                self._count_made(node, shape, max(BITS.get(dtype, 32) // 8, 1))
        elif op == "Expand":
            if (shape := value(1)) is not None:
                self._count_made(node, shape, size)
        elif op == "Tile":
            if (repeats := value(1)) is not None:
                self._count_made(node, [*repeats, given[0].count if given[0] is not None else 1], size)
        elif op == "Pad":
            if (pads := value(1)) is not None:
                half = len(pads) // 2
                self._count_made(
                    node, [abs(a) + abs(b) + 1 for a, b in zip(pads[:half], pads[half:], strict=False)], size
                )
        elif op == "Range":
            start, limit, step = value(0), value(1), value(2)
            if step and step[0] == 0:
                raise Refused("Range's step is 0")
            if start and limit and step:
                self._count_made(node, [math.ceil(abs((limit[0] - start[0]) / step[0]))], size)
        elif op == "OneHot":
            if depth := value(1):
                self._count_made(node, [depth[0]], 4)
        elif op in ("Resize", "Upsample"):
            scales, sizes = (value(2), value(3)) if op == "Resize" else (value(1), None)
            if scales and not 0 <= math.prod(scales) <= LARGEST_SCALE:
                raise Refused(f"{op} by {math.prod(scales):g}, expected at most {LARGEST_SCALE}")
            if sizes is not None:
                self._count_made(node, sizes, size)
        elif op in _WINDOWS or op == "MelWeightMatrix":
            self._count_made(node, [one[0] for one in known[:2] if one], 4)
        elif op == "STFT":
            if (step := value(1)) is not None and (not step or step[0] < 1):
                raise Refused("STFT's frame_step is not positive")
        elif op == "Loop" and (turns := value(0)) and turns[0] > MOST_TURNS:
            raise Refused(f"a Loop of {int(turns[0])} turns, expected at most {MOST_TURNS}")
        elif op in COMPUTED or op in SAME or op in ("Concat", "Shape"):
            made = computed_constant(op, given)
        if op in _TO_INT64:
            dtype = INT64
        elif op in _TO_BOOL:
            dtype = BOOL
        elif op == "Where" and len(inputs) > 1:
            dtype = types.get(inputs[1], 0)
        elif op == "DequantizeLinear" and len(inputs) > 1:
            dtype = types.get(inputs[1], FLOAT)
        elif op == "QuantizeLinear":
            dtype = types.get(inputs[2], 2) if len(inputs) > 2 else 2
        for i, name in enumerate(node.outputs):
            types[name] = INT64 if op == "TopK" and i == 1 else dtype
            if made is not None and i == 0:
                constants[name] = made

    def _check_division(
        self, op: str, inputs: list[str], types: Mapping[str, int], constants: Mapping[str, Constant]
    ) -> None:
        """Integers divided by 0, or the smallest by -1, end the process on x86."""
        if len(inputs) < 2 or not any(types.get(name, 0) in INTEGERS for name in inputs[:2]):
            return
        divisor = constants.get(inputs[1])
        if divisor is None or divisor.values is None:
            self._found.add(op)
        elif any(number in (0, -1) for number in divisor.values):
            raise Refused(f"{op} divides integers by {next(n for n in divisor.values if n in (0, -1)):.0f}")

    def _count_made(self, node: Node, shape: Iterable[float], item_bytes: int) -> None:
        """Add a constant that a node makes of a few numbers to what the whole graph makes; refuse what is too much."""
        self._made += int(min(math.prod(abs(size) or 1 for size in shape), 2.0**62)) * item_bytes
        if self._made > MADE_BYTES:
            raise Refused(f"{node.op} makes {self._made} bytes of a constant, expected at most {MADE_BYTES}")
