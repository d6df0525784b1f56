"""Session: one part loaded on one engine; numpy in, numpy out. The only seam between edgemm and an engine.

An engine is imported here, when a session asks for it, and nowhere else. One that is missing is an error
that names what to install; nothing is ever run by another engine than the one asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping

import numpy as np

from edgemm.runtime.engines import ENGINES, Array, Loading, Session, compiles, require_engine
from edgemm.runtime.errors import BundleError, EngineError
from edgemm.runtime.onnx_limits import graph_operators, require_operators
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.signature import Signature


def open_session(
    engine: str,
    data: bytes,
    *,
    threads: int = 0,
    what: str = "graph",
    float32: bool = True,
    fingerprint: Mapping[str, str] | None = None,
    operators: Collection[str] | None = None,
) -> Session:
    """Load a part from the bytes of its file.

    Args:
        engine: key of ``ENGINES``.
        data: an ONNX graph (onnxruntime, openvino), or a compiled plan (tensorrt, tensorrt-rtx).
        threads: CPU threads for one run; 0 lets the engine decide.
        what: names target and part in messages (``"target 'cpu-int8', part 'text'"``).
        float32: keep float arithmetic in float32 where the engine could lower it by itself (openvino to bf16).
        fingerprint: what a compiled plan needs to load; checked against this machine.
        operators: which operators out of the ordinary a graph may have (``onnx_limits``); None: any.

    Raises:
        EngineNotInstalled: with the command that installs it.
        EngineError: the engine refuses the bytes, or the machine is not the one the plan was built for.
    """
    if engine not in ENGINES:
        raise EngineError(f"{what}: no engine '{engine}'; expected one of {list(ENGINES)}")
    require_engine(engine, what=what)
    if not compiles(engine):
        require_whole_graph(data, what=what)
        found = graph_operators(data, what=what)
        if operators is not None:
            require_operators(found, operators, what=what)
    module, _, name = ENGINES[engine].session.partition(":")
    load = getattr(importlib.import_module(module), name)
    session: Session = load(data, Loading(engine, threads, what, float32, fingerprint or {}))
    return session


class CheckedSession:
    """A session whose graph and whose answers are what the part's signature says.

    Names and dtypes are compared once, here. Every run's outputs are: an array of the signature's dtype, rank and fixed
    sizes for each name, with as many samples as were fed. What the graph makes beyond the signature is left out.

    Args:
        bare: what runs.
        signature: what the manifest says of the part.
        what: names target and part in messages.

    Raises:
        BundleError: the graph takes or makes something else; from ``run`` too.
    """

    def __init__(self, bare: Session, signature: Signature, *, what: str) -> None:
        if set(bare.input_names) != set(signature.input_names) or not set(signature.output_names) <= set(
            bare.output_names
        ):
            raise BundleError(
                f"{what}: the file takes {list(bare.input_names)} and makes {list(bare.output_names)}, "
                f"the manifest says {list(signature.input_names)} and {list(signature.output_names)}"
            )
        for spec in (*signature.inputs, *signature.outputs):
            if (got := bare.dtypes.get(spec.name, spec.dtype)) != spec.dtype:
                raise BundleError(f"{what}: the file has '{spec.name}' as {got}, the manifest says {spec.dtype}")
        self.bare = bare
        self.engine = bare.engine
        self.input_names = bare.input_names
        self.output_names = signature.output_names
        self.dtypes = bare.dtypes
        self._what = what
        self._run = bare.run
        self._counted = self.input_names[0]
        self._outputs = [
            (
                spec,
                np.dtype(spec.dtype),
                len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if axis and isinstance(size, int)),
            )
            for spec in signature.outputs
        ]
        self._extra = tuple(set(bare.output_names) - set(signature.output_names))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see ``Session.run``."""
        made = self._run(feeds)
        count = len(feeds[self._counted])
        for spec, dtype, rank, fixed in self._outputs:
            value = made[spec.name]
            if (
                type(value) is not np.ndarray
                or value.dtype != dtype
                or value.ndim != rank
                or value.shape[0] != count
                or any(value.shape[axis] != size for axis, size in fixed)
            ):
                got = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
                raise BundleError(
                    f"{self._what}: for {count} samples the graph makes '{spec.name}' as {got}, the manifest says "
                    f"{spec.dtype} {list(spec.shape)}"
                )
        for name in self._extra:
            del made[name]
        return made
