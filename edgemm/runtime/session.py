"""Session: one part loaded on one engine; numpy in, numpy out. The only seam between edgemm and an engine.

An engine is imported here, when a session asks for it, and nowhere else. One that is missing is an error
that names what to install; nothing is ever run by another engine than the one asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from edgemm.runtime.errors import EngineError, EngineNotInstalled
from edgemm.runtime.hints import pip_install
from edgemm.runtime.onnx_wire import require_whole_graph

Array = np.ndarray

# engine -> (Python package, distributions to install)
ENGINES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "onnxruntime": ("onnxruntime", ("onnxruntime",)),
    "openvino": ("openvino", ("openvino",)),
    "tensorrt": ("tensorrt", ("cuda-bindings", "tensorrt")),
    "tensorrt-rtx": ("tensorrt_rtx", ("cuda-bindings", "tensorrt-rtx")),
}


class Session(Protocol):
    """One loaded part.

    Attributes:
        engine: what runs it.
        input_names, output_names: as in the part's signature.
    """

    engine: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: every input by name; values of other names are ignored.

        Returns:
            Every output by name; arrays of the caller's own, not overwritten by the next run.

        Raises:
            EngineError: the engine refuses the feeds; the message holds its reason in one line.
        """
        ...


def open_session(
    engine: str,
    data: bytes,
    *,
    threads: int = 0,
    what: str = "graph",
    float32: bool = True,
    fingerprint: Mapping[str, str] | None = None,
) -> Session:
    """Load a part from the bytes of its file.

    Args:
        engine: key of ``ENGINES``.
        data: an ONNX graph (onnxruntime, openvino), or a compiled plan (tensorrt, tensorrt-rtx).
        threads: CPU threads for one run; 0 lets the engine decide.
        what: names target and part in messages (``"target 'cpu-int8', part 'text'"``).
        float32: keep float arithmetic in float32 where the engine could lower it by itself (openvino to bf16).
        fingerprint: what a compiled plan needs to load; checked against this machine.

    Raises:
        EngineNotInstalled: with the command that installs it.
        EngineError: the engine refuses the bytes, or the machine is not the one the plan was built for.
    """
    if engine not in ENGINES:
        raise EngineError(f"{what}: no engine '{engine}'; expected one of {list(ENGINES)}")
    require_engine(engine, what=what)
    if engine in ("tensorrt", "tensorrt-rtx"):
        from edgemm.runtime.engine_tensorrt import TensorRTSession

        return TensorRTSession(engine, data, what=what, fingerprint=fingerprint or {})
    require_whole_graph(data, what=what)
    if engine == "openvino":
        from edgemm.runtime.engine_openvino import OpenVINOSession

        return OpenVINOSession(data, threads=threads, what=what, float32=float32)
    from edgemm.runtime.engine_onnxruntime import ORTSession

    return ORTSession(data, threads=threads, what=what)


def engine_installed(engine: str) -> bool:
    """Whether the engine's package can be found, without importing it."""
    return importlib.util.find_spec(ENGINES[engine][0]) is not None


def require_engine(engine: str, *, what: str) -> None:
    """Raise EngineNotInstalled, with what to install, where the engine's package is not there."""
    if not engine_installed(engine):
        raise EngineNotInstalled(
            f"{what}: {engine} is not installed; {pip_install(*ENGINES[engine][1])}, or choose another --target"
        )


def missing_feeds(names: tuple[str, ...], feeds: Mapping[str, Array], *, what: str) -> EngineError:
    """The error for feeds that lack an input."""
    lacking = [name for name in names if name not in feeds]
    return EngineError(f"{what}: no value for the inputs {lacking}; got {sorted(feeds)}")
