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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edgemm.runtime.errors import EngineError

MOST_NODES = 200_000
MADE_BYTES = 1 << 28
MOST_TURNS = 100_000
DEEPEST = 8
LARGEST_STEP = 1 << 20  # of a kernel, a stride, a pad: the sides of images and the lengths of sounds are below
LARGEST_SCALE = 1 << 16  # of all axes of a Resize together
SMALL = 64  # numbers of a constant that is followed through the nodes that compute a shape

_FLOAT, _INT32, _INT64, _BOOL = 1, 6, 7, 9
_INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_NUMPY = {1: "<f4", 2: "<u1", 3: "<i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 11: "<f8", 12: "<u4", 13: "<u8"}
_POSITIVE = frozenset(
    {"group", "strides", "dilations", "kernel_shape", "blocksize", "block_size", "num_outputs", "num_groups"}
    | {"num_heads", "kv_num_heads", "q_num_heads", "hidden_size", "size"}
)
_BOUNDED = frozenset({"pads", "output_padding", "border"})
_AXES = frozenset({"axis", "axes", "perm", "batch_axis", "time_axis", "batch_dims"})
_SAME = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})  # the same numbers, of another shape
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

Segments = Sequence[tuple[int, int]]  # where a message lies; protobuf merges a message that is given in pieces


class _Refused(Exception):
    """Why a graph is refused, in a few words."""


@dataclass(slots=True)
class _Tensor:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    dtype: int = 0
    raw: tuple[int, int] | None = None
    typed: list[tuple[int, int, int]] = field(default_factory=list)  # (field, start, end), packed
    loose: list[int] = field(default_factory=list)  # numbers that are not packed


@dataclass(slots=True)
class _Constant:
    """What is known of a constant: how many numbers, and which where they are few."""

    count: int
    values: tuple[float, ...] | None


@dataclass(slots=True)
class _Node:
    op: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[tuple[int, int]] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """The operator's name, with its domain where that is not ONNX's own."""
        return self.op if self.domain in ("", "ai.onnx") else f"{self.domain}:{self.op}"


