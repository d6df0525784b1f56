"""onnxruntime on the CPU: the embedded default."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Mapping
from typing import Any

from edgemm.runtime.engines import Array, Loading, missing_feeds
from edgemm.runtime.environment import int8_support
from edgemm.runtime.errors import EngineError
from edgemm.runtime.fields import one_line
from edgemm.runtime.packages import package
from edgemm.runtime.signature import DTYPES

ort = package("onnxruntime")

_open: weakref.WeakSet[ORTSession] = weakref.WeakSet()


def _keep_for_ever() -> None:
    """In a forked child, take a reference to every session that the parent opened, and never give it back.

    A child has none of the threads that a session of its parent started. To destroy that session joins them, and the
    child would wait for ever when it ends.
    """
    for session in _open:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session.bare))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_for_ever)

_DTYPES = {
    f"tensor({name})": dtype
    for dtype in DTYPES
    for name in (dtype, {"float32": "float", "float64": "double"}.get(dtype, dtype))
}


def cpu_options(threads: int) -> Any:
    """Return how every graph runs on onnxruntime's CPU provider; ``threads`` of one operator, 0: one per core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is wrong comes as an exception; its log is coloured and not escaped
    # A spinning idle thread takes its core from the next part, the next engine and the application; beside one,
    # another engine looked three times slower than it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if int8_support() == "no VNNI":  # exact u8 x u8 kernels where u8 x s8 saturate; with VNNI they are only slower
        options.add_session_config_entry("session.x64quantprecision", "1")
    return options


def cpu_session(source: bytes | str, options: Any) -> Any:
    """Onnxruntime's own session of a graph or its path; one that fails isn't tried twice, which would print."""
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], enable_fallback=0)


class ORTSession:
    """An ONNX graph on onnxruntime's CPU provider.

    Args:
        data: the graph.
        how: its threads are those of one operator; 0 lets onnxruntime take one per core.

    Attributes:
        bare: onnxruntime's own session.

    Raises:
        EngineError: onnxruntime refuses the graph.
    """

    def __init__(self, data: bytes, how: Loading) -> None:
        options, what = cpu_options(how.threads), how.what
        self.engine, self._what = how.engine, what
        try:
            self.bare = cpu_session(data, options)
        except Exception as error:  # onnxruntime's exceptions have no public base
            raise EngineError(f"{what}: onnxruntime {ort.__version__} refuses the graph: {one_line(error)}") from error
        _open.add(self)
        self.input_names = tuple(value.name for value in self.bare.get_inputs())
        self.output_names = tuple(value.name for value in self.bare.get_outputs())
        self.dtypes: Mapping[str, str] = {
            value.name: _DTYPES.get(value.type, value.type)
            for value in (*self.bare.get_inputs(), *self.bare.get_outputs())
        }
        self._names = list(self.output_names)
        self._run: Any = self.bare.run

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see ``Session.run``."""
        try:
            made = self._run(self._names, {name: feeds[name] for name in self.input_names})
        except KeyError:
            raise missing_feeds(self.input_names, feeds, what=self._what) from None
        except Exception as error:
            shapes = {name: (str(feeds[name].dtype), feeds[name].shape) for name in self.input_names}
            raise EngineError(f"{self._what}: onnxruntime cannot run {shapes}: {one_line(error)}") from error
        return dict(zip(self._names, made, strict=True))
