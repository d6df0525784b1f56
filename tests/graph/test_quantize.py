from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from small_parts import BATCH, operators, pixels, tokens

from edgemm.graph.bundle import unfused_pairs
from edgemm.graph.calibrate import Histogram
from edgemm.graph.capture import capture_part
from edgemm.graph.parity import OnnxGraph, cosine
from edgemm.graph.qdq import activation_scale, quantize_weight
from edgemm.graph.quantize import Quantization, quantize_onnx
from edgemm.graph.ranges import choose_range
from edgemm.graph.storage import compress_weights
from edgemm.models.model import Part
from edgemm.runtime.engines import Scheme
from edgemm.runtime.errors import QuantizeError
from edgemm.runtime.signature import Signature, TensorSpec


def fused_operators(model: ir.Model, folder: Path) -> list[str]:
    OnnxGraph(model, optimized=folder / "optimized.onnx")
    return [n.op_type for n in onnx.load(folder / "optimized.onnx").graph.node]


def scales_of(model: ir.Model) -> dict[str, list[float]]:
    return {
        name: np.asarray(value.const_value.numpy()).reshape(-1).tolist()
        for name, value in model.graph.initializers.items()
        if name.endswith("_scale")
    }


def test_onnxruntime_fuses_every_convolution_shortcut_and_pool_into_int8(image_graph, tmp_path):
    fused = fused_operators(quantize_onnx(image_graph, [{"pixels": pixels(8)}]), tmp_path)
    assert fused.count("QLinearConv") == 3  # all but the first, which stays in float32
    assert fused.count("Conv") == 1
    assert "QLinearAdd" in fused
    assert "QLinearGlobalAveragePool" in fused
    assert "QGemm" in fused
    assert "Clip" not in fused[: fused.index("QGemm")]
    assert fused.count("QuantizeLinear") == 1


def test_onnxruntime_fuses_every_linear_layer_of_a_transformer(text_graph, tmp_path):
    fused = fused_operators(quantize_onnx(text_graph, [tokens(8)]), tmp_path)
    assert fused.count("MatMulIntegerToFloat") == 6
    assert fused.count("QGemm") == 1
    assert fused.count("DequantizeLinear") <= 1  # the embedding table's rows


@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_int8_stays_near_float32(image_graph, text_graph, method):
    # random weights; trained towers are held to .99 by benchmarks/quantizer.py
    for graph, feed in ((image_graph, {"pixels": pixels(16)}), (text_graph, tokens(16))):
        int8 = quantize_onnx(graph, [feed], Quantization(method=method))
        name = graph.graph.outputs[0].name
        assert cosine(OnnxGraph(int8).run(feed)[name], OnnxGraph(graph).run(feed)[name]) > 0.99


def test_scales_do_not_depend_on_the_batch_size_or_the_order(image_graph):
    x = pixels(12)
    together = quantize_onnx(image_graph, [{"pixels": x}])
    apart = quantize_onnx(image_graph, [{"pixels": x[i : i + 1]} for i in range(12)])
    backwards = quantize_onnx(image_graph, [{"pixels": x[i : i + 3]} for i in (9, 6, 3, 0)])
    assert scales_of(together) == scales_of(apart) == scales_of(backwards)


def test_quantizing_twice_gives_the_same_bytes(text_graph):
    first, second = (
        ir.to_proto(quantize_onnx(text_graph, [tokens(4)])).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second


def test_the_graph_given_is_not_changed(image_graph):
    before = ir.to_proto(image_graph).SerializeToString(deterministic=True)
    quantize_onnx(image_graph, [{"pixels": pixels(2)}])
    assert ir.to_proto(image_graph).SerializeToString(deterministic=True) == before


def test_tensorrt_gets_symmetric_activations_and_float_biases(image_graph):
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(8)}], Quantization(engine="tensorrt-rtx"))
    kinds = {str(i.const_value.dtype.name) for n, i in int8.graph.initializers.items() if "_zero_point" in n}
    assert kinds == {"INT8"}
    assert all(not i.const_value.numpy().any() for n, i in int8.graph.initializers.items() if "_zero_point" in n)
    biases = [i for n, i in int8.graph.initializers.items() if n.endswith("_bias")]
    assert biases
    assert all(b.const_value.dtype == ir.DataType.FLOAT for b in biases)
    name = "image_embedding"
    feed = {"pixels": pixels(16)}
    assert cosine(OnnxGraph(int8).run(feed)[name], OnnxGraph(image_graph).run(feed)[name]) > 0.99


def test_reduced_range_keeps_weights_within_seven_bits(image_graph):
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(2)}], Quantization(reduce_range=True))
    weights = [i.const_value.numpy() for n, i in int8.graph.initializers.items() if n.endswith("_weight")]
    weights = [w for w in weights if w.dtype == np.int8]
    assert weights
    assert max(np.abs(w.astype(int)).max() for w in weights) == 64


def test_int8_files_are_about_a_quarter(text_graph):
    def size(model):
        return len(ir.to_proto(model).SerializeToString())

    weights = sum(v.const_value.nbytes for v in text_graph.graph.initializers.values())
    saved = size(text_graph) - size(quantize_onnx(text_graph, [tokens(2)]))
    assert saved > 0.5 * weights  # .75 less the scales and nodes, which count in a model this small
    assert size(text_graph) - size(compress_weights(text_graph)) > 0.5 * weights


def test_stored_weights_are_widened_once_at_load(text_graph, tmp_path):
    stored = compress_weights(text_graph)
    fused = fused_operators(stored, tmp_path)
    assert fused.count("Cast") <= 2  # the table's rows, the mask
    feed = tokens(4)
    got, expected = OnnxGraph(stored).run(feed), OnnxGraph(text_graph).run(feed)
    assert cosine(got["text_embedding"], expected["text_embedding"]) > 0.999


