"""OpenVINO on the CPU: runs the same ONNX graphs, often faster on x86."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import openvino as ov

from edgemm.runtime.errors import EngineError
from edgemm.runtime.fields import one_line
from edgemm.runtime.session import Array, missing_feeds


class OpenVINOSession:
    """An ONNX graph compiled for OpenVINO's CPU plugin.

    Args:
        data: the graph.
        threads: threads of one inference; 0 lets OpenVINO take one per physical core.
        what: names target and part in messages.
        float32: keep floats in float32; otherwise the plugin lowers them to bf16 by itself where the CPU has it,
            and what runs is not what was measured elsewhere.

    Raises:
        EngineError: OpenVINO refuses the graph.
    """

    engine = "openvino"

    def __init__(self, data: bytes, *, threads: int, what: str, float32: bool) -> None:
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        if float32:
            options["INFERENCE_PRECISION_HINT"] = "f32"
        self._what = what
        try:
            core = ov.Core()
            model = core.read_model(io.BytesIO(data))
            self._compiled = core.compile_model(model, "CPU", options)
            self._request = self._compiled.create_infer_request()
        except Exception as error:
            raise EngineError(f"{what}: openvino {ov.__version__} refuses the graph: {one_line(error)}") from error
        self.input_names = tuple(port.get_any_name() for port in model.inputs)
        self.output_names = tuple(port.get_any_name() for port in model.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see ``Session.run``."""
        try:
            made = self._request.infer([feeds[name] for name in self.input_names])
        except KeyError:
            raise missing_feeds(self.input_names, feeds, what=self._what) from None
        except Exception as error:
            shapes = {name: (str(feeds[name].dtype), feeds[name].shape) for name in self.input_names}
            raise EngineError(f"{self._what}: openvino cannot run {shapes}: {one_line(error)}") from error
        return {name: np.asarray(made[i]) for i, name in enumerate(self.output_names)}
