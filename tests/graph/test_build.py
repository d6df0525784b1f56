from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from small_parts import BATCH, image_part, pixels, tokens
from torch import nn

from edgemm.graph import build
from edgemm.graph.build import build_bundle, engine_from_onnx
from edgemm.graph.bundle import quantize_bundle
from edgemm.graph.capture import capture_model, capture_part
from edgemm.graph.float16 import float16_from_onnx
from edgemm.graph.onnx_file import read_onnx
from edgemm.graph.parity import OnnxGraph, largest_difference
from edgemm.graph.quantize import Quantization, layer_names, quantize_onnx
from edgemm.graph.race import latency_ratio
from edgemm.models.frontend import ImageFrontend
from edgemm.models.model import Model, Part
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import EngineError, EngineNotInstalled, InputError, QuantizeError
from edgemm.runtime.manifest import TargetEntry
from edgemm.runtime.outputs import Embedding
from edgemm.runtime.readers import ImageInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.stage import Context, Silent

SIDE = DimRange(8, 20, 40)


def plan(model: ir.Model, **changes) -> bytes:
    arguments = {
        "engine": "tensorrt-rtx",
        "precision": "int8",
        "compute_capability": "8.6",
        "profiles": {"batch": BATCH},
    }
    return engine_from_onnx(model, **{**arguments, **changes})


@pytest.mark.parametrize("capability", ["8.6", "8.9"])
def test_an_int8_plan_is_built_without_a_gpu(image_graph, capability):
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(4)}], Quantization(engine="tensorrt-rtx"))
    assert len(plan(int8, compute_capability=capability)) > 1000


def test_a_float16_plan_of_a_transformer_is_built_without_a_gpu(text_graph):
    half, _ = float16_from_onnx(text_graph)
    assert plan(half, precision="float16", profiles={"batch": BATCH, "tokens": DimRange(1, 8, 12)})


def test_what_the_engine_refuses_is_one_line_with_the_node(image_graph):
    asymmetric = quantize_onnx(image_graph, [{"pixels": pixels(4)}])
    with pytest.raises(EngineError, match=r"node '.*' \((Dequantize|Quantize)Linear\)") as caught:
        plan(asymmetric)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compute_capability": "8.7"}, "does not build for compute capability 8.7; it does for 7.5"),
        ({"profiles": {}}, "dimension 'batch' without a range"),
        ({"engine": "onnxruntime"}, "compiles nothing"),
    ],
)
def test_impossible_requests_are_refused(image_graph, changes, message):
    with pytest.raises(EngineError, match=message):
        plan(image_graph, **changes)


def test_an_engine_that_is_not_installed_says_what_to_install(image_graph, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineNotInstalled, match=r'pip install "cuda-bindings>=.*" "tensorrt-rtx>='):
        plan(image_graph)


def test_float16_stays_near_float32_and_halves_the_file(text_graph):
    half, _ = float16_from_onnx(text_graph, [tokens(4)])
    feed = tokens(4, seed=1)
    got, expected = OnnxGraph(half).run(feed)["text_embedding"], OnnxGraph(text_graph).run(feed)["text_embedding"]
    assert got.dtype == np.float32
    assert largest_difference(got, expected) < 2e-2  # 11 bits of mantissa through some ten layers

    def weights(model):
        return sum(v.const_value.nbytes for v in model.graph.initializers.values())

    assert weights(half) < 0.6 * weights(text_graph)


class Overflows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.down(self.up(x) * 3e5) * 1e-5


def test_values_beyond_float16_become_float32_islands():
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4)),), (TensorSpec("y", "float32", ("batch", 4)),), {"batch": BATCH}
    )
    x = torch.randn(4, 4)
    graph = capture_part(Part("p", "head", None, "p", {}, signature, Overflows()), {"x": x})
    blind, _ = float16_from_onnx(graph)
    careful, islands = float16_from_onnx(graph, [{"x": x.numpy()}])
    expected = OnnxGraph(graph).run({"x": x.numpy()})["y"]
    assert islands
    assert largest_difference(OnnxGraph(careful).run({"x": x.numpy()})["y"], expected) < 1e-2
    assert not largest_difference(OnnxGraph(blind).run({"x": x.numpy()})["y"], expected) < 1e-2 or islands


