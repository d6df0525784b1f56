"""ONNX messages: what of an ONNX file's protobuf says which graph it is, read in place and without the onnx package.

Nothing is copied: a tensor, a subgraph and an attribute are where they lie in the bytes. What is wrong with the bytes
is a ValueError, an IndexError or a struct.error.

Source: onnx.proto of ONNX 1.19, and the encoding of protocol buffers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

Segments = Sequence[tuple[int, int]]  # where a message lies; protobuf merges a message that is given in pieces


@dataclass(slots=True)
class Tensor:
    """A tensor and where its numbers lie."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    dtype: int = 0
    raw: tuple[int, int] | None = None
    typed: list[tuple[int, int, int]] = field(default_factory=list)  # (field, start, end), packed
    loose: list[int] = field(default_factory=list)  # numbers that are not packed


@dataclass(slots=True)
class Node:
    """A node and where its attributes lie."""

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
class Attribute:
    """An attribute: its numbers, and where its tensors and graphs lie."""

    name: str = ""
    ints: list[int] = field(default_factory=list)
    floats: list[float] = field(default_factory=list)
    tensor: list[tuple[int, int]] = field(default_factory=list)
    tensors: list[tuple[int, int]] = field(default_factory=list)
    graphs: list[list[tuple[int, int]]] = field(default_factory=list)
    sparse: bool = False


class Messages:
    """Reads the messages of one file.

    Args:
        data: the bytes of the file.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def fields(self, place: Segments) -> Iterator[tuple[int, int | tuple[int, int]]]:
        """(number, value) of each field of a message: an integer, or where its bytes lie."""
        data = self.data
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
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than ten bytes")

    def varints(self, start: int, end: int) -> list[int]:
        """Return the packed integers of a field."""
        made = []
        while start < end:
            value, start = self._varint(start)
            made.append(_signed(value))
        return made

    def text(self, place: tuple[int, int]) -> str:
        """Return a field's text; bytes that are no UTF-8 are escaped."""
        return self.data[place[0] : place[1]].decode("utf-8", "backslashreplace")

    def node(self, place: tuple[int, int]) -> Node:
        """Return the node of a NodeProto; its attributes are left where they lie."""
        node = Node()
        for number, value in self.fields([place]):
            if not isinstance(value, tuple):
                continue
            if number == 1:
                node.inputs.append(self.text(value))
            elif number == 2:
                node.outputs.append(self.text(value))
            elif number == 4:
                node.op = self.text(value)
            elif number == 7:
                node.domain = self.text(value)
            elif number == 5:
                node.attributes.append(value)
        return node

    def attribute(self, place: tuple[int, int]) -> Attribute:
        """Return the attribute of an AttributeProto; its tensors and graphs are left where they lie."""
        attribute = Attribute()
        single: list[tuple[int, int]] = []
        for number, value in self.fields([place]):
            if isinstance(value, int):
                if number in (3, 8):
                    attribute.ints.append(_signed(value))
            elif number == 1:
                attribute.name = self.text(value)
            elif number == 5:
                attribute.tensor.append(value)
            elif number == 10:
                attribute.tensors.append(value)
            elif number == 6:
                single.append(value)
            elif number == 11:
                attribute.graphs.append([value])
            elif number == 8:
                attribute.ints += self.varints(*value)
            elif number in (-2, -7):
                attribute.floats += struct.unpack("<f", self.data[value[0] : value[1]])
            elif number == 7:
                attribute.floats += np.frombuffer(self.data[value[0] : value[1]], "<f4").tolist()
            elif number in (22, 23):
                attribute.sparse = True
        if single:
            attribute.graphs.append(single)
        return attribute

    def tensor(self, place: Segments) -> Tensor:
        """Return the tensor of a TensorProto; its numbers are left where they lie."""
        tensor = Tensor()
        for number, value in self.fields(place):
            if isinstance(value, int):
                if number == 1:
                    tensor.dims.append(_signed(value))
                elif number == 2:
                    tensor.dtype = value
                elif number in (5, 7, 11):
                    tensor.loose.append(_signed(value))
            elif number == 1:
                tensor.dims += self.varints(*value)
            elif number == 8:
                tensor.name = self.text(value)
            elif number == 9:
                tensor.raw = value
            elif number in (4, 5, 7, 10, 11):
                tensor.typed.append((number, *value))
            elif number in (-4, -10):
                tensor.loose.append(0)  # one float that is not packed: counted, its value matters nowhere
        return tensor

    def value_info(self, place: tuple[int, int]) -> tuple[str, int]:
        """Return name and element type of a graph's input or output."""
        name, dtype = "", 0
        for number, value in self.fields([place]):
            if number == 1 and isinstance(value, tuple):
                name = self.text(value)
            elif number == 2 and isinstance(value, tuple):
                for inner, kind in self.fields([value]):
                    if inner == 1 and isinstance(kind, tuple):
                        for innermost, number_of in self.fields([kind]):
                            if innermost == 1 and isinstance(number_of, int):
                                dtype = number_of
        return name, dtype


def _signed(value: int) -> int:
    """Return a varint as the int64 that it is."""
    return value - 2**64 if value >= 2**63 else value
