"""Both CPU engines compute int8 exactly on every CPU: u8 x s8 products saturate in 16 bits on x86 without VNNI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.runtime import engine_onnxruntime, engine_openvino
from edgemm.runtime.engine_onnxruntime import ORTSession, cpu_options
from edgemm.runtime.engine_openvino import OpenVINOSession, ov
from edgemm.runtime.engines import Loading, Session

EXACT = "session.x64quantprecision"
ENGINES: dict[str, Callable[[bytes, Loading], Session]] = {"onnxruntime": ORTSession, "openvino": OpenVINOSession}


def quantized(op: str, weights: np.ndarray, shape: list[int], *, step: float | None = None) -> bytes:
    """``op`` of what is quantized from [0, 1] to uint8 and of int8 weights at scale 1/127, in QDQ form.

    Args:
        step: of the result where that is quantized too: onnxruntime convolves integers only then.
    """
    constants = {
        "w": weights, "w_scale": np.float32(1 / 127), "w_zero": np.int8(0),
        "x_scale": np.float32(1 / 255), "x_zero": np.uint8(0), "y_scale": np.float32(step or 1),
    }  # fmt: skip
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_int8"]),
            helper.make_node("DequantizeLinear", ["x_int8", "x_scale", "x_zero"], ["x_float"]),
            helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_float"]),
            helper.make_node(op, ["x_float", "w_float"], ["y_float" if step else "y"]),
            *(
                [
                    helper.make_node("QuantizeLinear", ["y_float", "y_scale", "x_zero"], ["y_int8"]),
                    helper.make_node("DequantizeLinear", ["y_int8", "y_scale", "x_zero"], ["y"]),
                ]
                if step
                else []
            ),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("largest", [64, 127])
def test_products_of_the_largest_int8_values_are_exact(engine: str, largest: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(200, 256, (4, 512)).astype(np.float32) / 255
    signs = rng.choice([-1, 1], (1, 64)) * np.ones((512, 1))  # a column's products all pull one way
    weights = (largest * signs).astype(np.int8)
    session = ENGINES[engine](quantized("MatMul", weights, [4, 512]), Loading(engine, 1))
    np.testing.assert_allclose(session.run({"x": values})["y"], values @ (weights / np.float32(127)), rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_convolutions_of_the_largest_int8_values_are_exact(engine: str) -> None:
    values = np.random.default_rng(0).integers(200, 256, (1, 32, 8, 8)).astype(np.float32) / 255
    weights = np.full((16, 32, 1, 1), 127, np.int8)
    step = 32 / 255
    session = ENGINES[engine](quantized("Conv", weights, [1, 32, 8, 8], step=step), Loading(engine, 1))
    expected = np.broadcast_to(values.sum(axis=1, keepdims=True), (1, 16, 8, 8))
    np.testing.assert_allclose(session.run({"x": values})["y"], expected, rtol=1e-5, atol=step / 2)


@pytest.mark.parametrize(("support", "exact"), [("no VNNI", True), ("VNNI", False), ("int8 dot product", False)])
def test_onnxruntime_is_asked_for_slower_exact_kernels_only_without_vnni(
    support: str, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_onnxruntime, "int8_support", lambda: support)
    if exact:
        assert cpu_options(1).get_session_config_entry(EXACT) == "1"
    else:
        with pytest.raises(RuntimeError, match=EXACT):  # not set
            cpu_options(1).get_session_config_entry(EXACT)


@pytest.mark.parametrize(
    ("support", "largest", "integers"),
    [("no VNNI", 127, False), ("no VNNI", 64, True), ("VNNI", 127, True), ("int8 dot product", 127, True)],
)
def test_openvino_multiplies_in_float_only_where_integers_would_saturate(
    support: str, largest: int, integers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_openvino, "int8_support", lambda: support)
    options: dict[str, Any] = {}
    compiled = ov.Core.compile_model

    def noted(core: ov.Core, model: ov.Model, device: str, config: dict[str, Any]) -> object:
        options.update(config)
        return compiled(core, model, device, config)

    monkeypatch.setattr(ov.Core, "compile_model", noted)
    data = quantized("MatMul", np.full((8, 8), largest, np.int8), [1, 8])
    OpenVINOSession(data, Loading("openvino", 1, "test"))
    assert ("LP_TRANSFORMS_MODE" not in options) == integers
