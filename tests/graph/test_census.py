"""What a bundle calls int8, counted again by others: torch counts products, the file's own tensors count weights."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from small_parts import BATCH, image_part, pixels, text_part, tokens
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgemm.graph.capture import capture_part
from edgemm.graph.census import arithmetic_of, layers_of
from edgemm.graph.parity import OnnxGraph, cosine, largest_difference
from edgemm.graph.passes import clean_
from edgemm.graph.quantize import Quantization, layer_names, quantize_onnx
from edgemm.graph.storage import compress_weights
from edgemm.models.model import Part
from edgemm.runtime.arithmetic import Arithmetic, FloatLayers, arithmetic_from_json, precision_label
from edgemm.runtime.errors import BundleError, QuantizeError
from edgemm.runtime.session import open_session
from edgemm.runtime.signature import Signature, TensorSpec


def counted_by_torch(part, feed) -> dict[str, int]:
    """Multiply-accumulates of one run by module, of the whole under "Global"."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        part.module.eval()(*(torch.from_numpy(array) for array in feed.values()))
    return {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}


def weights_of(module: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, kinds))


def eight_bit_numbers(model: ir.Model) -> int:
    """Numbers that the file stores as int8, in tensors that have rows and columns."""
    tensors = onnx.load_model_from_string(ir.to_proto(model).SerializeToString()).graph.initializer
    return sum(int(np.prod(t.dims)) for t in tensors if t.data_type == TensorProto.INT8 and len(t.dims) > 1)


def test_weights_and_products_of_a_convolutional_tower_are_as_torch_and_the_file_count_them(image_graph):
    part, feed = image_part(), {"pixels": pixels(1)}
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(4)}])
    found = arithmetic_of(int8, feed, float32_bytes=1)
    by_module = counted_by_torch(part, feed)
    stem = next(flops for name, flops in by_module.items() if name.endswith("stem"))
    assert found.macs == by_module["Global"]
    assert found.int8_macs == by_module["Global"] - stem
    assert found.weights == weights_of(part.module, nn.Conv2d, nn.Linear)
    assert found.int8_weights == eight_bit_numbers(int8)
    assert [(g.operator, g.macs, g.why[:21]) for g in found.in_float] == [("Conv", stem, "the first convolution")]


def test_weights_and_products_of_a_transformer_are_as_torch_and_the_file_count_them(text_graph):
    part, feed = text_part(), {name: array[:1] for name, array in tokens(1).items()}
    int8 = quantize_onnx(text_graph, [tokens(4)])
    found = arithmetic_of(int8, feed, float32_bytes=1)
    whole = counted_by_torch(part, feed)["Global"]
    width, length, layers = 32, 8, 1
    attention = layers * 2 * length * length * width  # queries by keys, and weights by values
    pooling = length * width  # the mean over tokens, as a product with the mask
    assert found.macs == whole
    assert found.int8_macs == whole - attention - pooling
    norm = width  # untrained, they are all ones, and kept once
    assert found.weights == weights_of(part.module, nn.Linear, nn.Embedding) + norm
    assert found.int8_weights == eight_bit_numbers(int8)
    reasons = {group.operator: group.why for group in found.in_float}
    assert "two activations" in reasons["MatMul"]
    assert "ruins accuracy" in reasons["LayerNormalization"]


def test_weights_that_are_only_stored_in_eight_bits_multiply_nothing_in_int8(image_graph):
    stored = compress_weights(image_graph)
    found = arithmetic_of(stored, {"pixels": pixels(1)}, float32_bytes=1, rolled_back="it was slower")
    assert found.int8_macs == 0
    assert found.int8_weights == eight_bit_numbers(stored) > 0.7 * found.weights
    assert {group.why for group in found.in_float} == {"int8 was slower and rolled back"}
    assert precision_label("int8", [found]) == "float32, int8 rolled back"


# --- layers that stay in float ---------------------------------------------------------------------------------------


