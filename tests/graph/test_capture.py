from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_parts import BATCH, image_part, operators, pixels, text_part, tokens
from torch import nn

from edgemm.graph.capture import capture_model, capture_part
from edgemm.graph.parity import OnnxGraph, largest_difference
from edgemm.models.frontend import IMAGENET_STD
from edgemm.models.model import Model, Part
from edgemm.models.parts import frontend_part
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, CaptureError
from edgemm.runtime.outputs import Embedding
from edgemm.runtime.readers import TensorInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.stage import Context

RNG = np.random.default_rng(0)


def vector_part(module: nn.Module, *, width: int = 4, outputs: tuple = ("batch", 4), dims=None) -> Part:
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", width)),),
        (TensorSpec("y", "float32", outputs),),
        dims or {"batch": BATCH},
    )
    return Part("odd", "head", None, "odd", {}, signature, module)


def test_a_captured_part_gives_the_modules_numbers_at_any_batch(image_graph):
    part = image_part()
    part.module.eval()
    x = pixels(4, seed=5)
    with torch.no_grad():
        expected = part.module(torch.from_numpy(x)).numpy()
    got = OnnxGraph(image_graph).run({"pixels": x})["image_embedding"]
    assert largest_difference(got, expected) < 1e-5  # float32 sums of a few hundred products


def test_batch_norm_is_folded_and_layer_norm_and_gelu_are_one_operator_each(image_graph, text_graph):
    assert "BatchNormalization" not in operators(image_graph)
    assert operators(text_graph).count("LayerNormalization") == 3
    assert operators(text_graph).count("Gelu") == 1


def test_inputs_and_outputs_carry_the_signatures_names_and_dimensions(text_graph):
    shapes = {v.name: [str(d) for d in v.shape] for v in (*text_graph.graph.inputs, *text_graph.graph.outputs)}
    assert shapes == {
        "input_ids": ["batch", "tokens"],
        "attention_mask": ["batch", "tokens"],
        "text_embedding": ["batch", "8"],
    }


@pytest.mark.slow
def test_a_bicubic_frontend_passes_on_noise_as_long_as_its_range_goes():
    config = {"size": 96, "fit": "crop", "shortest": 96, "resample": "bicubic"}  # 16 to 96: positions have rounding
    noise = torch.from_numpy(RNG.integers(0, 256, (1, 128, 128, 3), dtype=np.uint8))
    long = torch.from_numpy(RNG.integers(0, 256, (1, 4096, 16, 3), dtype=np.uint8))
    part = frontend_part(config)
    graph = OnnxGraph(capture_part(part, {"image": noise}, further=[{"image": long}]))
    with torch.no_grad():
        expected = part.module(long).numpy()
    difference = np.abs(graph.run({"image": long.numpy()})["pixels"] - expected).max()
    assert difference * min(IMAGENET_STD) < 0.5 / 255  # less than what Pillow rounds by


def test_capture_leaves_the_module_in_the_mode_it_was_in():
    part = vector_part(nn.Linear(4, 4))
    part.module.train()
    capture_part(part, {"x": torch.ones(2, 4)})
    assert part.module.training


class Frozen(nn.Module):
    def forward(self, x):
        return x.reshape(2, 4) * 1.0


class Inverts(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x[:, None] * x[:, :, None]).real


