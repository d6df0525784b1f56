"""External weights: those that an ONNX file keeps in other files of its own folder, read into the model.

A bundle's graphs are whole; a file that somebody exported need not be. A path in it is a stranger's: only regular files
at or below the model's own folder are opened, through no link.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import onnx

from edgemm.graph.files import MAX_ONNX_BYTES
from edgemm.runtime.errors import InputError

_BITS = {
    onnx.TensorProto.UINT4: 4, onnx.TensorProto.INT4: 4, onnx.TensorProto.FLOAT4E2M1: 4,
    getattr(onnx.TensorProto, "UINT2", -1): 2, getattr(onnx.TensorProto, "INT2", -2): 2,
}  # fmt: skip
"""Types of which several elements share a byte."""


def read_beside_(model: onnx.ModelProto, path: Path) -> int:
    """Read every tensor that lies in another file into the model; in place. Return those files' size in bytes.

    Args:
        model: as parsed from ``path``.
        path: the model's file; tensors lie in its folder.

    Raises:
        InputError: a file that is missing, a link, no regular file or outside the folder; a place in it that is not
            the tensor's; or more bytes than one ONNX file can hold.
    """
    away = [t for t in _tensors(model) if t.data_location == onnx.TensorProto.EXTERNAL or t.external_data]
    total = model.ByteSize() + sum(_bytes_of(tensor, path) for tensor in away)
    if away and total > MAX_ONNX_BYTES:
        raise InputError(f"{path}: {total} bytes with its weights, past the 2 GiB that one ONNX file can hold")
    sizes: dict[Path, int] = {}
    for tensor in away:
        tensor.raw_data, file = _read(tensor, path)
        sizes[file] = file.stat().st_size
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return sum(sizes.values())


def nodes_of(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of their bodies at any depth."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from nodes_of(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for function in model.functions:
        yield from _of_nodes(function.node)
    yield from _of_graph(model.graph)


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (
                *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []),
                *attribute.sparse_tensors,
            ):
                yield from (sparse.values, sparse.indices)
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _of_graph(graph)


def _bytes_of(tensor: onnx.TensorProto, path: Path) -> int:
    """Return how many bytes a tensor's elements take."""
    elements = math.prod(tensor.dims)
    try:
        bits = _BITS.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except (KeyError, TypeError, ValueError):
        bits = 0
    if min(tensor.dims, default=0) < 0 or tensor.data_type == onnx.TensorProto.STRING or not bits:
        raise InputError(f"{path}: the weight '{tensor.name}' has no type and shape that another file could hold")
    return int(-(-elements * bits // 8))


def _read(tensor: onnx.TensorProto, path: Path) -> tuple[bytes, Path]:
    """Return a tensor's bytes, and the file that they lie in."""
    said = {entry.key: entry.value for entry in tensor.external_data}
    location = said.get("location", "")
    what = f"{path}: the weight '{tensor.name}' lies in '{location}'"
    file = _inside(path.parent, location, what)
    size = _bytes_of(tensor, path)
    try:
        offset, length = int(said.get("offset") or 0), int(said.get("length") or size)
    except ValueError:
        raise InputError(f"{what}, at a place that is no number ({said})") from None
    if length != size or offset < 0:
        raise InputError(f"{what}, {length} bytes from {offset} on; its type and shape need {size} bytes")
    try:
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as handle:
            handle.seek(offset)
            data = handle.read(size)
    except OSError as error:
        raise InputError(f"{what}: can't be read ({error.strerror})") from error
    if len(data) != size:
        raise InputError(f"{what}: {len(data)} of its {size} bytes are there; export the model again, or copy it whole")
    return data, file


def _inside(folder: Path, location: str, what: str) -> Path:
    """Return the regular file at a relative path below a folder, with no link on the way."""
    parts = PurePosixPath(location).parts
    if not parts or "\0" in location or "\\" in location or ":" in parts[0] or {"..", "/"} & set(parts):
        raise InputError(f"{what}, outside the model's folder; expected a file beside the model")
    place = folder
    for part in parts:
        place /= part
        try:
            mode = place.lstat().st_mode
        except OSError as error:
            raise InputError(f"{what}, which is not there ({error.strerror}); put it beside the model") from error
        if stat.S_ISLNK(mode):
            raise InputError(f"{what}, and {place} is a link; put the file itself there (cp -L)")
    if not stat.S_ISREG(mode):
        raise InputError(f"{what}, which is no regular file; put the file beside the model")
    return place