def graph_of(nodes, inputs, constants, opset: int = 18) -> ir.Model:
    """A clean graph of ONNX nodes with the output "y"."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    tensors = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", values, [out], tensors)
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9))
    clean_(model)
    return model


def rand(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


node = helper.make_node
# operator -> (nodes, inputs, constants, multiply-accumulates by hand, words of the reason)
FLOATS = {
    "ConvTranspose": ([node("ConvTranspose", ["x", "w"], ["y"])], {"x": [1, 4, 5, 5]}, {"w": rand(4, 6, 3, 3)},
                      4 * 25 * 6 * 9, "no int8 kernel"),
    "Einsum": ([node("Einsum", ["x", "w"], ["y"], equation="bij,jk->bik")], {"x": [2, 3, 4]}, {"w": rand(4, 5)},
               2 * 3 * 4 * 5, "write it as MatMul"),
    "Gemm": ([node("Gemm", ["x", "w"], ["y"], transA=1)], {"x": [4, 3]}, {"w": rand(4, 5)}, 3 * 4 * 5, "transA"),
    "MatMul": ([node("MatMul", ["x", "z"], ["y"])], {"x": [2, 3, 4], "z": [2, 4, 5]}, {}, 2 * 3 * 4 * 5,
               "two activations"),
    "LSTM": ([node("LSTM", ["x", "w", "r"], ["y"], hidden_size=3)], {"x": [5, 1, 4]},
             {"w": rand(1, 12, 4), "r": rand(1, 12, 3)}, 5 * 12 * 7, "state is fed back"),
    "GRU": ([node("GRU", ["x", "w", "r"], ["y"], hidden_size=3)], {"x": [5, 1, 4]},
            {"w": rand(1, 9, 4), "r": rand(1, 9, 3)}, 5 * 9 * 7, "state is fed back"),
    "LayerNormalization": ([node("LayerNormalization", ["x", "w"], ["y"])], {"x": [2, 4]}, {"w": rand(4)}, 0, "ruins"),
    "Gather": ([node("Cast", ["x"], ["i"], to=7), node("Gather", ["w", "i"], ["y"])], {"x": [2]}, {"w": rand(9, 5)},
               0, "fewer than 4096"),
}  # fmt: skip


@pytest.mark.parametrize("operator", FLOATS)
def test_a_layer_that_stays_in_float_is_named_with_its_products_and_its_reason(operator):
    nodes, inputs, constants, macs, reason = FLOATS[operator]
    model = graph_of(nodes, inputs, constants)
    (layer,) = layers_of(model, {name: np.ones(shape, np.float32) for name, shape in inputs.items()})
    assert (layer.operator, layer.int8, layer.macs) == (operator, False, macs)
    assert sum(n for n, _ in layer.weights.values()) == sum(array.size for array in constants.values())
    assert reason in layer.why


def test_grouped_and_depthwise_convolutions_are_int8_like_any_other():
    nodes = [
        node("Conv", ["x", "a"], ["h"], group=8),
        node("Conv", ["h", "b"], ["g"], group=2),
        node("Relu", ["g"], ["y"]),
    ]
    model = graph_of(nodes, {"x": ["b", 8, 6, 6]}, {"a": rand(8, 1, 3, 3), "b": rand(4, 4, 1, 1)})
    feed = {"x": rand(1, 8, 6, 6)}
    layers = layers_of(quantize_onnx(model, [feed] * 4), feed)
    assert [(layer.int8, layer.macs) for layer in layers] == [(True, 8 * 16 * 9), (True, 4 * 16 * 4)]


def test_a_convolution_whose_result_is_an_output_is_called_int8_only_where_its_engine_multiplies_integers():
    nodes = [node("Conv", ["x", "a"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "b"], ["y"])]
    weights = {"a": rand(8, 8, 3, 3), "b": rand(6, 8, 3, 3)}
    model = graph_of(nodes, {"x": ["b", 8, 12, 12]}, weights)
    feed = {"x": rand(1, 8, 12, 12)}
    int8 = quantize_onnx(model, [feed] * 4, Quantization(engine="openvino", reduce_range=True))
    session = open_session("openvino", ir.to_proto(int8).SerializeToString(), threads=1)
    ran = [n.get_rt_info() for n in session._request.get_compiled_model().get_runtime_model().get_ops()]
    precisions = [n["runtimePrecision"].astype(str) for n in ran if n["layerType"].astype(str) == "Convolution"]
    assert precisions == ["u8", "u8"]
    assert [layer.int8 for layer in layers_of(int8, feed)] == [True, True]
    assert [layer.int8 for layer in layers_of(quantize_onnx(model, [feed] * 4), feed)] == [True, False]


def test_a_lone_convolution_that_onnxruntime_computes_in_float_is_not_called_int8(tmp_path):
    model = graph_of([node("Conv", ["x", "w"], ["y"])], {"x": ["b", 8, 9, 9]}, {"w": rand(6, 8, 3, 3)})
    feed = {"x": rand(1, 8, 9, 9)}
    stored = quantize_onnx(model, [feed] * 4)
    OnnxGraph(stored, optimized=tmp_path / "run.onnx")
    ran = {n.op_type for n in onnx.load(tmp_path / "run.onnx").graph.node}
    assert "Conv" in ran
    assert not any("Quant" in operator or "QLinear" in operator for operator in ran)
    found = arithmetic_of(stored, feed, float32_bytes=1)
    assert (found.int8_macs, found.int8_weights, found.weights) == (0, 6 * 8 * 9, 6 * 8 * 9)
    assert [group.why[:23] for group in found.in_float] == ["its result is an output"]


def test_outputs_of_an_lstm_that_are_left_empty_are_not_asked_for():
    nodes = [node("LSTM", ["x", "w", "r"], ["", "y"], hidden_size=3)]
    model = graph_of(nodes, {"x": [5, 1, 4]}, {"w": rand(1, 12, 4), "r": rand(1, 12, 3)})
    (layer,) = layers_of(model, {"x": rand(5, 1, 4)})
    assert (layer.macs, layer.name) == (5 * 12 * 7, "y")


def test_a_layer_that_was_to_stay_in_float_says_that_it_was_asked_to(image_graph):
    names = {layer.name for layer in layers_of(image_graph, {"pixels": pixels(1)})}
    last = sorted(names)[-1]
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(4)}], Quantization(keep_float=frozenset({last})))
    layers = layers_of(int8, {"pixels": pixels(1)}, keep_float=frozenset({last}))
    assert next(layer.why for layer in layers if layer.name == last) == "named in keep_float"


# --- what onnxruntime makes of it -------------------------------------------------------------------------------------

INTEGER_KERNELS = ("QLinearConv", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm")
W, B = rand(16, 16), rand(16)
CONV = rand(8, 8, 3, 3)
# nodes, shape of x without the batch, how many layers are int8
PATTERNS = {
    "rank-2-bias": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])], (16,), 1),
    "rank-2-bias-row": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["row", "h"], ["y"])], (16,), 1),
    "rank-2-residual": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "x"], ["y"])], (16,), 1),
    "rank-3-bias": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])], (5, 16), 1),
    "rank-3-bias-first": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["b", "h"], ["y"])], (5, 16), 1),
    "rank-4-bias": ([node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["y"])], (2, 5, 16), 1),
    "rank-3-relu": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["i"]), node("Relu", ["i"], ["j"]),
         node("MatMul", ["j", "w"], ["k"]), node("Add", ["k", "b"], ["y"])], (5, 16), 2),
    "rank-2-relu": (
        [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["i"]), node("Relu", ["i"], ["j"]),
         node("MatMul", ["j", "w"], ["k"]), node("Add", ["k", "b"], ["y"])], (16,), 2),
    "clip-below-zero": (
        [node("Conv", ["x", "c"], ["h"]), node("Clip", ["h", "low", "high"], ["i"]),
         node("Conv", ["i", "c"], ["j"]), node("Relu", ["j"], ["y"])], (8, 9, 9), 2),
    "gemm-bias-row": ([node("Gemm", ["x", "w", "row"], ["y"], transB=1)], (16,), 1),
    "gemm-bias-of-one-number": ([node("Gemm", ["x", "w", "one"], ["y"])], (16,), 1),
    "convolution-last": ([node("Conv", ["x", "c"], ["h"]), node("Conv", ["h", "c"], ["y"])], (8, 9, 9), 1),
}  # fmt: skip


@pytest.mark.parametrize("shape", ["fixed", "free"])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_is_called_int8_runs_on_integer_kernels_with_fixed_and_free_shapes(pattern, shape, tmp_path):
    nodes, dims, int8_layers = PATTERNS[pattern]
    known = {
        "w": W,
        "b": B,
        "row": B[None],
        "one": B[:1, None],
        "c": CONV,
        "low": np.float32(-1),
        "high": np.float32(1),
    }
    used = {name: array for name, array in known.items() if any(name in n.input for n in nodes)}
    model = graph_of(nodes, {"x": [1 if shape == "fixed" else "batch", *dims]}, used)
    feeds = [{"x": np.random.default_rng(i).standard_normal((1, *dims)).astype(np.float32)} for i in range(8)]
    int8 = quantize_onnx(model, feeds)
    assert sum(layer.int8 for layer in layers_of(int8, feeds[0])) == int8_layers
    session = OnnxGraph(int8, optimized=tmp_path / "run.onnx")
    run = [n.op_type for n in onnx.load(tmp_path / "run.onnx").graph.node]
    assert sum(run.count(kernel) for kernel in INTEGER_KERNELS) == int8_layers
    # one or two layers of 8 bits: about half of one of 255 steps of the largest value, for each of some 16 terms
    got, expected = session.run(feeds[0])["y"], OnnxGraph(model).run(feeds[0])["y"]
    assert got.shape == expected.shape
    assert largest_difference(got, expected) < 0.03


class Recurrent(nn.Module):
    """A two-way LSTM with a linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(12, 64, batch_first=True, bidirectional=True), nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(x)[0].mean(1))


