"""Regions: which nodes are computed in int8, on the small towers and on single layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgemm.graph.regions import clip_bounds, is_weighted


def product(first: str, second: str) -> ir.Node:
    """MatMul of two values: ``x`` is given, ``constant`` is a weight."""
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "constant")
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 4])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 4])
    node = helper.make_node("MatMul", [first, second], ["y"])
    model = helper.make_model(helper.make_graph([node], "product", [given], [made], [weight]))
    return next(iter(ir.serde.deserialize_model(model).graph))


@pytest.mark.parametrize(
    ("first", "second", "weighted"), [("x", "constant", True), ("constant", "x", False), ("x", "x", False)]
)
def test_a_product_has_int8_weights_where_its_second_factor_alone_is_constant(
    first: str, second: str, weighted: bool
) -> None:
    assert is_weighted(product(first, second)) is weighted


@pytest.mark.parametrize(
    ("kind", "bounds", "found"),
    [("Clip", (0.0, 6.0), (0.0, 6.0)), ("Relu", (), (0.0, np.inf)), ("Sigmoid", (), None)],
)
def test_a_clip_and_a_relu_say_their_bounds(kind: str, bounds: tuple[float, ...], found: object) -> None:
    names = [f"bound{i}" for i in range(len(bounds))]
    weights = [numpy_helper.from_array(np.array(b, np.float32), n) for n, b in zip(names, bounds, strict=True)]
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(kind, ["x", *names], ["y"])], "one", value[:1], value[1:], weights)
    node = next(iter(ir.serde.deserialize_model(helper.make_model(graph)).graph))
    assert clip_bounds(node) == found
