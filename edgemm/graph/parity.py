"""Running an ONNX graph on onnxruntime from memory, how far two outputs are apart, and what makes one unusable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgemm.runtime.errors import EngineError, QuantizeError
from edgemm.runtime.fields import one_line

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


class OnnxGraph:
    """One graph in one onnxruntime CPU session.

    Args:
        source: an onnx_ir model, the bytes of an ONNX file, or a path.
        threads: intra-op threads; 1 keeps results and timings repeatable.
        optimized: path to write the graph as onnxruntime runs it (its fusions), for inspection.

    Raises:
        EngineError: onnxruntime refuses the graph.
    """

    def __init__(self, source: ir.Model | bytes | Path, *, threads: int = 1, optimized: Path | None = None) -> None:
        from edgemm.runtime.engine_onnxruntime import cpu_options, cpu_session

        options = cpu_options(threads)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        try:
            data = ir.to_proto(source).SerializeToString() if isinstance(source, ir.Model) else source
            self.session = cpu_session(str(data) if isinstance(data, Path) else data, options)
        except Exception as error:
            raise EngineError(f"onnxruntime refuses the graph: {one_line(error)[:300]}") from error
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.output_names = tuple(o.name for o in self.session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name; feeds beyond the graph's inputs are ignored. Raises EngineError where it can't be run."""
        names = list(outputs) if outputs is not None else list(self.output_names)
        if not names:  # an empty list means all of them to onnxruntime
            return {}
        given = {name: feeds[name] for name in self.input_names}
        try:
            made = self.session.run(names, given)
        except Exception as error:
            shown = ", ".join(f"'{n}' {np.asarray(a).dtype} {list(np.shape(a))}" for n, a in given.items())
            raise EngineError(f"onnxruntime can't run the graph on {shown}: {one_line(error)[:300]}") from error
        return dict(zip(names, made, strict=True))


def unlike(got: np.ndarray, expected: np.ndarray) -> str | None:
    """What keeps two outputs from being compared: another dtype or shape, nan or infinity. None where nothing does."""
    if got.dtype != expected.dtype or got.shape != expected.shape:
        return f"is {got.dtype} {list(got.shape)}, expected {expected.dtype} {list(expected.shape)}"
    for array, where in ((expected, " already before"), (got, "")):
        if (kind := nonfinite(array)) is not None:
            return f"holds {kind}{where}"
    return None


def nonfinite(array: np.ndarray) -> str | None:
    """``"nan"`` or ``"infinity"`` where an array of floats holds it."""
    if array.dtype.kind not in "fc" or bool(np.isfinite(array).all()):
        return None
    return "nan" if bool(np.isnan(array).any()) else "infinity"


def origin_of_nonfinite(model: ir.Model, feed: Mapping[str, np.ndarray]) -> str:
    """Return name the first weight or node that brings nan or infinity into what a graph makes of ``feed``.

    Args:
        model: not changed.
        feed: inputs on which an output is nan or infinite.

    Returns:
        ``weight 'w' holds nan``, or the first node, in the order in which they run, whose output is not finite and
        whose inputs are; nan before infinity, as masks are infinite on purpose.
    """
    model = model.clone()
    passes.ShapeInferencePass(strict_mode=False)(model)
    values = [v for node in model.graph for v in node.outputs if v.name and v.dtype in _FLOATS]
    for value in values:
        if value not in model.graph.outputs:
            model.graph.outputs.append(value)
    made = OnnxGraph(model).run(feed, [str(v.name) for v in values])
    arrays = {**{v: feed[str(v.name)] for v in model.graph.inputs}, **{v: made[str(v.name)] for v in values}}
    arrays |= {v: v.const_value.numpy() for v in model.graph.initializers.values() if v.const_value is not None}
    for kind in ("nan", "infinity"):
        for node in model.graph:
            brought = [v for v in node.inputs if v in arrays and nonfinite(arrays[v]) == kind]
            weight = next((v for v in brought if v is not None and v.const_value is not None), None)
            if weight is not None:
                return f"weight '{weight.name}' holds {kind}"
            if not brought and any(v in arrays and nonfinite(arrays[v]) == kind for v in node.outputs):
                return f"node '{node.name or node.outputs[0].name}' ({node.op_type}) is the first that makes {kind}"
    return "no node of the main graph brings it"


def largest_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """``max|got - expected| / max|expected|``; absolute where ``expected`` is 0, infinite where ``unlike``."""
    if unlike(got, expected) is not None:
        return float("inf")
    if expected.size == 0:
        return 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    scale = float(np.abs(b).max()) or 1.0
    return float(np.abs(a - b).max()) / scale


def cosine(got: np.ndarray, expected: np.ndarray) -> float:
    """Return mean cosine of the rows of two arrays (batch first), in float64; rows of zeros count as equal to zeros.

    Raises:
        QuantizeError: the arrays differ in dtype or shape, or hold nan or infinity.
    """
    if (why := unlike(got, expected)) is not None:
        raise QuantizeError(f"no cosine: the output {why}")
    if expected.size == 0:
        return 1.0
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (got, expected))
    sizes = [np.abs(x).max(axis=1, keepdims=True, initial=0) for x in (a, b)]  # the square of a tiny number is 0
    a, b = (x / np.where(size > 0, size, 1.0) for x, size in zip((a, b), sizes, strict=True))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    cosines = np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), (a == b).all(axis=1))
    return float(np.clip(cosines, -1.0, 1.0).mean())