def test_an_lstm_is_dynamic_int8_on_onnxruntime_and_float_on_openvino():
    torch.manual_seed(0)
    module = Recurrent().eval()
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 10, 12)),), (TensorSpec("y", "float32", ("batch", 3)),), {"batch": BATCH}
    )
    x = torch.randn(16, 10, 12)
    graph = capture_part(Part("p", "tower", None, "p", {}, signature, module), {"x": x[:2]})
    feeds = [{"x": row[None].numpy()} for row in x]
    int8 = quantize_onnx(graph, feeds)
    found = arithmetic_of(int8, feeds[0], float32_bytes=1)
    weights = [p for name, p in module.lstm.named_parameters() if "weight" in name]
    assert found.weights == found.int8_weights == sum(p.numel() for p in weights) + 128 * 3
    assert found.macs == found.int8_macs == 10 * sum(p.numel() for p in weights) + 128 * 3
    expected = module(x).detach().numpy()
    got = np.concatenate([OnnxGraph(int8).run(feed)["y"] for feed in feeds])
    assert largest_difference(got, expected) < 0.05  # weights and inputs of 8 bits, ten steps of feedback
    openvino = arithmetic_of(quantize_onnx(graph, feeds, Quantization(engine="openvino")), feeds[0], float32_bytes=1)
    assert [group.operator for group in openvino.in_float] == ["LSTM"]
    assert openvino.int8_macs == 128 * 3


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("operator", "gates"), [("GRU", 3), ("RNN", 1), ("LSTM", 4)])  # an LSTM of too few units
def test_a_recurrent_layer_that_stays_in_float_is_stored_in_half_and_says_so(operator, gates, engine):
    draw, units = np.random.default_rng(0), 48
    bound = units**-0.5  # as torch draws them
    constants = {n: draw.uniform(-bound, bound, (1, gates * units, units)) for n in ("cell.weight", "cell.state")}
    nodes = [node(operator, ["x", "cell.weight", "cell.state"], ["y"], hidden_size=units)]
    model = graph_of(nodes, {"x": ["time", 1, units]}, constants)
    feed = {"x": draw.standard_normal((30, 1, units)).astype(np.float32)}
    small = quantize_onnx(model, [feed], Quantization(engine=engine))
    data, whole = (ir.to_proto(m).SerializeToString() for m in (small, model))
    assert len(data) < 0.6 * len(whole)
    (layer,) = layers_of(small, feed)
    assert (layer.int8, layer.why.endswith("weights stored in float16")) == (False, True)
    assert sum(n for n, _ in layer.weights.values()) == 2 * gates * units**2
    assert arithmetic_of(small, feed, float32_bytes=1).in_float[0].layers == ("cell.weight",)
    got = open_session(engine, data, threads=1, what="half").run(feed)["y"]
    expected = open_session(engine, whole, threads=1, what="whole").run(feed)["y"]
    assert cosine(got, expected) > 0.9999
    np.testing.assert_allclose(got, expected, atol=2e-3)  # 11 bits of weights of some .1, 48 of them, 30 steps