def captured(tmp_path: Path) -> tuple[Path, list[dict[str, np.ndarray]]]:
    signature = Signature(
        (TensorSpec("image", "uint8", ("batch", "height", "width", 3)),),
        (TensorSpec("pixels", "float32", ("batch", 3, 16, 16)),),
        {"batch": BATCH, "height": SIDE, "width": SIDE},
    )
    frontend = Part("image_frontend", "frontend", "image", "image_frontend", {}, signature, ImageFrontend(size=16))
    model = Model(
        "dual_encoder",
        [frontend, image_part()],
        inputs={"image": ImageInput()},
        outputs={"image_embedding": Embedding()},
    )
    rng = np.random.default_rng(0)
    samples = [{"image": rng.integers(0, 256, (1, 20 + i, 24, 3), dtype=np.uint8)} for i in range(6)]
    capture_model(model, samples[:2], tmp_path / "captured", name="tiny", context=Context(tmp_path))
    return tmp_path / "captured", samples


TARGETS = [
    TargetEntry("cpu-int8", "onnxruntime", "int8", {}, threads=1),
    TargetEntry("cpu-float32", "onnxruntime", "float32", {}, threads=1),
    TargetEntry("gpu-int8", "tensorrt-rtx", "int8", {}),
    TargetEntry("gpu-float16", "tensorrt-rtx", "float16", {}),
]


@pytest.mark.slow
def test_a_bundle_is_quantized_and_built_for_every_target_and_still_opens(tmp_path: Path):
    source, samples = captured(tmp_path)
    context = Context(tmp_path / "scratch")
    quantize_bundle(source, iter(samples), tmp_path / "int8", targets=TARGETS, context=context)
    build_bundle(
        tmp_path / "int8",
        tmp_path / "built",
        compute_capabilities={"gpu-int8": "8.6", "gpu-float16": "8.9"},
        context=context,
    )
    float32, int8 = (Bundle.open(tmp_path / "built", target=t).run(samples[0]) for t in ("cpu-float32", "cpu-int8"))
    a, b = float32["image_embedding"], int8["image_embedding"]
    assert float((a * b).sum()) > 0.98  # unit vectors; six samples of noise calibrate loosely
    manifest = Bundle.open(tmp_path / "built").manifest
    gpu = manifest.targets[2]
    assert gpu.files["image"] == "engines/gpu-int8/image.plan"
    assert gpu.files["image_frontend"].endswith(".onnx")
    assert gpu.fingerprint["compute_capability"] == "8.6"
    assert "graphs/int8-symmetric/image.onnx" in manifest.files
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.slow
def test_the_quantize_verb_builds_a_bundle_for_tensorrt_and_asks_for_the_gpu(tmp_path: Path, capsys):
    from edgemm.pipeline.verbs import quantize

    source, _ = captured(tmp_path)
    np.savez(tmp_path / "c.npz", image=np.random.default_rng(0).integers(0, 256, (4, 20, 24, 3), dtype=np.uint8))
    arguments = (source, tmp_path / "c.npz", tmp_path / "out")
    with pytest.raises(InputError, match=r"captured: engine 'tensorrt-rtx' builds .*; add --compute-capability 8.6"):
        quantize(*arguments, engine="tensorrt-rtx")
    with pytest.raises(InputError, match=r"--compute-capability 8.6: only where a bundle is built"):
        quantize(*arguments, engine="onnxruntime", compute_capability="8.6")
    with pytest.raises(EngineError, match=r"does not build for compute capability 8.7"):
        quantize(*arguments, engine="tensorrt-rtx", compute_capability="8.7")
    assert not (tmp_path / "out").exists()
    quantize(*arguments, engine="tensorrt-rtx", compute_capability="8.6")
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.target.files["image"] == "engines/tensorrt-rtx-int8/image.plan"
    assert bundle.target.fingerprint["compute_capability"] == "8.6"
    assert bundle.verify().ok


def test_calibration_says_how_many_samples_there_are_also_of_a_stream(tmp_path: Path):
    totals: dict[str, int] = {}

    class Listens(Silent):
        @contextmanager
        def task(self, title: str, *, total: int):
            totals[title] = total
            with Silent.task(self, title, total=total) as task:
                yield task

    source, samples = captured(tmp_path)
    context = Context(tmp_path / "s", Listens())
    quantize_bundle(source, iter(samples), tmp_path / "out", targets=TARGETS[:1], context=context, samples=len(samples))
    assert totals["calibration values"] == len(samples)


def test_a_part_without_calibration_samples_is_named_and_nothing_is_left(tmp_path: Path):
    source, _ = captured(tmp_path)
    with pytest.raises(QuantizeError, match="part 'image': no calibration sample"):
        quantize_bundle(
            source,
            [{"other": np.zeros((1, 2))}],
            tmp_path / "out",
            targets=TARGETS[:1],
            context=Context(tmp_path / "s"),
        )
    with pytest.raises(QuantizeError, match="no calibration samples"):
        quantize_bundle(source, [], tmp_path / "out", targets=TARGETS[:1], context=Context(tmp_path / "s"))
    assert not (tmp_path / "out").exists()


