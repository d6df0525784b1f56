"""ONNX wire: whether a graph is whole, found in the bytes of its file, before an engine may open what they name.

A tensor may say that its bytes lie in another file, by any path; engines follow it. A bundle's graphs are whole, so
such a tensor could only point outside. Only the standard library is here; what a field holds is skipped, not copied.

Source: Protocol Buffers, "Encoding"; onnx.proto of ONNX 1.19 (field numbers never change).
"""

from __future__ import annotations

from collections.abc import Mapping

from edgemm.runtime.errors import EngineError

# message -> {number of a field: the message it holds}; every way from a model to a tensor
_HOLDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor: where its bytes lie; 0 for here
_ORT_FORMAT = b"ORTM"  # onnxruntime's own format, which it tells from ONNX by these bytes
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def require_whole_graph(data: bytes, *, what: str) -> None:
    """Raise where a graph is not one self-contained ONNX file.

    Initializers, attributes, sparse tensors, subgraphs, functions and training graphs are looked through, in whatever
    order their fields come, at any depth.

    Args:
        data: the bytes of an ONNX file.
        what: names the graph in messages.

    Raises:
        EngineError: a tensor keeps its bytes in another file, or the bytes are not an ONNX model.
    """
    try:
        whole = _is_whole(data)
    except (ValueError, IndexError):
        raise EngineError(f"{what}: not an ONNX model; expected one self-contained ONNX file") from None
    if not whole:
        raise EngineError(
            f"{what}: the graph keeps weights in another file; expected one self-contained ONNX file (onnx.save_model "
            "without external data)"
        )


def _is_whole(data: bytes) -> bool:
    """Whether no tensor of a model lies elsewhere. Raises ValueError or IndexError where the bytes are no messages."""
    if data[4:8] == _ORT_FORMAT:
        raise ValueError("onnxruntime's own format")
    left = [("model", 0, len(data))]
    while left:
        message, place, end = left.pop()
        holds, in_tensor = _HOLDS[message], message == "tensor"
        while place < end:
            tag, place = _varint(data, place)
            number, kind = (tag & 0xFFFFFFFF) >> 3, tag & 7
            if number == 0:
                raise ValueError("a field has number 0")
            if kind == _BYTES:
                size, place = _varint(data, place)
                if in_tensor and number == _EXTERNAL_DATA:
                    return False
                if (inner := holds.get(number)) is not None:
                    left.append((inner, place, place + size))
                place += size
            elif kind == _VARINT:
                value, place = _varint(data, place)
                if in_tensor and number == _DATA_LOCATION and value:
                    return False
            elif kind in (_FIXED32, _FIXED64):
                place += 4 if kind == _FIXED32 else 8
            else:  # groups: ONNX has none
                raise ValueError(f"a field of kind {kind}")
        if place != end:
            raise ValueError("a field is longer than what it lies in")
    return True


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the number at ``place``, seven bits a byte, and the place after it."""
    value = data[place]
    if value < 0x80:
        return value, place + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        place += 1
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
    raise ValueError("a number of more than ten bytes")