def test_unfused_pairs_counts_what_onnxruntime_still_runs(image_graph):
    assert unfused_pairs(image_graph) == 0
    assert unfused_pairs(quantize_onnx(image_graph, [{"pixels": pixels(2)}])) == 1


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ([], "calibration data is empty"),
        ([{"image": pixels(1)}], "no array for input 'pixels'"),
        ([{"pixels": pixels(1)[:, :2]}], r"float32 \[1, 2, 16, 16\], expected float32 \['batch', 3, 16, 16\]"),
        ([{"pixels": pixels(1).astype(np.float64) * 1e300}], "float64"),
        ([{"pixels": np.full((1, 3, 16, 16), np.nan, np.float32)}], "nan or infinity"),
    ],
)
def test_calibration_data_that_does_not_fit_is_one_line(image_graph, feeds, message):
    with pytest.raises(QuantizeError, match=message) as caught:
        quantize_onnx(image_graph, feeds)
    assert "\n" not in str(caught.value)


def test_an_unknown_engine_is_named(image_graph):
    with pytest.raises(QuantizeError, match="no engine 'tflite'"):
        quantize_onnx(image_graph, [], Quantization(engine="tflite"))


def test_a_histogram_counts_the_same_however_its_grid_grew():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=500) * 10.0**k for k in range(-3, 3)])
    grown, whole = Histogram(), Histogram()
    for part in np.split(values, 10):
        grown.add(part)
    whole.add(values)
    assert grown.exponent == whole.exponent
    assert (grown.counts == whole.counts).all()
    assert grown.counts.sum() == len(values)


def test_a_squared_error_range_cuts_an_outlier_and_keeps_zero():
    rng = np.random.default_rng(0)
    histogram = Histogram()
    histogram.add(np.abs(rng.normal(size=60_000)))
    histogram.add(np.array([1000.0]))
    low, high = choose_range(histogram, "percentile", percentile=99.9, symmetric=False)
    assert low == 0.0
    assert 3 < high < 4.5
    assert choose_range(histogram, "minmax", percentile=99.9, symmetric=True) == (-1000.0, 1000.0)


@pytest.mark.parametrize("values", [np.zeros(10), np.full(10, 5.0), np.full(10, -5.0), np.full(10, 1e-30)])
@pytest.mark.parametrize("method", ["minmax", "percentile", "mse"])
def test_constant_activations_get_a_finite_positive_scale_that_represents_zero(values, method):
    histogram = Histogram()
    histogram.add(values)
    for scheme in (Scheme(), Scheme(activations="int8")):
        low, high = choose_range(histogram, method, percentile=99.99, symmetric=scheme.symmetric)
        scale = activation_scale(low, high, scheme)
        assert np.isfinite(np.float32(scale.scale))
        assert scale.scale > 0
        assert low <= 0 <= high


def test_a_zero_channel_of_weights_quantizes_to_zeros():
    weight = np.array([[0.0, 0.0], [1.0, -2.0]], np.float32)
    levels, scales = quantize_weight(weight, 0, 127)
    assert levels.tolist() == [[0, 0], [64, -127]]
    assert scales.tolist() == [1.0, np.float32(2 / 127)]


def test_attention_and_norms_stay_in_float(text_graph):
    int8 = quantize_onnx(text_graph, [tokens(2)])
    for node in int8.graph:
        if node.op_type in ("LayerNormalization", "Softmax", "Gelu"):
            producer = node.inputs[0].producer()
            assert producer is None or producer.op_type != "DequantizeLinear" or "table" in str(producer.name)
    assert operators(int8).count("Gelu") == 1


def test_a_part_of_one_linear_layer_that_reads_the_input_is_quantized():
    signature = Signature(
        (TensorSpec("fused", "float32", ("batch", 64)),),
        (TensorSpec("logits", "float32", ("batch", 5)),),
        {"batch": BATCH},
    )
    torch.manual_seed(0)
    x = torch.randn(16, 64)
    head = capture_part(Part("head", "head", None, "head", {}, signature, torch.nn.Linear(64, 5)), {"fused": x})
    feed = {"fused": x.numpy()}
    int8 = quantize_onnx(head, [feed])
    assert "QuantizeLinear" in operators(int8)
    assert cosine(OnnxGraph(int8).run(feed)["logits"], OnnxGraph(head).run(feed)["logits"]) > 0.999


def test_a_fusion_of_two_inputs_is_quantized_and_its_products_stay_in_float(tmp_path):
    class Fusion(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.up, self.down = (torch.nn.Linear(32, 32) for _ in range(4))

        def forward(self, image, text):
            return self.down(torch.relu(self.up(torch.tanh(self.a(image)) * torch.tanh(self.b(text)))))

    signature = Signature(
        tuple(TensorSpec(n, "float32", ("batch", 32)) for n in ("image_features", "text_features")),
        (TensorSpec("fused", "float32", ("batch", 32)),),
        {"batch": BATCH},
    )
    torch.manual_seed(0)
    feed = {n: torch.randn(16, 32) for n in ("image_features", "text_features")}
    graph = capture_part(Part("fusion", "fusion", None, "fusion", {}, signature, Fusion()), feed)
    arrays = {n: v.numpy() for n, v in feed.items()}
    int8 = quantize_onnx(graph, [arrays])
    fused = fused_operators(int8, tmp_path)
    assert fused.count("QGemm") == 4
    assert "Relu" not in fused
    assert cosine(OnnxGraph(int8).run(arrays)["fused"], OnnxGraph(graph).run(arrays)["fused"]) > 0.99
