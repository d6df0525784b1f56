"""Running an ONNX graph on onnxruntime from memory, and how far two outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from edgemm.runtime.errors import EngineError


class OnnxGraph:
    """One graph in one onnxruntime CPU session.

    Args:
        source: an onnx_ir model or a path.
        threads: intra-op threads; 1 keeps results and timings repeatable.
        optimized: path to write the graph as onnxruntime runs it (its fusions), for inspection.

    Raises:
        EngineError: onnxruntime refuses the graph.
    """

    def __init__(self, source: ir.Model | Path, *, threads: int = 1, optimized: Path | None = None) -> None:
        from edgemm.runtime.engine_onnxruntime import cpu_options, cpu_session

        options = cpu_options(threads)
        if optimized is not None:
            options.optimized_model_filepath = str(optimized)
        data = str(source) if isinstance(source, Path) else ir.to_proto(source).SerializeToString()
        try:
            self.session = cpu_session(data, options)
        except Exception as error:
            raise EngineError(f"onnxruntime refuses the graph: {str(error).splitlines()[0][:300]}") from error
        self.input_names = tuple(i.name for i in self.session.get_inputs())
        self.output_names = tuple(o.name for o in self.session.get_outputs())

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Outputs by name; feeds beyond the graph's inputs are ignored."""
        names = list(outputs) if outputs is not None else list(self.output_names)
        if not names:  # an empty list means all of them to onnxruntime
            return {}
        made = self.session.run(names, {name: feeds[name] for name in self.input_names})
        return dict(zip(names, made, strict=True))


def largest_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """``max|got - expected| / max|expected|``; nan counts as infinite, a zero ``expected`` is compared absolutely."""
    if expected.size == 0:
        return 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(a) == np.isfinite(b)).all():
        return float("inf")
    finite = np.isfinite(b)
    if not finite.any():
        return 0.0
    scale = float(np.abs(b[finite]).max()) or 1.0
    return float(np.abs(a[finite] - b[finite]).max()) / scale


def cosine(got: np.ndarray, expected: np.ndarray) -> float:
    """Mean cosine of the rows of two arrays (batch first), in float64; rows of zeros count as equal to zeros."""
    a = got.reshape(len(got), -1).astype(np.float64)
    b = expected.reshape(len(expected), -1).astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    return float(np.where(norms > 0, dots / np.where(norms > 0, norms, 1.0), (a == b).all(axis=1)).mean())