def test_recurrent_weights_that_float16_cannot_hold_or_that_are_to_be_kept_stay_float32():
    nodes, inputs, constants, _, _ = FLOATS["GRU"]
    for changed, keep in (
        (constants["w"] * 1e6, frozenset()),
        (constants["w"] * 1e-5, frozenset()),  # float16 has 7 of its 11 bits left
        (constants["w"] * 1e-9, frozenset()),  # and here none: all would be 0
        (constants["w"], frozenset({"y"})),
        (constants["w"], frozenset({"w"})),
    ):
        model = graph_of(nodes, inputs, {**constants, "w": changed})
        with pytest.raises(QuantizeError, match="nothing to do"):
            quantize_onnx(model, [{"x": rand(5, 1, 4)}], Quantization(keep_float=keep))


def test_a_recurrent_layer_can_be_named_to_be_kept():
    nodes, inputs, constants, _, _ = FLOATS["GRU"]
    assert {"y", "w"} <= layer_names(graph_of(nodes, inputs, constants))


def test_a_recurrent_weight_that_is_read_in_float_as_well_is_stored_once():
    nodes = [node("RNN", ["x", "w", "w"], ["h"], hidden_size=4), node("Mul", ["h", "w"], ["y"])]
    model = graph_of(nodes, {"x": [5, 1, 4]}, {"w": rand(1, 4, 4)})
    with pytest.raises(QuantizeError, match="nothing to do"):
        quantize_onnx(model, [{"x": rand(5, 1, 4)}])


