"""Graph passes: whatever a graph is made of, it answers after them what it answered before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_parts import operators

from edgemm.graph.parity import OnnxGraph
from edgemm.graph.passes import clean_, prepare_for_int8_
from edgemm.graph.passes.pooling import MeanToPool

FLOAT = TensorProto.FLOAT
OPSETS = range(11, 24)


def model_of(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    *,
    x: tuple[int | str, ...],
    outputs: list[str],
    opset: int = 21,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, x)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()],
    )
    bare = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(bare, strict_mode=True)


def assert_passes_keep(model: onnx.ModelProto, x: np.ndarray, where: str = "") -> ir.Model:
    """Run a graph before and after the passes; return it as they leave it."""
    given = ir.from_proto(model)
    expected = OnnxGraph(given).run({"x": x})
    changed = ir.from_proto(model)
    clean_(changed)
    prepare_for_int8_(changed)
    got = OnnxGraph(changed).run({"x": x})
    assert {n: (a.dtype, a.shape) for n, a in got.items()} == {n: (a.dtype, a.shape) for n, a in expected.items()}, (
        where
    )
    for name, value in expected.items():
        # 100 ulp of float32 of the largest value: sums are taken in another order
        scale = float(np.abs(value).max(initial=0)) or 1.0
        np.testing.assert_allclose(got[name], value, rtol=0, atol=1.2e-5 * scale, err_msg=f"{where} {name}")
    return changed


# --- means -----------------------------------------------------------------------------------------------------------


def mean_after_conv(rank: int, axes: list[int], keepdims: int, opset: int, rng: np.random.Generator) -> onnx.ModelProto:
    shape: tuple[int | str, ...] = ("n", 3, *[5] * (rank - 2))
    weights: dict[str, np.ndarray] = {}
    nodes, made = [], "x"
    if rank > 2:
        weights["w"] = rng.normal(size=(4, 3, *[2] * (rank - 2))).astype(np.float32)
        nodes.append(helper.make_node("Conv", ["x", "w"], ["c"]))
        made = "c"
    nodes.append(helper.make_node("Relu", [made], ["r"]))
    if opset < 18:
        nodes.append(helper.make_node("ReduceMean", ["r"], ["y"], axes=axes, keepdims=keepdims))
    else:
        weights["axes"] = np.array(axes, np.int64)
        nodes.append(helper.make_node("ReduceMean", ["r", "axes"], ["y"], keepdims=keepdims))
    return model_of(nodes, weights, x=shape, outputs=["y"], opset=opset)


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_any_axes_stays_that_mean(rank: int, keepdims: int):
    rng = np.random.default_rng(rank)
    x = rng.normal(size=(2, 3, *[5] * (rank - 2))).astype(np.float32)
    for opset in OPSETS:
        for _ in range(4):
            axes = rng.permutation(rank)[: rng.integers(1, rank + 1)]
            signed = [int(a) - rank * int(rng.integers(2)) for a in axes]
            model = mean_after_conv(rank, signed, keepdims, opset, rng)
            assert_passes_keep(model, x, f"opset {opset} axes {signed}")


@pytest.mark.parametrize("opset", [13, 17, 18, 23])
@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [3, -2]])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_mean_over_the_image_becomes_a_pool(opset: int, axes: list[int], keepdims: int):
    rng = np.random.default_rng(0)
    model = mean_after_conv(4, axes, keepdims, opset, rng)
    changed = assert_passes_keep(model, rng.normal(size=(2, 3, 5, 5)).astype(np.float32))
    assert "GlobalAveragePool" in operators(changed)
    assert "ReduceMean" not in operators(changed)


def test_a_mean_over_two_axes_of_a_video_keeps_its_time():
    rng = np.random.default_rng(0)
    model = mean_after_conv(5, [-2, -1], 1, 18, rng)
    changed = assert_passes_keep(model, rng.normal(size=(2, 3, 5, 5, 5)).astype(np.float32))
    assert "GlobalAveragePool" not in operators(changed)


def test_two_means_without_names_become_two_pools():
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"])]
    nodes += [helper.make_node("ReduceMean", ["h"], [name], axes=[2, 3], keepdims=0) for name in "yz"]
    model = model_of(nodes, {"w": np.ones((2, 3, 3, 3), np.float32)}, x=(1, 3, 5, 5), outputs=["y", "z"], opset=17)
    changed = assert_passes_keep(model, np.random.default_rng(0).normal(size=(1, 3, 5, 5)).astype(np.float32))
    assert operators(changed).count("GlobalAveragePool") == 2


@pytest.mark.parametrize("axes", [[0], [1], [-1], [0, 1], [-3, 2], [0, 1, 2]])
@pytest.mark.parametrize("opset", [12, 13, 17, 18, 21])
def test_reductions_of_looked_up_rows_answer_the_same_and_keep_their_axes(opset: int, axes: list[int]):
    """Every operator that reduces, as it is written in each opset."""
    kinds = ("Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")
    nodes = [
        helper.make_node("Cast", ["x"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["t", "i"], ["r"]),
    ]
    for kind in kinds:
        by_input = opset >= (13 if kind == "Sum" else 18)
        given = {"keepdims": 0} if by_input else {"keepdims": 0, "axes": axes}
        nodes.append(helper.make_node(f"Reduce{kind}", ["r", "axes"] if by_input else ["r"], [kind], **given))
    weights = {"t": np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32)}
    weights |= {"axes": np.array(axes)} if opset >= 13 else {}
    model = model_of(nodes, weights, x=(2, 3), outputs=list(kinds), opset=opset)
    changed = assert_passes_keep(model, np.array([[0, 8, 3], [1, 1, 2]], np.float32))
    kept = [n.attributes.get_int("keepdims", 1) for n in changed.graph if n.op_type.startswith("Reduce")]
    assert kept == [int(opset >= 13)] * len(kinds)


def test_an_addition_that_adds_an_axis_makes_no_image():
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "more": rng.normal(size=(6, 1, 1, 1, 1)).astype(np.float32),
        "axes": np.array([2, 3]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Add", ["c", "more"], ["a"]),
        helper.make_node("ReduceMean", ["a", "axes"], ["y"], keepdims=0),
    ]
    model = model_of(nodes, weights, x=("n", 3, 5, 5), outputs=["y"])
    assert_passes_keep(model, rng.normal(size=(2, 3, 5, 5)).astype(np.float32))


# --- random networks -------------------------------------------------------------------------------------------------


class Network:
    """A random chain of what image and sound networks are made of, with every liberty that the standard gives."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = int(self.rng.choice(OPSETS))
        self.spatial = int(self.rng.integers(1, 4))
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        self.channels, self.size = 4, 9
        self.x = self.rng.normal(size=(2, self.channels, *[self.size] * self.spatial)).astype(np.float32)
        self.last = "x"
        self.outputs: list[str] = []
        steps = [self.pad, self.conv, self.conv, self.norm, self.norm, self.clip, self.add, self.copy, self.turned]
        for _ in range(int(self.rng.integers(3, 9))):
            steps[int(self.rng.integers(len(steps)))]()
            if self.rng.random() < 0.2:
                self.outputs.append(self.last)
        self.mean()
        self.outputs = [*dict.fromkeys([*self.outputs, self.last])]
        if "x" in self.outputs:
            self.outputs.remove("x")

    def model(self) -> onnx.ModelProto:
        shape = ("n", *self.x.shape[1:])
        return model_of(self.nodes, self.weights, x=shape, outputs=self.outputs, opset=self.opset)

    def add_node(self, kind: str, inputs: list[str], **attributes: Any) -> None:
        out = f"v{len(self.nodes)}"
        if self.rng.random() < 0.3:
            inputs = [*inputs, *[""] * (kind == "Conv" and len(inputs) == 2)]
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        self.last = out

    def weight(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = np.asarray(array)
        return name

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def pad(self) -> None:
        mode = str(self.rng.choice(["constant", "constant", "reflect", "edge"]))
        rank = self.spatial + 2
        axes = sorted(
            self.rng.choice(np.arange(2, rank), size=int(self.rng.integers(1, self.spatial + 1)), replace=False)
        )
        sizes = self.rng.integers(0, 3, size=2 * len(axes))
        inputs = [self.last]
        if self.opset >= 18 and self.rng.random() < 0.7:
            signed = [int(a) - rank * int(self.rng.integers(2)) for a in axes]
            inputs += [self.weight(sizes.astype(np.int64)), "", self.weight(np.array(signed, np.int64))]
        else:
            full = np.zeros((2, rank), np.int64)
            full[:, axes] = sizes.reshape(2, -1)
            inputs += [self.weight(full.reshape(-1))]
        if mode == "constant" and self.rng.random() < 0.5:
            value = self.weight(np.float32(self.rng.choice([0.0, 1.0])))
            inputs = [*inputs[:2], value, *inputs[3:]]
        self.add_node("Pad", inputs, mode=mode)

    def conv(self) -> None:
        groups = int(self.rng.choice([1, 2]))
        made = int(self.rng.choice([4, 6]))
        inputs = [self.last, self.weight(self.normal(made, self.channels // groups, *[2] * self.spatial))]
        if self.rng.random() < 0.5:
            inputs.append(self.weight(self.normal(made)))
        attributes: dict[str, Any] = {"group": groups}
        if self.rng.random() < 0.3:
            attributes["auto_pad"] = str(self.rng.choice(["SAME_UPPER", "SAME_LOWER", "VALID"]))
        elif self.rng.random() < 0.5:
            attributes["pads"] = [int(p) for p in self.rng.integers(0, 2, size=2 * self.spatial)]
        self.add_node("Conv", inputs, **attributes)
        self.channels = made

    def norm(self) -> None:
        c = self.channels
        scale, shift, mean = (self.weight(self.normal(c)) for _ in range(3))
        var = self.weight(np.abs(self.normal(c)) + 0.5)
        self.add_node(
            "BatchNormalization", [self.last, scale, shift, mean, var], epsilon=float(self.rng.choice([1e-5, 0.1]))
        )

    def clip(self) -> None:
        low, high = self.weight(np.float32(0)), self.weight(np.float32(6))
        self.add_node("Clip", [self.last, *[[], [low], ["", high], [low, high]][int(self.rng.integers(4))]])

    def add(self) -> None:
        shape = [(), (self.channels, *[1] * self.spatial), (1, self.channels, *[1] * self.spatial)]
        other = self.last if self.rng.random() < 0.3 else self.weight(self.normal(*shape[int(self.rng.integers(3))]))
        self.add_node("Add", [self.last, other])

    def copy(self) -> None:
        self.add_node("Identity", [self.last])

    def turned(self) -> None:
        """A convolution whose weight is written the other way round."""
        kernel = self.normal(*[1] * self.spatial, self.channels, self.channels)
        order = [self.spatial + 1, self.spatial, *range(self.spatial)]
        before = self.last
        self.add_node("Transpose", [self.weight(kernel)], perm=order)
        self.add_node("Conv", [before, self.last])

    def mean(self) -> None:
        rank = self.spatial + 2
        axes = [int(a) - rank * int(self.rng.integers(2)) for a in range(int(self.rng.integers(1, 4)), rank)]
        if not axes:
            return
        inputs = [self.last] if self.opset < 18 else [self.last, self.weight(np.array(axes, np.int64))]
        attributes = {"axes": axes} if self.opset < 18 else {}
        self.add_node("ReduceMean", inputs, keepdims=int(self.rng.integers(2)), **attributes)


def test_random_networks_of_every_opset_answer_the_same():
    seen: set[str] = set()
    for seed in range(150):
        network = Network(seed)
        before = {n.op_type for n in network.nodes}
        seen |= before - set(operators(assert_passes_keep(network.model(), network.x, f"seed {seed}")))
    assert seen >= {"Pad", "BatchNormalization", "Identity", "Transpose", "ReduceMean"}  # each pass had work to do


# --- batch norm ------------------------------------------------------------------------------------------------------


def norm_after(layer: Callable[[np.random.Generator], tuple[onnx.NodeProto, dict[str, np.ndarray]]], **attributes: Any):
    rng = np.random.default_rng(0)
    node, weights = layer(rng)
    weights |= {n: rng.normal(size=6).astype(np.float32) for n in "sbm"}
    weights["v"] = rng.uniform(0.5, 2, size=6).astype(np.float32)
    norm = helper.make_node("BatchNormalization", ["c", *"sbmv"], ["y"], **attributes)
    return [node, norm], weights


LAYERS = {
    "gemm": ({"alpha": 0.5, "beta": 3.0}, "Gemm", (4, 6), (6,), (5, 4)),
    "gemm of a turned weight": ({"transB": 1, "beta": 0.0}, "Gemm", (6, 4), (6,), (5, 4)),
    "gemm with one number as its bias": ({}, "Gemm", (4, 6), (), (5, 4)),
    "gemm with a bias per row": ({"beta": 2.0}, "Gemm", (4, 6), (5, 1), (5, 4)),
    "gemm without a bias": ({}, "Gemm", (4, 6), None, (5, 4)),
    "transposed convolution of groups": ({"group": 2}, "ConvTranspose", (4, 3, 2, 2), (6,), (5, 4, 3, 3)),
    "transposed convolution": ({"strides": [2, 2]}, "ConvTranspose", (4, 6, 2, 2), None, (5, 4, 3, 3)),
    "convolution of one axis": ({}, "Conv", (6, 4, 2), None, (5, 4, 7)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_batch_norm_is_folded_into_the_layer_before_it(name: str):
    attributes, kind, weight, bias, x = LAYERS[name]
    rng = np.random.default_rng(1)
    inputs = ["x", "w", *([] if bias is None else ["bias"])]
    weights = {"w": rng.normal(size=weight).astype(np.float32)}
    if bias is not None:
        weights["bias"] = rng.normal(size=bias).astype(np.float32)
    nodes, more = norm_after(lambda _: (helper.make_node(kind, inputs, ["c"], **attributes), weights))
    model = model_of(nodes, more, x=x, outputs=["y"])
    changed = assert_passes_keep(model, rng.normal(size=x).astype(np.float32))
    assert operators(changed) == [kind]


@pytest.mark.parametrize("opset", [11, 14, 23])
def test_a_bias_that_is_left_empty_is_none(opset: int):
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 4, 3, 3)).astype(np.float32)}
    nodes, more = norm_after(lambda _: (helper.make_node("Conv", ["x", "w", ""], ["c"]), weights))
    model = model_of(nodes, more, x=("n", 4, 7, 7), outputs=["y"], opset=opset)
    assert operators(assert_passes_keep(model, rng.normal(size=(2, 4, 7, 7)).astype(np.float32))) == ["Conv"]


def test_a_batch_norm_that_trains_stays():
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 4, 3, 3)).astype(np.float32)}
    nodes, more = norm_after(lambda _: (helper.make_node("Conv", ["x", "w"], ["c"]), weights))
    nodes[1] = helper.make_node("BatchNormalization", ["c", *"sbmv"], ["y", "m2", "v2"], training_mode=1)
    model = ir.from_proto(model_of(nodes, more, x=("n", 4, 7, 7), outputs=["y"]))
    clean_(model)
    assert operators(model) == ["Conv", "BatchNormalization"]


