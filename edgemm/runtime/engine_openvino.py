"""OpenVINO on the CPU: runs the same ONNX graphs, often faster on x86."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgemm.runtime.engines import Array, Loading, missing_feeds
from edgemm.runtime.environment import int8_support
from edgemm.runtime.errors import EngineError
from edgemm.runtime.fields import one_line
from edgemm.runtime.packages import package

ov = package("openvino")

STATIC_AFTER = 8  # runs of one shape before a model of its own is compiled for it
STATIC_SHAPES = 4  # at most so many, since each holds a packed copy of the weights

Shapes = tuple[tuple[int, ...], ...]


class OpenVINOSession:
    """An ONNX graph compiled for OpenVINO's CPU plugin.

    A graph with named dimensions is compiled with them; a shape that keeps coming then gets a model of its own (for
    a 3-layer text tower with 12 tokens: 1.58 ms of CPU time instead of 2.16), compiled once, in the run that reaches
    ``STATIC_AFTER``. Threads that share a session wait for each other: a request holds one set of outputs.

    Args:
        data: the graph.
        how: its threads are those of one inference; 0 lets OpenVINO take one per physical core. Without ``float32`` the
            plugin lowers floats to bf16 by itself where the CPU has it, and what runs is not what was measured
            elsewhere.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """

    def __init__(self, data: bytes, how: Loading) -> None:
        self.engine, what = how.engine, how.what
        # Pinned threads wait for their core when somebody else is on it: 6.4 ms instead of 2.0 on a busy machine.
        self._options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        if how.threads:
            self._options["INFERENCE_NUM_THREADS"] = how.threads
        if how.float32:
            self._options["INFERENCE_PRECISION_HINT"] = "f32"
        self._what = what
        self._data = data
        try:
            self._core = ov.Core()
            model = self._core.read_model(io.BytesIO(data))
            if int8_support() == "no VNNI" and _saturates(model):
                self._options["LP_TRANSFORMS_MODE"] = "NO"  # the same quantized values, multiplied in float
            self._dynamic = any(port.partial_shape.is_dynamic for port in model.inputs)
            self._request = self._core.compile_model(model, "CPU", self._options).create_infer_request()
        except Exception as error:
            raise EngineError(f"{what}: openvino {ov.__version__} refuses the graph: {_reason(error)}") from error
        self.input_names = tuple(port.get_any_name() for port in model.inputs)
        self.output_names = tuple(port.get_any_name() for port in model.outputs)
        self.dtypes: Mapping[str, str] = {
            port.get_any_name(): np.dtype(port.element_type.to_dtype()).name for port in (*model.inputs, *model.outputs)
        }
        self._ports = [(np.dtype(port.element_type.to_dtype()), port.partial_shape) for port in model.inputs]
        self._lock = threading.Lock()
        self._seen: dict[Shapes, int] = {}
        self._static: dict[Shapes, Any] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see ``Session.run``."""
        try:
            arrays = [feeds[name] for name in self.input_names]
        except KeyError:
            raise missing_feeds(self.input_names, feeds, what=self._what) from None
        shapes = tuple([array.shape for array in arrays])
        with self._lock:
            request = self._request_for(shapes, arrays)
            try:
                made = request.infer(arrays)
            except Exception as error:
                got = {name: (str(feeds[name].dtype), feeds[name].shape) for name in self.input_names}
                raise EngineError(f"{self._what}: openvino cannot run {got}: {_reason(error)}") from error
            return {name: np.asarray(made[i]) for i, name in enumerate(self.output_names)}

    def _request_for(self, shapes: Shapes, arrays: list[Array]) -> Any:
        """Return the request of the model for exactly these shapes where there is one, else the dynamic one's."""
        for array, (dtype, _) in zip(arrays, self._ports, strict=True):
            if array.dtype != dtype:
                raise self._misfit(arrays)
        if (request := self._static.get(shapes)) is not None:
            return request
        count = self._seen.get(shapes, 0) + 1
        if count == 1:
            # OpenVINO 2026.4 does not check: it reads 4x4 pixels as 8x8, beyond the array's end.
            for shape, (_, expected) in zip(shapes, self._ports, strict=True):
                if not expected.compatible(ov.PartialShape(list(shape))) or 0 in shape:
                    raise self._misfit(arrays)
        if len(self._seen) > 4096:
            self._seen.clear()
        self._seen[shapes] = count
        if count == STATIC_AFTER and self._dynamic and len(self._static) < STATIC_SHAPES:
            self._static[shapes] = self._compile(shapes)
            return self._static[shapes]
        return self._request

    def _misfit(self, arrays: list[Array]) -> EngineError:
        got = {name: (str(a.dtype), a.shape) for name, a in zip(self.input_names, arrays, strict=True)}
        wanted = {name: (str(d), str(shape)) for name, (d, shape) in zip(self.input_names, self._ports, strict=True)}
        return EngineError(f"{self._what}: openvino cannot run {got}; expected {wanted}")

    def _compile(self, shapes: Shapes) -> Any:
        try:
            model = self._core.read_model(io.BytesIO(self._data))
            model.reshape({name: list(shape) for name, shape in zip(self.input_names, shapes, strict=True)})
            return self._core.compile_model(model, "CPU", self._options).create_infer_request()
        except Exception:  # a shape that the dynamic model runs but that cannot be fixed: it goes on running that way
            return self._request


def _reason(error: Exception) -> str:
    """What OpenVINO says in one line, without the places in its source, which come first and end with a colon each."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = " ".join(line for line in lines if line and not line.endswith(":"))
    return one_line(RuntimeError(said)) if said else one_line(error)


def _saturates(model: Any) -> bool:
    """Whether u8 x s8 products can leave the 16 bits in which x86 without VNNI adds two; tables are only looked up.

    Branches and loops aren't looked into: no graph that the corridor makes has any.
    """
    return any(
        np.any(np.abs(node.data.astype(np.int16)) > 64)
        for node in model.get_ops()
        if node.get_type_name() == "Constant" and node.get_element_type() == ov.Type.i8
        if any(user.get_node().get_type_name() != "Gather" for user in node.output(0).get_target_inputs())
    )