TWO_WAYS = {"h": "forward", "i": "reverse"}


def test_two_recurrent_layers_may_share_a_weight_that_is_stored_in_half():
    nodes = [node("RNN", ["x", "w", "w"], [name], hidden_size=4, direction=way) for name, way in TWO_WAYS.items()]
    model = graph_of([*nodes, node("Add", ["h", "i"], ["y"])], {"x": [5, 1, 4]}, {"w": rand(1, 4, 4)})
    feed = {"x": rand(5, 1, 4)}
    small = quantize_onnx(model, [feed])
    assert [v.const_value.dtype.name for v in small.graph.initializers.values()] == ["FLOAT16"]
    np.testing.assert_allclose(OnnxGraph(small).run(feed)["y"], OnnxGraph(model).run(feed)["y"], atol=1e-2)


def test_a_layer_to_keep_may_be_named_by_its_product_or_by_its_bias():
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["i"]), node("MatMul", ["i", "w"], ["y"])]
    model = graph_of(nodes, {"x": [1, 16]}, {"w": W, "b": B})
    assert layer_names(model) == {"h", "i", "y", "w"}  # the weight of both
    for name in ("h", "i"):
        kept = quantize_onnx(model, [{"x": rand(1, 16)}], Quantization(keep_float=frozenset({name})))
        assert [layer.int8 for layer in layers_of(kept, {"x": rand(1, 16)})] == [False, True]


def test_a_layer_goes_by_the_name_of_its_weight_where_its_owner_gave_one():
    nodes = [
        node("MatMul", ["x", "encoder.weight"], ["getitem"]), node("MatMul", ["getitem", "val_7"], ["h"]),
        node("MatMul", ["h", "onnx::MatMul_12"], ["y"]),
    ]  # fmt: skip
    model = graph_of(nodes, {"x": [1, 16]}, {"encoder.weight": W, "val_7": W + 1, "onnx::MatMul_12": W + 2})
    feed = {"x": rand(1, 16)}
    keep = frozenset({"encoder.weight", "h"})
    kept = quantize_onnx(model, [feed], Quantization(keep_float=keep))
    found = arithmetic_of(kept, feed, float32_bytes=1, keep_float=keep)
    assert [(group.why, group.layers) for group in found.in_float] == [("named in keep_float", ("encoder.weight", "h"))]
    assert layer_names(model) == {"encoder.weight", "getitem", "h", "y"}