class Branches(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Lies(nn.Module):
    def forward(self, x):
        return torch.ops.aten.dropout(x, 0.5, True) if not torch.compiler.is_exporting() else x * 1.5


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Frozen(), "dimension 'batch'"),
        (Inverts(), "aten.linalg_eig"),
        (Branches(), "torch.where"),
        (Lies(), "differs from the module"),
    ],
)
def test_what_cannot_be_captured_is_one_line_that_names_part_and_reason(module, message):
    torch.manual_seed(0)
    with pytest.raises(CaptureError, match=message) as caught:
        capture_part(vector_part(module), {"x": torch.randn(2, 4)})
    assert "part 'odd'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({}, "no 'x'"),
        ({"x": torch.ones(2, 5)}, r"expected float32 \['batch', 4\]"),
        ({"x": torch.ones(2, 4, dtype=torch.float64)}, "float64"),
    ],
)
def test_samples_that_do_not_fit_the_signature_are_refused(sample, message):
    with pytest.raises(CaptureError, match=message):
        capture_part(vector_part(nn.Linear(4, 4)), sample)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixels": np.zeros((1, 4, 16, 16), np.float32)}, r"'pixels' is float32 \[1, 4, 16, 16\], expected float32"),
        ({"input_ids": np.ones((1, 8), np.float32)}, r"'input_ids' is float32 \[1, 8\], expected int64"),
        ({"input_ids": np.full((1, 8), 9999)}, r"part 'text' can't run on input_ids \[1, 8\] of 9999..9999"),
        ({"input_ids": np.ones((1, 8), np.int64), "attention_mask": np.ones((1, 9), np.int64)}, "it takes batch 1.."),
        ({"pixels": np.array(["a"])}, "'pixels' is an array of <U1, not of numbers"),
    ],
)
def test_a_sample_that_a_model_cannot_run_on_is_one_line_and_writes_nothing(tmp_path: Path, changed, message):
    model, samples = tiny_model()
    samples[1] = {**samples[1], **changed}
    with pytest.raises(CaptureError, match=f"^sample 1: .*{message}") as caught:
        capture_model(model, samples, tmp_path / "out", name="tiny", context=Context(tmp_path))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_signature_that_the_module_does_not_keep_is_refused():
    with pytest.raises(CaptureError, match="'y'"):
        capture_part(vector_part(nn.Linear(4, 4), outputs=("batch", 3, 1)), {"x": torch.ones(2, 4)})


def test_a_dimension_of_one_size_is_exported_as_fixed():
    part = vector_part(nn.Linear(4, 4), dims={"batch": DimRange(1, 1, 1)})
    capture_part(part, {"x": torch.ones(1, 4)})


def tiny_model() -> tuple[Model, list[dict[str, np.ndarray]]]:
    model = Model(
        "dual_encoder",
        [image_part(), text_part()],
        inputs={"pixels": TensorInput("pixels"), "text": TextInput("elsewhere.json", 8)},
        outputs={"image_embedding": Embedding(), "text_embedding": Embedding()},
    )
    model.tokenizer_json = "{}"
    samples = [{"pixels": pixels(1, seed=i), **tokens(1, seed=i)} for i in range(3)]
    return model, samples


def test_a_captured_model_is_a_bundle_that_opens_and_runs_like_the_model(tmp_path: Path):
    model, samples = tiny_model()
    capture_model(model, samples, tmp_path / "out", name="tiny", context=Context(tmp_path))
    made = Bundle.open(tmp_path / "out").run(samples[0])
    with torch.no_grad():
        expected = model.eval()({k: torch.from_numpy(v) for k, v in samples[0].items()})
    for name in model.outputs:
        assert largest_difference(made[name], expected[name].numpy()) < 1e-4


def test_capture_leaves_nothing_behind_when_it_fails_and_never_overwrites(tmp_path: Path):
    model, samples = tiny_model()
    with pytest.raises(CaptureError, match="part 'text': no sample has"):
        capture_model(model, [{"pixels": pixels(1)}], tmp_path / "out", name="tiny", context=Context(tmp_path))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    with pytest.raises(BundleError, match="exists already"):
        capture_model(model, samples, tmp_path / "out", name="tiny", context=Context(tmp_path))


class Unsteady(nn.Module):
    """Divides by what it sees: infinite where it sees nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.inverse = Inverse()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inverse(self.first(x))


class Inverse(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 1 / (x * 0)


def test_nan_or_infinity_is_refused_with_the_weight_or_module_that_brings_it():
    broken = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with torch.no_grad():
        broken[1].weight[2, 3] = float("nan")
    for module, message in (
        (broken, r"the weight '1.weight' holds nan \(1 of 16 numbers\), so its outputs do \(y\)"),
        (Unsteady(), r"'y' holds infinity on real samples; 'inverse' \(Inverse\) is the first module that makes it"),
    ):
        with pytest.raises(CaptureError, match=message):
            capture_part(vector_part(module), {"x": torch.ones(2, 4)})
