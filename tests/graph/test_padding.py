"""FoldPad: what is padded by zeros before a convolution is padded by the convolution."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_parts import operators

from edgemm.graph.parity import OnnxGraph
from edgemm.graph.passes.padding import FoldPad


def padded_convolution(pads: list[int], *, value: float = 0.0, mode: str = "constant") -> ir.Model:
    """A 3 x 3 convolution with pads (1, 0, 1, 0) of its own, behind a Pad of all four axes."""
    rng = np.random.default_rng(0)
    arrays = {
        "sizes": np.array(pads, np.int64),
        "value": np.array(value, np.float32),
        "weight": rng.standard_normal((4, 3, 3, 3)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Pad", ["x", "sizes", "value"], ["wide"], mode=mode),
        helper.make_node("Conv", ["wide", "weight"], ["y"], pads=[1, 0, 1, 0]),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 9])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "padded", [image], [made], weights)
    return ir.serde.deserialize_model(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 17)])
    )


def answer(model: ir.Model) -> np.ndarray:
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 9)).astype(np.float32)
    return OnnxGraph(model).run({"x": x})["y"]


def test_zeros_at_every_side_become_the_convolutions_own_pads() -> None:
    model = padded_convolution([0, 0, 1, 2, 0, 0, 3, 4])
    before = answer(model)
    assert FoldPad()(model).modified
    (convolution,) = (node for node in model.graph if node.op_type == "Conv")
    assert list(convolution.attributes.get_ints("pads")) == [2, 2, 4, 4]  # its own 1, 0, 1, 0 added
    assert convolution.inputs[0].name == "x"
    np.testing.assert_allclose(answer(model), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 1.0},
        {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "reflect"},
        {"pads": [0, 1, 0, 0, 0, -1, 0, 0]},
        {"pads": [0, 0, -1, 0, 0, 0, 0, 0]},
    ],
    ids=["ones", "reflected", "channels", "cut"],
)
def test_what_no_convolution_pads_by_stays(given: dict[str, object]) -> None:
    model = padded_convolution(**given)  # type: ignore[arg-type]
    assert not FoldPad()(model).modified
    assert operators(model) == ["Pad", "Conv"]
