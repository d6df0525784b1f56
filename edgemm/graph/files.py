"""Bundle folders as the graph stages write them: all or nothing, one ONNX file per graph, manifest last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir

from edgemm.runtime.disk import beside, replacing
from edgemm.runtime.errors import BundleError, QuantizeError
from edgemm.runtime.manifest import Manifest

MAX_ONNX_BYTES = 2**31 - 1


@contextmanager
def publish(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` that becomes ``out`` if the block ends well, and vanishes if not.

    Raises:
        BundleError: ``out`` exists and holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out}: exists already and is not an empty folder; name a new one")
    out.parent.mkdir(parents=True, exist_ok=True)
    with beside(out) as work:
        folder = work / out.name
        folder.mkdir()
        yield folder
        folder.replace(out)  # at most an empty folder is there


def write_graph(model: ir.Model, path: Path) -> None:
    """Write one self-contained ``.onnx`` (no external data), atomically."""
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if weights <= MAX_ONNX_BYTES:  # protobuf can't even write more
        data = ir.to_proto(model).SerializeToString()
        weights = len(data)
    if weights > MAX_ONNX_BYTES:
        raise QuantizeError(f"{path.name}: {weights} bytes is past the 2 GiB that one ONNX file can hold")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(data)


def read_graph(path: Path) -> ir.Model:
    """Return the graph of a file that ``write_graph`` wrote."""
    import onnx

    return ir.from_proto(onnx.load(path))


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Write ``manifest.json`` last, with the digest of every file beside it."""
    from edgemm.runtime.archive import seal

    return seal(folder, manifest)