TAILS = {
    "relu": [node("Relu", ["h"], ["y"])],
    "clip": [node("Clip", ["h", "zero", "six"], ["y"])],
    "relu-flatten": [node("Relu", ["h"], ["i"]), node("Flatten", ["i"], ["y"])],
    "pool": [node("MaxPool", ["h"], ["y"], kernel_shape=[2, 2])],
    "add-relu": [node("Add", ["h", "g"], ["i"]), node("Relu", ["i"], ["y"])],
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("tail", TAILS)
def test_what_leaves_a_graph_behind_a_convolution_is_as_fine_as_its_engine_can_give_it(tail, engine):
    """Floats where int8 convolutions give floats; else 8 bits of what is left of it, not of what ReLU cuts off."""
    nodes = [node("Conv", ["x", "c"], ["f"]), node("Relu", ["f"], ["g"]), *TAILS[tail]]
    nodes.insert(2, node("Conv", ["g", "d"], ["h"], pads=[1] * 4))
    known = {"c": CONV / 8, "d": CONV[::-1] / 8, "zero": np.float32(0), "six": np.float32(6)}
    used = {name: array for name, array in known.items() if any(name in n.input for n in nodes)}
    model = graph_of(nodes, {"x": ["batch", 8, 24, 24]}, used)
    feeds = [{"x": np.random.default_rng(i).standard_normal((2, 8, 24, 24)).astype(np.float32)} for i in range(4)]
    int8 = quantize_onnx(model, feeds, Quantization(engine=engine))
    assert [layer.int8 for layer in layers_of(int8, feeds[0])] == [True, True]
    assert [value.name for value in int8.graph.outputs] == ["y"]
    session = open_session(engine, ir.to_proto(int8).SerializeToString(), threads=1, what="graph")
    got, expected = session.run(feeds[0])["y"], OnnxGraph(model).run(feeds[0])["y"]
    assert cosine(got, expected) > 0.999
    steps = len(np.unique(got))
    rounded = engine == "onnxruntime" and tail != "add-relu"
    assert 150 < steps <= 256 if rounded and tail != "pool" else steps > (100 if rounded else 1000)


def test_a_result_that_an_int8_layer_reads_too_is_rounded_once_for_both():
    nodes = [node("Conv", ["x", "c"], ["f"]), node("Relu", ["f"], ["z"]), node("Conv", ["z", "c"], ["h"])]
    model = ir.to_proto(graph_of([*nodes, node("Relu", ["h"], ["y"])], {"x": ["batch", 8, 24, 24]}, {"c": CONV / 8}))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    model = ir.from_proto(model)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 8, 24, 24)).astype(np.float32)}
    int8 = quantize_onnx(model, [feed])
    got, expected = OnnxGraph(int8).run(feed), OnnxGraph(model).run(feed)
    assert [layer.int8 for layer in layers_of(int8, feed)] == [True, True]
    assert got.keys() == expected.keys()
    assert all(cosine(got[name], expected[name]) > 0.999 for name in expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["ReduceMean", "ReduceMax"])