@dataclass(slots=True)
class _Attribute:
    name: str = ""
    ints: list[int] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    tensor: list[tuple[int, int]] = field(default_factory=list)
    tensors: list[tuple[int, int]] = field(default_factory=list)
    graphs: list[list[tuple[int, int]]] = field(default_factory=list)
    sparse: bool = False


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
    except _Refused as error:
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
        self._data = data
        self._found: set[str] = set()
        self._made = 0
        self._nodes = 0
        self._costs: dict[str, int] = {}  # function -> nodes once everything in it is expanded
        self._functions: dict[str, tuple[int, int]] = {}

    def model(self) -> set[str]:
        graph: list[tuple[int, int]] = []
        for number, place in self._fields([(0, len(self._data))]):
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
            raise _Refused(f"it has {total} nodes once its functions are expanded, expected at most {MOST_NODES}")
        return self._found

    # --- functions ---------------------------------------------------------------------------------------------------

    def _function_named(self, place: tuple[int, int]) -> None:
        name = domain = ""
        for number, value in self._fields([place]):
            if isinstance(value, tuple) and number in (1, 10):
                name, domain = (self._text(value), domain) if number == 1 else (name, self._text(value))
        key = f"{domain}:{name}"
        if key in self._functions:
            raise _Refused(f"function '{key[:80]}' is given twice")
        self._functions[key] = place

    def _cost(self, name: str, within: tuple[str, ...]) -> int:
        if name in within:
            raise _Refused(f"function '{name[:80]}' calls itself")
        if len(within) > 100:
            raise _Refused("functions call each other more than 100 deep")
        if name not in self._costs:
            nodes, known = [], {}
            for number, value in self._fields([self._functions[name]]):
                if number == 7 and isinstance(value, tuple):
                    nodes.append(self._node(value))
                elif number == 4 and isinstance(value, tuple):
                    known[self._text(value)] = 0
            for node in nodes:
                if (called := f"{node.domain}:{node.op}") in self._functions:
                    self._cost(called, (*within, name))
            self._costs[name] = min(self._walk(nodes, known, {}, depth=1), 2**62)
        return self._costs[name]

    # --- graphs ------------------------------------------------------------------------------------------------------

    def _graph(
        self, place: Segments, outer_types: Mapping[str, int], outer: Mapping[str, _Constant], *, depth: int
    ) -> int:
        """Check one graph; returns how many nodes it has once its functions are expanded."""
        if depth > DEEPEST:
            raise _Refused(f"subgraphs nested deeper than {DEEPEST}")
        nodes: list[_Node] = []
        types = dict(outer_types)
        constants = dict(outer)
        listed: list[tuple[int, int]] = []
        for number, value in self._fields(place):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                nodes.append(self._node(value))
            elif number == 5:
                tensor = self._tensor([value])
                types[tensor.name] = tensor.dtype
                constants[tensor.name] = self._constant(tensor)
            elif number == 11:
                listed.append(value)
            elif number == 15:
                raise _Refused("it has sparse tensors")
        for value in listed:  # an input that is also an initializer is one that can be overridden
            name, dtype = self._input(value)
            types.setdefault(name, dtype)
        return self._walk(nodes, types, constants, depth=depth)

    def _walk(self, nodes: list[_Node], types: dict[str, int], constants: dict[str, _Constant], *, depth: int) -> int:
        self._nodes += len(nodes)
        if self._nodes > MOST_NODES:
            raise _Refused(f"it has more than {MOST_NODES} nodes")
        total = 0
        for node in self._in_order(nodes):
            attributes = {a.name: a for a in map(self._attribute, node.attributes)} if node.attributes else {}
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

    def _in_order(self, nodes: list[_Node]) -> list[_Node]:
        """The nodes such that each comes after those whose values it takes. Raises where there is a cycle."""
        maker: dict[str, int] = {}
        for i, node in enumerate(nodes):
            for name in node.outputs:
                if name and maker.setdefault(name, i) != i:
                    raise _Refused(f"value '{name[:80]}' is made twice")
        needs = []
        sorted_already = True
        for i, node in enumerate(nodes):
            taken = set(node.inputs)
            for place in node.attributes:
                if graphs := self._attribute(place).graphs:
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
            raise _Refused("its nodes form a cycle")
        return order

    def _names_used(self, place: Segments, found: set[str], depth: int) -> None:
        if depth > DEEPEST:
            raise _Refused(f"subgraphs nested deeper than {DEEPEST}")
        for number, value in self._fields(place):
            if number == 1 and isinstance(value, tuple):
                node = self._node(value)
                found.update(node.inputs)
                for attribute in map(self._attribute, node.attributes):
                    for graph in attribute.graphs:
                        self._names_used(graph, found, depth + 1)
            elif number == 12 and isinstance(value, tuple):
                found.add(self._input(value)[0])

    # --- nodes -------------------------------------------------------------------------------------------------------

    def _check_attribute(self, node: _Node, attribute: _Attribute) -> None:
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
                raise _Refused(f"{where} is {number}, expected {low} to {high}")
        if name == "shape" and node.op.startswith("Random"):
            self._count_made(node, attribute.ints, 4)
        if name in ("output_shape", "sample_size") and math.prod(map(abs, attribute.ints)) * 4 > MADE_BYTES:
            raise _Refused(f"{where} is {attribute.ints[:6]}: more than {MADE_BYTES} bytes")
        if attribute.sparse:
            raise _Refused("it has sparse tensors")
        for place in (attribute.tensor, *([one] for one in attribute.tensors)):
            if place:
                self._constant(self._tensor(place))

    def _check_node(
        self,
        node: _Node,
        attributes: Mapping[str, _Attribute],
        types: dict[str, int],
        constants: dict[str, _Constant],
    ) -> None:
        """Refuse what a node would do with its constants; note the types, and the constants that it makes."""
        op, inputs = node.op, node.inputs
        least, formerly = _INPUTS.get(op, (0, ""))
        if (len(inputs) < least or "" in inputs[:least]) and formerly not in attributes:
            raise _Refused(f"{op} has {len(inputs)} inputs, expected at least {least} that are given")
        dtype = types.get(inputs[0], 0) if inputs else 0
        size = max(_BITS.get(dtype, 32) // 8, 1)
        given = [constants.get(name) if name else None for name in inputs]
        known = [one.values if one is not None else None for one in given]

        def value(i: int) -> tuple[float, ...] | None:
            return known[i] if i < len(known) else None

        made: _Constant | None = None
        if op == "Constant":
            dtype, made = self._constant_node(attributes)
        elif op == "Cast":
            dtype = attributes["to"].ints[0] if "to" in attributes and attributes["to"].ints else 0
            made = given[0] if given else None
        elif op in ("Div", "Mod"):
            self._check_division(op, inputs, types, constants)
        elif op == "ConstantOfShape":
            filled = attributes.get("value")
            tensor = self._tensor(filled.tensor) if filled is not None and filled.tensor else None
            dtype = tensor.dtype if tensor is not None else _FLOAT
            if (shape := value(0)) is not None:
                self._count_made(node, shape, max(_BITS.get(dtype, 32) // 8, 1))
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
                raise _Refused("Range's step is 0")
            if start and limit and step:
                self._count_made(node, [math.ceil(abs((limit[0] - start[0]) / step[0]))], size)
        elif op == "OneHot":
            if depth := value(1):
                self._count_made(node, [depth[0]], 4)
        elif op in ("Resize", "Upsample"):
            scales, sizes = (value(2), value(3)) if op == "Resize" else (value(1), None)
            if scales and not 0 <= math.prod(scales) <= LARGEST_SCALE:
                raise _Refused(f"{op} by {math.prod(scales):g}, expected at most {LARGEST_SCALE}")
            if sizes is not None:
                self._count_made(node, sizes, size)
        elif op in _WINDOWS or op == "MelWeightMatrix":
            self._count_made(node, [one[0] for one in known[:2] if one], 4)
        elif op == "STFT":
            if (step := value(1)) is not None and (not step or step[0] < 1):
                raise _Refused("STFT's frame_step is not positive")
        elif op == "Loop" and (turns := value(0)) and turns[0] > MOST_TURNS:
            raise _Refused(f"a Loop of {int(turns[0])} turns, expected at most {MOST_TURNS}")
        elif op in _COMPUTED or op in _SAME or op in ("Concat", "Shape"):
            made = _computed(op, given)
        if op in _TO_INT64:
            dtype = _INT64
        elif op in _TO_BOOL:
            dtype = _BOOL
        elif op == "Where" and len(inputs) > 1:
            dtype = types.get(inputs[1], 0)
        elif op == "DequantizeLinear" and len(inputs) > 1:
            dtype = types.get(inputs[1], _FLOAT)
        elif op == "QuantizeLinear":
            dtype = types.get(inputs[2], 2) if len(inputs) > 2 else 2
        for i, name in enumerate(node.outputs):
            types[name] = _INT64 if op == "TopK" and i == 1 else dtype
            if made is not None and i == 0:
                constants[name] = made

    def _check_division(
        self, op: str, inputs: list[str], types: Mapping[str, int], constants: Mapping[str, _Constant]
    ) -> None:
        """Integers divided by 0, or the smallest by -1, end the process on x86."""
        if len(inputs) < 2 or not any(types.get(name, 0) in _INTEGERS for name in inputs[:2]):
            return
        divisor = constants.get(inputs[1])
        if divisor is None or divisor.values is None:
            self._found.add(op)
        elif any(number in (0, -1) for number in divisor.values):
            raise _Refused(f"{op} divides integers by {next(n for n in divisor.values if n in (0, -1)):.0f}")

    def _count_made(self, node: _Node, shape: Iterable[float], item_bytes: int) -> None:
        """Add a constant that a node makes of a few numbers to what the whole graph makes; refuse what is too much."""
        self._made += int(min(math.prod(abs(size) or 1 for size in shape), 2.0**62)) * item_bytes
        if self._made > MADE_BYTES:
            raise _Refused(f"{node.op} makes {self._made} bytes of a constant, expected at most {MADE_BYTES}")

    def _constant_node(self, attributes: Mapping[str, _Attribute]) -> tuple[int, _Constant | None]:
        if (held := attributes.get("value")) is not None and held.tensor:
            tensor = self._tensor(held.tensor)
            return tensor.dtype, self._constant(tensor)
        for name, dtype in (
            ("value_int", _INT64),
            ("value_ints", _INT64),
            ("value_float", _FLOAT),
            ("value_floats", _FLOAT),
        ):
            if (held := attributes.get(name)) is not None:
                values: Sequence[float] = held.ints if dtype == _INT64 else held.floats
                return dtype, _Constant(len(values), tuple(values) if len(values) <= SMALL else None)
        return 0, None

    # --- tensors -----------------------------------------------------------------------------------------------------

    def _constant(self, tensor: _Tensor) -> _Constant:
        """Check that a tensor has the bytes that its dims say, and read its numbers where they matter."""
        where = f"tensor '{tensor.name[:60]}'"
        if any(dim < 0 for dim in tensor.dims) or len(tensor.dims) > 64:
            raise _Refused(f"{where} has the dims {tensor.dims[:6]}")
        count = math.prod(tensor.dims)
        bits = _BITS.get(tensor.dtype)
        if bits is None:
            return _Constant(count, None)
        if tensor.raw is not None:
            held = tensor.raw[1] - tensor.raw[0]
            if held != (count * bits + 7) // 8:
                raise _Refused(
                    f"{where} of dims {tensor.dims[:6]} has {held} bytes, expected {(count * bits + 7) // 8}"
                )
        else:
            held = len(tensor.loose) + sum(self._packed_count(*one) for one in tensor.typed)
            wanted = 2 * count if tensor.dtype in (14, 15) else (count * bits + 7) // 8 if bits < 8 else count
            if held != wanted:
                raise _Refused(f"{where} of dims {tensor.dims[:6]} has {held} numbers, expected {wanted}")
        if count > SMALL and tensor.dtype not in _INTEGERS:
            return _Constant(count, None)
        return _Constant(count, self._numbers(tensor, count))

    def _numbers(self, tensor: _Tensor, count: int) -> tuple[float, ...] | None:
        """The numbers of a small tensor; of a large one of integers, those that must not divide."""
        if tensor.raw is not None and tensor.dtype in _NUMPY:
            array = np.frombuffer(self._data, _NUMPY[tensor.dtype], count, tensor.raw[0])
        elif tensor.raw is None and not tensor.typed:
            array = np.array(tensor.loose)
        elif tensor.raw is None and tensor.dtype in (_INT32, _INT64, *_INTEGERS) and count <= SMALL:
            array = np.array([*tensor.loose, *(n for _, a, b in tensor.typed for n in self._varints(a, b))])
        elif tensor.raw is None and tensor.dtype in (_FLOAT, 11) and len(tensor.typed) == 1:
            _, start, end = tensor.typed[0]
            array = np.frombuffer(self._data[start:end], _NUMPY[tensor.dtype])
        else:
            return None
        if count > SMALL:
            unsafe = array[(array == 0) | (array == -1)] if array.dtype.kind == "i" else array[array == 0]
            return tuple(unsafe[:1].tolist()) or (1.0,)
        return tuple(array.tolist())

    def _packed_count(self, number: int, start: int, end: int) -> int:
        if number in (4, 10):
            return (end - start) // (4 if number == 4 else 8)
        return int((np.frombuffer(self._data, np.uint8, end - start, start) < 0x80).sum())

    # --- messages ----------------------------------------------------------------------------------------------------

    def _fields(self, place: Segments) -> Iterator[tuple[int, int | tuple[int, int]]]:
        """(number, value) of each field of a message: an integer, or where its bytes lie."""
        data = self._data
        for at, end in place:
            while at < end:
                tag = data[at]
                at += 1
                if tag >= 0x80:
                    tag, at = self._varint(at - 1)
                number, kind = (tag & 0xFFFFFFFF) >> 3, tag & 7
                if kind == 2:
                    size = data[at]
                    at += 1
                    if size >= 0x80:
                        size, at = self._varint(at - 1)
                    if at + size > end:
                        raise ValueError("a field is longer than what it lies in")
                    yield number, (at, at + size)
                    at += size
                elif kind == 0:
                    value, at = self._varint(at)
                    yield number, value
                elif kind in (1, 5):
                    width = 8 if kind == 1 else 4
                    yield -number, (at, at + width)  # of fixed width: floats and doubles
                    at += width
                else:
                    raise ValueError(f"a field of kind {kind}")

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than ten bytes")

    def _varints(self, start: int, end: int) -> list[int]:
        made = []
        while start < end:
            value, start = self._varint(start)
            made.append(_signed(value))
        return made

    def _text(self, place: tuple[int, int]) -> str:
        return self._data[place[0] : place[1]].decode("utf-8", "backslashreplace")

    def _node(self, place: tuple[int, int]) -> _Node:
        node = _Node()
        for number, value in self._fields([place]):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                node.inputs.append(self._text(value))
            elif number == 2:
                node.outputs.append(self._text(value))
            elif number == 4:
                node.op = self._text(value)
            elif number == 7:
                node.domain = self._text(value)
            elif number == 5:
                node.attributes.append(value)
        return node

    def _attribute(self, place: tuple[int, int]) -> _Attribute:
        attribute = _Attribute()
        single: list[tuple[int, int]] = []
        for number, value in self._fields([place]):
            if isinstance(value, int):
                if number in (3, 8):
                    attribute.ints.append(_signed(value))
            elif number == 1:
                attribute.name = self._text(value)
            elif number == 5:
                attribute.tensor.append(value)
            elif number == 10:
                attribute.tensors.append(value)
            elif number == 6:
                single.append(value)
            elif number == 11:
                attribute.graphs.append([value])
            elif number == 8:
                attribute.ints += self._varints(*value)
            elif number in (-2, -7):
                attribute.floats += struct.unpack("<f", self._data[value[0] : value[1]])
            elif number == 7:
                attribute.floats += np.frombuffer(self._data[value[0] : value[1]], "<f4").tolist()
            elif number in (22, 23):
                attribute.sparse = True
        if single:
            attribute.graphs.append(single)
        return attribute

    def _tensor(self, place: Segments) -> _Tensor:
        tensor = _Tensor()
        for number, value in self._fields(place):
            if isinstance(value, int):
                if number == 1:
                    tensor.dims.append(_signed(value))
                elif number == 2:
                    tensor.dtype = value
                elif number in (5, 7, 11):
                    tensor.loose.append(_signed(value))
            elif number == 1:
                tensor.dims += self._varints(*value)
            elif number == 8:
                tensor.name = self._text(value)
            elif number == 9:
                tensor.raw = value
            elif number in (4, 5, 7, 10, 11):
                tensor.typed.append((number, *value))
            elif number in (-4, -10):
                tensor.loose.append(0)  # one float that is not packed: counted, its value matters nowhere
        return tensor

    def _input(self, place: tuple[int, int]) -> tuple[str, int]:
        """Name and element type of a graph's input or output."""
        name, dtype = "", 0
        for number, value in self._fields([place]):
            if number == 1 and isinstance(value, tuple):
                name = self._text(value)
            elif number == 2 and isinstance(value, tuple):
                for inner, kind in self._fields([value]):
                    if inner == 1 and isinstance(kind, tuple):
                        for innermost, number_of in self._fields([kind]):
                            if innermost == 1 and isinstance(number_of, int):
                                dtype = number_of
        return name, dtype


def _signed(value: int) -> int:
    """A varint as the int64 that it is."""
    return value - 2**64 if value >= 2**63 else value


_COMPUTED: Mapping[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Max": max,
    "Min": min,
    "Neg": lambda a, _: -a,
    "Abs": lambda a, _: abs(a),
}


def _computed(op: str, given: Sequence[_Constant | None]) -> _Constant | None:
    """The constant that a node makes of small constants; None where it isn't known."""
    known = [one for one in given if one is not None]
    if not known or (op not in _SAME and len(known) != len(given)):
        return None
    first = known[0]
    if op in _SAME:
        return given[0]
    values = [one.values for one in known]
    if op == "Shape" or any(v is None for v in values):
        return None
    lists = [v for v in values if v is not None]
    if op == "Concat":
        joined = tuple(number for v in lists for number in v)
        return _Constant(len(joined), joined) if len(joined) <= SMALL else None
    if op in ("Neg", "Abs"):
        return _Constant(first.count, tuple(_COMPUTED[op](number, 0) for number in lists[0]))
    made = lists[0]
    for other in lists[1:]:
        if len(made) != len(other) and 1 not in (len(made), len(other)):
            return None
        length = max(len(made), len(other))
        wide = [v * length if len(v) == 1 else v for v in (made, other)]
        made = tuple(_COMPUTED[op](a, b) for a, b in zip(*wide, strict=True))
    return _Constant(len(made), made)
