"""One ONNX file and one ``.npz`` of samples, for those who want quantization alone: ``edgemm quantize model.onnx``."""

from __future__ import annotations

import itertools
import math
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from edgemm.data.arrays import read_arrays
from edgemm.graph.calibrate import check_feed
from edgemm.graph.census import arithmetic_of
from edgemm.graph.external_weights import nodes_of, read_beside_
from edgemm.graph.files import MAX_ONNX_BYTES, publish, read_graph, write_graph
from edgemm.graph.likeness import Likeness, likeness
from edgemm.graph.parity import OnnxGraph, largest_difference, nonfinite, origin_of_nonfinite, unlike
from edgemm.graph.passes import clean_
from edgemm.graph.quantize import DEFAULT, Quantization, quantize_onnx
from edgemm.runtime.engines import PORTABLE, compiles
from edgemm.runtime.errors import InputError, QuantizeError
from edgemm.runtime.fields import one_line
from edgemm.runtime.session import open_session
from edgemm.stage import Context

OLDEST_OPSET = 13
"""The first whose QuantizeLinear takes a scale per channel."""

HELD = 8
"""Samples on which a clean graph is held against the file."""

MAX_CLEANING_ERROR = 1e-3
"""How far a clean graph may be from the file, of an output's largest magnitude: folded weights are rounded once more,
and what a hundred layers make of 1e-7 stays well below this; a wrong axis or pad is far above it."""

STANDARD = ("", "ai.onnx")