def test_rows_of_an_int8_table_are_pooled_before_an_int8_product_alike_on_every_engine(kind, masked):
    """OpenVINO put the scales of other columns to columns whose axes a reduction had dropped: a cosine of .42."""
    draw = np.random.default_rng(0)
    table = draw.standard_normal((400, 32)) * draw.uniform(0.1, 3, (1, 32))  # columns of different scales
    nodes = [node("Cast", ["x"], ["i"], to=7), node("Gather", ["t", "i"], ["e"])]
    nodes += [node("Mul", ["e", "m"], ["f"])] if masked else []
    nodes += [node(kind, ["f" if masked else "e"], ["p"], axes=[1], keepdims=0), node("MatMul", ["p", "v"], ["y"])]
    constants = {"t": table, "v": rand(32, 16), **({"m": draw.integers(0, 2, (12, 1))} if masked else {})}
    model = graph_of(nodes, {"x": ["batch", 12]}, constants, opset=17)
    feeds = [{"x": draw.integers(0, 400, (4, 12)).astype(np.float32)} for _ in range(8)]
    int8 = quantize_onnx(model, feeds, Quantization(engine="openvino"))
    assert {layer.operator: layer.int8 for layer in layers_of(int8, feeds[0])}["Gather"]
    data = ir.to_proto(int8).SerializeToString()
    for engine in ("onnxruntime", "openvino"):
        session = open_session(engine, data, threads=1, what="graph")
        for feed in feeds:
            assert cosine(session.run(feed)["y"], OnnxGraph(model).run(feed)["y"]) > 0.999  # 8 bits three times


@pytest.mark.parametrize("engine", ["openvino", "tensorrt-rtx"])
@pytest.mark.parametrize("bias", [(1, 16), (1, 1), (1,), ()])
def test_a_gemm_whose_bias_is_one_row_is_int8_for_every_engine(engine, bias):
    model = graph_of([node("Gemm", ["x", "w", "b"], ["y"])], {"x": ["batch", 16]}, {"w": W, "b": rand(*bias)})
    feed = {"x": np.random.default_rng(1).standard_normal((64, 16)).astype(np.float32)}
    int8 = quantize_onnx(model, [feed], Quantization(engine=engine))
    assert [layer.int8 for layer in layers_of(int8, feed)] == [True]
    got, expected = OnnxGraph(int8).run(feed)["y"], OnnxGraph(model).run(feed)["y"]
    assert largest_difference(got, expected) < 0.03  # one layer of 8 bits


def test_a_gemm_with_a_bias_for_each_sample_stays_in_float_and_says_so():
    model = graph_of([node("Gemm", ["x", "w", "b"], ["y"])], {"x": [2, 16]}, {"w": W, "b": rand(2, 16)})
    with pytest.raises(QuantizeError, match="Gemm: its bias is not one constant row"):
        quantize_onnx(model, [{"x": rand(2, 16)}])


def test_a_graph_of_which_no_layer_can_be_int8_says_which_layers_it_has_and_why():
    nodes, inputs, constants, _, reason = FLOATS["ConvTranspose"]
    with pytest.raises(QuantizeError, match=f"ConvTranspose: .*{reason}.*; nothing to do"):
        quantize_onnx(graph_of(nodes, inputs, constants), [{"x": rand(1, 4, 5, 5)}])


# --- in the manifest -------------------------------------------------------------------------------------------------

HALF = Arithmetic(400, 100, 38, 1000, 120, (FloatLayers("LSTM", "its state is fed back", ("lstm_3",), 62, 880),))


def test_what_a_part_is_computed_in_is_read_as_it_was_written():
    assert arithmetic_from_json(HALF.to_json(), where="m: a") == HALF


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("int8_weights", 101, "expected at most 100"),
        ("int8_macs", 1001, "expected at most 1000"),
        ("macs", -1, "expected an integer"),
        ("in_float", [{}], "operator: missing"),
        ("rolled_back", 3, "rolled_back"),
    ],
)
def test_shares_that_cannot_be_are_refused(key, value, message):
    with pytest.raises(BundleError, match=message):
        arithmetic_from_json({**HALF.to_json(), key: value}, where="m: a")


@pytest.mark.parametrize(
    ("parts", "label"),
    [
        ([], "int8"),
        ([Arithmetic(4, 100, 97, 100, 95)], "int8"),
        ([HALF], "int8 in 38 % of weights and 12 % of multiply-accumulates"),
        ([Arithmetic(4, 100, 100, 1000, 3)], "int8 in 100 % of weights and < 1 % of multiply-accumulates"),
        ([Arithmetic(4, 100, 0, 100, 0)], "float32, no layer is int8"),
        ([Arithmetic(4, 100, 99, 100, 0, rolled_back="slower")], "float32, int8 rolled back"),
    ],
)
def test_a_target_is_called_int8_where_it_is(parts, label):
    assert precision_label("int8", parts) == label