def test_a_layer_to_keep_that_no_part_has_is_named_and_one_that_is_there_stays_in_float(tmp_path: Path):
    source, samples = captured(tmp_path)
    arguments = {"targets": TARGETS[:1], "context": Context(tmp_path / "s")}
    with pytest.raises(QuantizeError, match=r"keep_float: no part has a layer 'nope'; there are"):
        quantize_bundle(
            source, samples, tmp_path / "out", config=Quantization(keep_float=frozenset({"nope"})), **arguments
        )
    assert not (tmp_path / "out").exists()
    names = layer_names(read_onnx(source / "graphs" / "float32" / "image.onnx"))
    quantize_bundle(source, samples, tmp_path / "out", config=Quantization(keep_float=frozenset(names)), **arguments)
    assert Bundle.open(tmp_path / "out").manifest.targets[0].files["image"] == "graphs/float32/image.onnx"


def test_a_slower_int8_part_is_rolled_back_to_float_arithmetic_and_said_so(tmp_path: Path, monkeypatch):
    from edgemm.graph import bundle
    from edgemm.runtime.timing import Ratio

    said: list[str] = []

    class Listens(type(Context(tmp_path).progress)):
        def say(self, line: str) -> None:
            said.append(line)

    source, samples = captured(tmp_path)
    asked: list[tuple[str, int]] = []

    def timed(int8: bytes, float32: bytes, feed, *, engine: str, threads: int, what: str) -> Ratio:
        real = latency_ratio(int8, float32, feed, engine=engine, threads=threads, what=what, rounds=12)
        assert 0.1 < real.value < 10
        asked.append((engine, threads))
        return Ratio(1.3, 1.2, 1.4, "slower") if engine == "onnxruntime" else Ratio(0.5, 0.4, 0.6, "faster")

    monkeypatch.setattr(bundle, "latency_ratio", timed)
    context = Context(tmp_path / "s", Listens())
    targets = [
        TargetEntry("ort-int8", "onnxruntime", "int8", {}, threads=1),
        TargetEntry("ov-int8", "openvino", "int8", {}, threads=2),
    ]
    quantize_bundle(source, samples, tmp_path / "out", targets=targets, context=context, rollback=True)
    assert asked == [("onnxruntime", 1), ("openvino", 2)]
    line = next(
        line for line in said if "target 'ort-int8', part 'image': int8 takes 1.30 times float32's time" in line
    )
    assert "unfused Q/DQ pairs" in line
    manifest = Bundle.open(tmp_path / "out").manifest
    ort, ov = manifest.targets
    assert (ort.precision, ort.label) == ("float32", "float32, int8 rolled back")
    assert (ov.precision, ov.label[:6]) == ("int8", "int8 i")  # the first convolution stays in float
    assert ort.arithmetic["image"].int8_macs == 0
    assert ort.arithmetic["image"].int8_weights == ov.arithmetic["image"].int8_weights > 0
    assert "1.30 times" in str(ort.arithmetic["image"].rolled_back)
    files = {target.name: target.files["image"] for target in manifest.targets}
    assert files == {"ort-int8": "graphs/float32-stored-int8/image.onnx", "ov-int8": "graphs/int8/image.onnx"}
    assert manifest.provenance["quantization"]["parts"]["int8/image"]["rolled_back"] == ["ort-int8"]


def test_a_race_is_run_on_the_engine_asked_for_with_its_reason_where_it_fails(image_graph):
    int8 = quantize_onnx(image_graph, [{"pixels": pixels(4)}])
    data = ir.to_proto(int8).SerializeToString()
    for engine in ("onnxruntime", "openvino"):
        ratio = latency_ratio(data, data, {"pixels": pixels(1)}, engine=engine, threads=1, what="x", rounds=64)
        assert 0.5 < ratio.value < 2  # the same graph twice, on a machine that may be busy
        with pytest.raises(EngineError, match=f"part 'image': timing .*{engine}.* refuses the graph"):
            latency_ratio(data, b"", {"pixels": pixels(1)}, engine=engine, threads=1, what="part 'image'")


def test_an_engine_that_builds_for_the_gpu_it_finds_builds_for_no_other(monkeypatch):
    halves = {"major": 9, "minor": 0}
    cuda = SimpleNamespace(
        cudaDeviceAttr=SimpleNamespace(
            cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
        ),
        cudaDeviceGetAttribute=lambda half, device: (0, halves[half]),
    )
    monkeypatch.setattr(build, "cuda_runtime", lambda engine, what: cuda)
    build._set_compute_capability(SimpleNamespace(), None, "9.0", "tensorrt")
    with pytest.raises(EngineError, match=r"compute capability 9.0, and not for 8.6; set compute_capability = .9.0"):
        build._set_compute_capability(SimpleNamespace(), None, "8.6", "tensorrt")
