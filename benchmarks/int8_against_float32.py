"""Int8 against float32 on both CPU engines, with fixed and free shapes: no row may be slower without a word.

EfficientNet-Lite0 and MiniLM-L6 with their weights; a ViT, an audio spectrogram transformer, an LSTM, a GRU and an MLP
drawn with seed 0 (latency doesn't depend on the values of weights). One sample at a time, calls in turns, in a process
of their own; the interval is of the paired ratio. What int8 means in a row is counted in the graph.

    python benchmarks/int8_against_float32.py [MODEL …] [--threads 1] [--rounds 101] [--engine onnxruntime|openvino]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import torch
from quantizer import Feeds, at, fixed, image_feeds, image_tower, text_feeds, text_tower
from torch import nn

from edgemm.graph.capture import capture_part
from edgemm.graph.census import arithmetic_of
from edgemm.graph.quantize import Quantization, quantize_onnx
from edgemm.graph.race import latency_ratio
from edgemm.models.model import Part
from edgemm.runtime.arithmetic import precision_label
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

CALIBRATION = 16
BATCH = DimRange(1, 1, 8)


class Output(nn.Module):
    """One named output of a Hugging Face model."""

    def __init__(self, model: nn.Module, output: str) -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, …) to (B, …)."""
        return getattr(self.model(x), self.output)  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """A recurrent layer over time, its mean, and a linear layer."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, 12)."""
        return self.head(self.layer(x)[0].mean(1))  # type: ignore[no-any-return]


def vit() -> nn.Module:
    """Six layers of width 192 over 196 patches (DeiT-Ti, halved)."""
    from transformers import ViTConfig, ViTModel

    sizes = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
    return Output(ViTModel(ViTConfig(**sizes), add_pooling_layer=True), "pooler_output")


def ast() -> nn.Module:
    """Four layers of width 256 over a spectrogram of 128 frames."""
    from transformers import ASTConfig, ASTModel

    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    return Output(ASTModel(ASTConfig(**sizes, max_length=128, num_mel_bins=64)), "pooler_output")


def mlp() -> nn.Module:
    """Three layers over a vector of sensors."""
    return nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))


DRAWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "vit": (vit, (3, 224, 224)),
    "ast": (ast, (128, 64)),
    "lstm": (lambda: Recurrent(nn.LSTM(64, 128, batch_first=True, bidirectional=True), 256), (50, 64)),
    "gru": (lambda: Recurrent(nn.GRU(64, 128, batch_first=True), 128), (50, 64)),
    "mlp": (mlp, (256,)),
}
MODELS = ("efficientnet", "minilm", *DRAWN)


def part_and_feeds(name: str) -> tuple[Part, Feeds]:
    """A model with free shapes, and samples."""
    if name == "efficientnet":
        return image_tower(), image_feeds(None, CALIBRATION + 1)
    if name == "minilm":
        return text_tower(), text_feeds(None, CALIBRATION + 1)
    torch.manual_seed(0)
    build, shape = DRAWN[name]
    module = build().eval()
    x = np.random.default_rng(0).standard_normal((CALIBRATION + 1, *shape)).astype(np.float32)
    with torch.no_grad():
        made = module(torch.from_numpy(x[:1]))
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", *shape)),),
        (TensorSpec("y", "float32", ("batch", *made.shape[1:])),),
        {"batch": BATCH},
    )
    return Part(name, "tower", None, name, {}, signature, module), {"x": x}


def main() -> None:
    """See the file's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--engine", action="append", choices=("onnxruntime", "openvino"))
    given = parser.parse_args()
    for name in given.models or MODELS:
        free, feeds = part_and_feeds(name)
        for shapes, part in (("fixed", fixed(free, feeds)), ("free", free)):
            rows = 1 if shapes == "fixed" else 2
            float32 = capture_part(part, {n: torch.from_numpy(a[:rows]) for n, a in feeds.items()}, max_abs_error=1e-3)
            before = ir.to_proto(float32).SerializeToString()
            for engine in given.engine or ("onnxruntime", "openvino"):
                samples = (at(feeds, i) for i in range(CALIBRATION))
                int8 = quantize_onnx(float32, samples, Quantization(engine=engine))
                after = ir.to_proto(int8).SerializeToString()
                feed = at(feeds, CALIBRATION)
                label = precision_label("int8", [arithmetic_of(int8, feed, float32_bytes=len(before))])
                ratio = latency_ratio(
                    after, before, feed, engine=engine, threads=given.threads, what=name, rounds=given.rounds
                )
                time = f"{ratio.value:5.2f} of float32's time [{ratio.low:.2f}, {ratio.high:.2f}] {ratio.verdict:14}"
                smaller = f"{len(before) / len(after):5.2f} x smaller"
                print(f"{name:13}{shapes:6}{engine:12}{time}{smaller}  {label}", flush=True)


if __name__ == "__main__":
    main()
