"""One ONNX file and one ``.npz`` of samples, for those who want quantization alone: ``edgemm quantize model.onnx``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgemm.data.arrays import read_arrays
from edgemm.graph.calibrate import check_feed
from edgemm.graph.files import publish, write_graph
from edgemm.graph.parity import OnnxGraph, cosine
from edgemm.graph.passes import clean_
from edgemm.graph.quantize import DEFAULT, Quantization, quantize_onnx
from edgemm.runtime.errors import InputError, QuantizeError
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.stage import Context

OLDEST_OPSET = 13
"""The first whose QuantizeLinear takes a scale per channel."""


def quantize_file(
    model: Path, calibration: Path, out: Path, *, context: Context, config: Quantization = DEFAULT
) -> dict[str, float]:
    """Quantize ``model`` on the samples of ``calibration`` and write ``out/<model's name>.onnx``.

    Args:
        model: a self-contained float32 ``.onnx``.
        calibration: ``.npz`` with one array per graph input, shaped (samples, …) where the input is (batch, …); they
            are in memory while this runs.
        out: folder to write.
        context: where to report.
        config: how to quantize.

    Returns:
        Mean cosine to float32 per float output, over the calibration samples (at most 64).

    Raises:
        InputError, EngineError: a file that is missing or is not what it should be.
        QuantizeError: samples that don't fit the graph, or a graph that can't be quantized.
    """
    float32 = read_onnx(model)
    arrays = read_arrays(calibration, [str(value.name) for value in float32.graph.inputs])
    with publish(out) as folder, context.progress.task(f"quantize {model.name}", total=2) as task:
        int8 = quantize_onnx(float32, samples_of(float32, arrays), config)
        write_graph(int8, folder / model.name)
        task.advance()
        before, after = OnnxGraph(float32), OnnxGraph(folder / model.name)
        found: dict[str, list[float]] = {}
        for index, feed in enumerate(samples_of(float32, arrays)):
            if index == 64:
                break
            expected, got = before.run(feed), after.run(feed)
            for name, value in expected.items():
                if value.dtype.kind == "f" and value.ndim:
                    found.setdefault(name, []).append(cosine(got[name], value))
        task.advance()
    return {name: float(np.mean(values)) for name, values in found.items()}


def read_onnx(path: Path) -> ir.Model:
    """A clean graph from a file.

    Raises:
        InputError: a file that can't be read, or holds no valid graph.
        EngineError: a tensor keeps its bytes in another file, or the bytes are not an ONNX model.
        QuantizeError: an opset that is too old, or a graph that is quantized already.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder; expected an .onnx file") from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    require_whole_graph(data, what=str(path))
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:
        raise InputError(f"{path}: not an ONNX model ({type(error).__name__}); expected an .onnx file") from error
    if not proto.graph.node or not proto.opset_import:
        raise InputError(f"{path}: not an ONNX model (no nodes); expected an .onnx file")
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < OLDEST_OPSET:
        raise QuantizeError(f"{path}: opset {opset}; expected {OLDEST_OPSET} or later, export it again")
    if any(n.op_type in ("QuantizeLinear", "QLinearConv", "MatMulInteger") for n in proto.graph.node):
        raise QuantizeError(f"{path}: is quantized already; give the float32 model")
    model = ir.from_proto(proto)
    try:
        clean_(model)
    except Exception as error:
        line = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise InputError(f"{path}: the graph is not valid: {line}") from error
    return model


def samples_of(model: ir.Model, arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Feeds of one sample, or of as many as the graph's fixed batch takes; checked."""
    first = model.graph.inputs[0].shape
    rows = int(first[0]) if first and isinstance(first[0], int) else 1
    total = len(next(iter(arrays.values())))
    if total < rows:
        raise QuantizeError(f"calibration has {total} samples; the graph's batch is fixed at {rows}")
    for start in range(0, total - rows + 1, rows):
        yield check_feed(model, {name: a[start : start + rows] for name, a in arrays.items()}, start)
