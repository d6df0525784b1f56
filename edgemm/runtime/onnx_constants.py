"""ONNX constants: which constants a graph holds, and which it computes of them, as far as its limits depend on them.

A constant's numbers are known where they are few, since they may be sizes; of a large tensor of integers it is known
whether a division by it would end the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgemm.runtime.onnx_messages import Attribute, Messages, Tensor

SMALL = 64  # numbers of a constant that is followed through the nodes that compute a shape

FLOAT, INT32, INT64, BOOL = 1, 6, 7, 9
INTEGERS = frozenset({2, 3, 4, 5, 6, 7, 12, 13})
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
_NUMPY = {1: "<f4", 2: "<u1", 3: "<i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 11: "<f8", 12: "<u4", 13: "<u8"}

SAME = frozenset({"Identity", "Unsqueeze", "Squeeze", "Reshape", "Flatten"})  # the same numbers, of another shape


class Refused(Exception):
    """Why a graph is refused, in a few words."""


@dataclass(slots=True)
class Constant:
    """What is known of a constant: how many numbers, and which where they are few."""

    count: int
    values: tuple[float, ...] | None


def constant_of(messages: Messages, tensor: Tensor) -> Constant:
    """Check that a tensor has the bytes that its dims say, and read its numbers where they matter."""
    where = f"tensor '{tensor.name[:60]}'"
    if any(dim < 0 for dim in tensor.dims) or len(tensor.dims) > 64:
        raise Refused(f"{where} has the dims {tensor.dims[:6]}")
    count = math.prod(tensor.dims)
    bits = BITS.get(tensor.dtype)
    if bits is None:
        return Constant(count, None)
    if tensor.raw is not None:
        held = tensor.raw[1] - tensor.raw[0]
        if held != (count * bits + 7) // 8:
            raise Refused(f"{where} of dims {tensor.dims[:6]} has {held} bytes, expected {(count * bits + 7) // 8}")
    else:
        held = len(tensor.loose) + sum(_packed_count(messages, *one) for one in tensor.typed)
        wanted = 2 * count if tensor.dtype in (14, 15) else (count * bits + 7) // 8 if bits < 8 else count
        if held != wanted:
            raise Refused(f"{where} of dims {tensor.dims[:6]} has {held} numbers, expected {wanted}")
    if count > SMALL and tensor.dtype not in INTEGERS:
        return Constant(count, None)
    return Constant(count, _numbers(messages, tensor, count))


def _numbers(messages: Messages, tensor: Tensor, count: int) -> tuple[float, ...] | None:
    """Return the numbers of a small tensor; of a large one of integers, those that must not divide."""
    if tensor.raw is not None and tensor.dtype in _NUMPY:
        array = np.frombuffer(messages.data, _NUMPY[tensor.dtype], count, tensor.raw[0])
    elif tensor.raw is None and not tensor.typed:
        array = np.array(tensor.loose)
    elif tensor.raw is None and tensor.dtype in (INT32, INT64, *INTEGERS) and count <= SMALL:
        array = np.array([*tensor.loose, *(n for _, a, b in tensor.typed for n in messages.varints(a, b))])
    elif tensor.raw is None and tensor.dtype in (FLOAT, 11) and len(tensor.typed) == 1:
        _, start, end = tensor.typed[0]
        array = np.frombuffer(messages.data[start:end], _NUMPY[tensor.dtype])
    else:
        return None
    if count > SMALL:
        unsafe = array[(array == 0) | (array == -1)] if array.dtype.kind == "i" else array[array == 0]
        return tuple(unsafe[:1].tolist()) or (1.0,)
    return tuple(array.tolist())


def _packed_count(messages: Messages, number: int, start: int, end: int) -> int:
    if number in (4, 10):
        return (end - start) // (4 if number == 4 else 8)
    return int((np.frombuffer(messages.data, np.uint8, end - start, start) < 0x80).sum())


def constant_of_node(messages: Messages, attributes: Mapping[str, Attribute]) -> tuple[int, Constant | None]:
    """Element type of a Constant node, and the constant that it holds."""
    if (held := attributes.get("value")) is not None and held.tensor:
        tensor = messages.tensor(held.tensor)
        return tensor.dtype, constant_of(messages, tensor)
    for name, dtype in (("value_int", INT64), ("value_ints", INT64), ("value_float", FLOAT), ("value_floats", FLOAT)):
        if (held := attributes.get(name)) is not None:
            values: Sequence[float] = held.ints if dtype == INT64 else held.floats
            return dtype, Constant(len(values), tuple(values) if len(values) <= SMALL else None)
    return 0, None


COMPUTED: Mapping[str, Callable[[float, float], float]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Max": max,
    "Min": min,
    "Neg": lambda a, _: -a,
    "Abs": lambda a, _: abs(a),
}


def computed_constant(op: str, given: Sequence[Constant | None]) -> Constant | None:
    """Return the constant that a node makes of small constants; None where it isn't known."""
    known = [one for one in given if one is not None]
    if not known or (op not in SAME and len(known) != len(given)):
        return None
    first = known[0]
    if op in SAME:
        return given[0]
    values = [one.values for one in known]
    if op == "Shape" or any(v is None for v in values):
        return None
    lists = [v for v in values if v is not None]
    if op == "Concat":
        joined = tuple(number for v in lists for number in v)
        return Constant(len(joined), joined) if len(joined) <= SMALL else None
    if op in ("Neg", "Abs"):
        return Constant(first.count, tuple(COMPUTED[op](number, 0) for number in lists[0]))
    made = lists[0]
    for other in lists[1:]:
        if len(made) != len(other) and 1 not in (len(made), len(other)):
            return None
        length = max(len(made), len(other))
        wide = [v * length if len(v) == 1 else v for v in (made, other)]
        made = tuple(COMPUTED[op](a, b) for a, b in zip(*wide, strict=True))
    return Constant(len(made), made)