def test_a_layer_that_is_read_or_whose_weight_is_shared_keeps_its_answers():
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(6, 4, 3, 3)).astype(np.float32)}
    nodes, more = norm_after(lambda _: (helper.make_node("Conv", ["x", "w"], ["c"]), weights))
    nodes.append(helper.make_node("Conv", ["x", "w"], ["z"]))
    for outputs in (["y", "z"], ["y", "c", "z"]):
        model = model_of(nodes, more, x=("n", 4, 7, 7), outputs=outputs)
        assert_passes_keep(model, rng.normal(size=(2, 4, 7, 7)).astype(np.float32))


# --- constants, bodies, names ----------------------------------------------------------------------------------------


def test_a_constant_is_computed_as_the_engine_computes_it_and_a_huge_one_is_not_made():
    nodes = [
        helper.make_node("Constant", [], ["k"], value_floats=[1.0, 2.0, 3.0]),
        helper.make_node("Exp", ["k"], ["e"]),
        helper.make_node("Expand", ["k", "wide"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["x", "e"], ["a"]),
        helper.make_node("Add", ["a", "sum"], ["y"]),
    ]
    model = model_of(nodes, {"wide": np.array([400_000, 3])}, x=("n", 3), outputs=["y"])
    changed = assert_passes_keep(model, np.ones((2, 3), np.float32))
    assert operators(changed) == ["Expand", "ReduceSum", "Mul", "Add"]


def test_what_bodies_copy_and_hide_stays_as_it_is():
    """A branch gives an outer value back by a copy; a loop's body has names of its own, which the graph has as well."""
    value = helper.make_tensor_value_info
    yes = helper.make_graph([helper.make_node("Identity", ["r"], ["a"])], "yes", [], [value("a", FLOAT, None)])
    no = helper.make_graph([helper.make_node("Neg", ["r"], ["b"])], "no", [], [value("b", FLOAT, None)])
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["on_out"]),
            helper.make_node("Add", ["state", "picked"], ["state_out"]),
            helper.make_node("Identity", ["state_out"], ["scan_out"]),
        ],
        "body",
        [value("i", TensorProto.INT64, []), value("on", TensorProto.BOOL, []), value("state", FLOAT, None)],
        [value("on_out", TensorProto.BOOL, []), value("state_out", FLOAT, None), value("scan_out", FLOAT, None)],
    )
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMax", ["r"], ["m"], keepdims=0),
        helper.make_node("Greater", ["m", "one"], ["big"]),
        helper.make_node("If", ["big"], ["p"], then_branch=yes, else_branch=no),
        helper.make_node("Identity", ["p"], ["picked"]),
        helper.make_node("Loop", ["times", "", "picked"], ["y", "all"], body=body),
    ]
    model = model_of(nodes, {"one": np.float32(1), "times": np.array(3)}, x=("n", 3), outputs=["y", "all"])
    for scale in (0.1, 10.0):
        assert_passes_keep(model, np.full((2, 3), scale, np.float32))


def test_a_name_that_a_pass_makes_avoids_those_of_the_graph_and_of_its_bodies():
    rng = np.random.default_rng(0)
    model = mean_after_conv(4, [2, 3], 0, 21, rng)
    model.graph.node[-1].output[0] = "y"
    model.graph.node.extend([helper.make_node("Neg", ["y"], ["y_pooled"]), helper.make_node("Exp", ["y"], ["y_axes"])])
    del model.graph.value_info[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in ("y_pooled", "y_axes"))
    model = onnx.shape_inference.infer_shapes(model)
    changed = assert_passes_keep(model, rng.normal(size=(2, 3, 5, 5)).astype(np.float32))
    assert "GlobalAveragePool" in operators(changed)


def test_operators_of_another_domain_are_not_taken_for_those_of_the_standard():
    model = ir.from_proto(mean_after_conv(4, [2, 3], 1, 21, np.random.default_rng(0)))
    next(n for n in model.graph if n.op_type == "ReduceMean").domain = "org.example"
    assert not MeanToPool()(model).modified