def quantize_file(
    model: Path, calibration: Path, out: Path, *, context: Context, config: Quantization = DEFAULT
) -> Likeness:
    """Quantize ``model`` on the samples of ``calibration`` and write ``out/<model's name>.onnx``.

    Args:
        model: a float32 ``.onnx``; weights may lie in other files of its folder, and may be listed as inputs.
        calibration: ``.npz`` with one array per graph input; see ``samples_of``. They are in memory while this runs.
        out: folder to write.
        context: where to report.
        config: how to quantize, and the engine that the result is opened, run and timed on; for engines that compile
            plans, onnxruntime is.

    Returns:
        What became of it: layers, bytes, cosine and time, against the file as it was given.

    Raises:
        InputError, EngineError: a file that is missing or is not what it should be, or that the engine refuses.
        QuantizeError: samples that don't fit the graph, a graph that can't be quantized, or that answers nan or
            infinity on a sample, or whose clean form or int8 form answers in another shape or dtype.
    """
    given, size_bytes = _read(model)
    data = given.SerializeToString()
    engine = PORTABLE if compiles(config.engine) else config.engine
    open_session(engine, data, what=f"{model}, as it was given")  # what it can't open isn't worth a calibration
    float32 = clean_from(given, what=str(model))
    arrays = read_arrays(calibration, [str(value.name) for value in float32.graph.inputs], aligned=False)
    before, clean = OnnxGraph(data), OnnxGraph(float32)
    for index, feed in enumerate(itertools.islice(samples_of(float32, arrays), HELD)):
        expected = before.run(feed)
        for name, value in expected.items():
            if (kind := nonfinite(value)) is not None:
                origin = origin_of_nonfinite(float32, feed)
                raise QuantizeError(f"sample {index}: the output '{name}' is {kind} in float32 already; {origin}")
        _require_unchanged(clean.run(feed), expected, index)
    with publish(out) as folder, context.progress.task(f"quantize {model.name}", total=2) as task:
        write_graph(quantize_onnx(float32, samples_of(float32, arrays), config), folder / model.name)
        task.advance()
        arithmetic = arithmetic_of(
            read_graph(folder / model.name),
            next(samples_of(float32, arrays)),
            float32_bytes=size_bytes,
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


def _require_unchanged(got: dict[str, np.ndarray], expected: dict[str, np.ndarray], index: int) -> None:
    """Hold what a clean graph answers on a sample against what the file does."""
    for name, value in expected.items():
        if (why := unlike(got[name], value)) is not None:
            raise QuantizeError(f"sample {index}: the clean graph's output '{name}' {why}; this is a fault of edgemm")
        if value.dtype.kind == "f" and (apart := largest_difference(got[name], value)) > MAX_CLEANING_ERROR:
            raise QuantizeError(
                f"sample {index}: the clean graph's output '{name}' differs from the file's by {apart:.1e} of its "
                "range; export the model again with constants folded and a current opset"
            )


def read_onnx(path: Path) -> ir.Model:
    """Return a clean graph from a file; see ``read_proto`` and ``clean_from``."""
    return clean_from(read_proto(path), what=str(path))


def read_proto(path: Path) -> onnx.ModelProto:
    """Return a model from a file, whole, in the form in which weights are weights (see ``_read``)."""
    return _read(path)[0]


def _read(path: Path) -> tuple[onnx.ModelProto, int]:
    """Return a model from a file, as ``read_proto`` does, and the size of its files in bytes.

    1. tensors in other files of its folder -> in the model
    2. inputs that have an initializer (IR version 3, keep_initializers_as_inputs) -> initializers alone
    3. sparse initializers -> dense ones
    4. the domain "ai.onnx" -> "", its other name
    5. functions -> their nodes, of the graph's opset

    Raises:
        InputError: a file that can't be read, that holds no model of tensors of numbers, or whose weights can't be
            read.
        QuantizeError: a graph that is quantized already.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise InputError(f"{path}: {kind}; expected an .onnx file")
        if found.st_size > MAX_ONNX_BYTES:
            raise InputError(f"{path}: {found.st_size} bytes, past the 2 GiB that one ONNX file can hold")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({one_line(error)})") from error
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:
        raise InputError(f"{path}: not an ONNX model ({type(error).__name__}); expected an .onnx file") from error
    if not proto.graph.node or not proto.opset_import:
        raise InputError(f"{path}: not an ONNX model (no nodes); expected an .onnx file")
    size_bytes = len(data) + read_beside_(proto, path)
    _rename_domain_(proto, path)
    for sparse in proto.graph.sparse_initializer:
        proto.graph.initializer.append(_dense(sparse, path))
    del proto.graph.sparse_initializer[:]
    del proto.training_info[:]
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    _check_ports(proto, path)
    if proto.functions:
        try:
            proto = onnx.inliner.inline_local_functions(proto, convert_version=True)
        except Exception as error:
            raise InputError(f"{path}: its functions can't be inlined: {one_line(error)[:160]}") from error
    for node in nodes_of(proto.graph.node):
        if node.op_type in QUANTIZED or node.op_type.startswith(("QLinear", "QGemm", "QAttention")):
            raise QuantizeError(f"{path}: is quantized already ({node.op_type}); give the float32 model")
    return proto, size_bytes


QUANTIZED = frozenset(
    (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "MatMulNBits",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM",
    )
)  # fmt: skip
"""Operators that only a quantized graph has."""


def clean_from(proto: onnx.ModelProto, *, what: str) -> ir.Model:
    """Return a clean graph of opset 13 or later; older ones are converted.

    Raises:
        InputError: the graph is not valid.
        QuantizeError: an opset that is too old and can't be converted.
    """
    opset = max((o.version for o in proto.opset_import if o.domain in STANDARD), default=None)
    try:
        if opset is not None and opset < OLDEST_OPSET:
            proto = onnx.version_converter.convert_version(proto, OLDEST_OPSET)
    except Exception as error:
        raise QuantizeError(
            f"{what}: opset {opset}, and onnx can't convert it to {OLDEST_OPSET} ({one_line(error)[:160]}); export the "
            f"model again with opset {OLDEST_OPSET} or later"
        ) from error
    try:
        model = ir.from_proto(proto)
        clean_(model)
    except Exception as error:
        raise InputError(f"{what}: the graph is not valid: {one_line(error.__cause__ or error)[:200]}") from error
    return model


def _rename_domain_(proto: onnx.ModelProto, path: Path) -> None:
    versions = {o.version for o in proto.opset_import if o.domain in STANDARD}
    if len(versions) > 1:
        raise InputError(f"{path}: names two opsets of the standard, {sorted(versions)}; expected one")
    others = [o for o in proto.opset_import if o.domain not in STANDARD]
    if versions:
        others.append(onnx.helper.make_opsetid("", versions.pop()))
    del proto.opset_import[:]
    proto.opset_import.extend(others)


def _dense(sparse: onnx.SparseTensorProto, path: Path) -> onnx.TensorProto:
    name = sparse.values.name
    shape = tuple(sparse.dims)
    try:
        values, indices = onnx.numpy_helper.to_array(sparse.values), onnx.numpy_helper.to_array(sparse.indices)
        if math.prod(shape) * values.itemsize > MAX_ONNX_BYTES:
            raise ValueError(f"{list(shape)} is past 2 GiB")
        array = np.zeros(shape, values.dtype)
        if indices.ndim == 1:
            array.reshape(-1)[indices] = values
        else:
            array[tuple(indices.T)] = values
    except Exception as error:  # whatever numpy finds wrong with a stranger's indices
        raise InputError(f"{path}: the sparse weight '{name}' is not valid: {one_line(error)[:160]}") from error
    return onnx.numpy_helper.from_array(array, name)


def _check_ports(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse a graph whose inputs or outputs are no tensors of numbers; an output may be of strings."""
    if not proto.graph.input:
        raise InputError(f"{path}: the graph takes no input, so there is nothing to calibrate; expected one or more")
    made_by = {name: node.op_type for node in proto.graph.node for name in node.output}
    for values, what in ((proto.graph.input, "input"), (proto.graph.output, "output")):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind not in (None, "tensor_type"):
                maker = made_by.get(value.name)
                by = f", made by {maker}" if maker is not None else ""
                do = "export it with zipmap=False" if maker == "ZipMap" else "export the model without it"
                raise InputError(
                    f"{path}: the {what} '{value.name}' is no tensor but a {str(kind).removesuffix('_type')}{by}; {do}"
                )
            if what == "input" and value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                raise InputError(
                    f"{path}: the input '{value.name}' takes strings, which can't be calibrated; expected numbers"
                )


def samples_of(model: ir.Model, arrays: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Feeds of one sample each, checked.

    An array of an input's own rank holds its samples along the first axis, as batches do; a batch that the graph fixes
    takes as many of them. An array of one more axis holds an input per sample: for a state (2, n, 16) whose first axis
    is no batch, (samples, 2, n, 16); for a scalar, (samples,).

    Raises:
        QuantizeError: arrays that don't fit, or that hold different numbers of samples.
    """
    inputs = [v for v in model.graph.inputs if str(v.name) in arrays]
    ranks = {str(v.name): None if v.shape is None else len(v.shape) for v in inputs}
    along = {n for n, rank in ranks.items() if rank is None or arrays[n].ndim != rank + 1}  # samples in the first axis
    fixed = {
        str(v.name): int(v.shape[0])
        for v in inputs
        if str(v.name) in along and v.shape is not None and len(v.shape) and isinstance(v.shape[0], int)
    }
    common = next(iter(fixed.values())) if len(set(fixed.values())) == 1 else 1
    rows = {n: max(fixed.get(n, common), 1) if n in along else 1 for n in ranks}
    counts = {n: len(arrays[n]) // rows[n] if arrays[n].ndim else 0 for n in ranks}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        shapes = {n: list(arrays[n].shape) for n in ranks}
        takes = {
            str(v.name): None if v.shape is None else [d if isinstance(d, int) else str(d) for d in v.shape]
            for v in inputs
        }
        raise QuantizeError(
            f"calibration arrays {shapes} hold {counts} samples; expected the same number, at least 1, for each of "
            f"{takes}; an input whose first axis is no batch takes one more axis, (samples, …)"
        )
    for i in range(next(iter(counts.values()))):
        feed = {n: arrays[n][i * rows[n] : (i + 1) * rows[n]] if n in along else arrays[n][i] for n in ranks}
        yield check_feed(model, feed, i)
