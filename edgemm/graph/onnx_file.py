"""One ONNX file and one ``.npz`` of samples, for those who want quantization alone: ``edgemm quantize model.onnx``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from edgemm.data.arrays import read_arrays
from edgemm.graph.calibrate import check_feed
from edgemm.graph.census import arithmetic_of
from edgemm.graph.files import publish, read_graph, write_graph
from edgemm.graph.likeness import Likeness, likeness
from edgemm.graph.passes import clean_
from edgemm.graph.quantize import DEFAULT, Quantization, quantize_onnx
from edgemm.runtime.errors import InputError, QuantizeError
from edgemm.runtime.manifest import PLAN_ENGINES
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.session import open_session
from edgemm.stage import Context

OLDEST_OPSET = 13
"""The first whose QuantizeLinear takes a scale per channel."""


def quantize_file(
    model: Path, calibration: Path, out: Path, *, context: Context, config: Quantization = DEFAULT
) -> Likeness:
    """Quantize ``model`` on the samples of ``calibration`` and write ``out/<model's name>.onnx``.

    Args:
        model: a self-contained float32 ``.onnx``.
        calibration: ``.npz`` with one array per graph input, shaped (samples, …) where the input is (batch, …); they
            are in memory while this runs.
        out: folder to write.
        context: where to report.
        config: how to quantize, and the engine that the result is opened, run and timed on; for engines that compile
            plans, onnxruntime is.

    Returns:
        What became of it: layers, bytes, cosine and time, against float32.

    Raises:
        InputError, EngineError: a file that is missing or is not what it should be, or that the engine refuses.
        QuantizeError: samples that don't fit the graph, or a graph that can't be quantized.
    """
    float32 = read_onnx(model)
    data = model.read_bytes()
    engine = "onnxruntime" if config.engine in PLAN_ENGINES else config.engine
    open_session(engine, data, what=f"{model}, as it was given")  # what it can't open isn't worth a calibration
    arrays = read_arrays(calibration, [str(value.name) for value in float32.graph.inputs])
    with publish(out) as folder, context.progress.task(f"quantize {model.name}", total=2) as task:
        write_graph(quantize_onnx(float32, samples_of(float32, arrays), config), folder / model.name)
        task.advance()
        arithmetic = arithmetic_of(
            read_graph(folder / model.name),
            next(samples_of(float32, arrays)),
            float32_bytes=len(data),
            keep_float=config.keep_float,
        )
        found = likeness(
            model.name,
            data,
            (folder / model.name).read_bytes(),
            samples_of(float32, arrays),
            engine=engine,
            threads=0,
            arithmetic=arithmetic,
        )
        task.advance()
    return found


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
