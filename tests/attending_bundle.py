"""Small real models that attend: to a picture, a text and a sound, or to a picture that they embed; random weights."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from edgemm.data.dataset import Sample
from edgemm.graph.capture import capture_model
from edgemm.models.frontend import ImageFrontend
from edgemm.models.fusion import CrossAttention
from edgemm.models.model import Model, Part
from edgemm.models.text import Layer, TextTransformer
from edgemm.runtime.outputs import Embedding, answer_of
from edgemm.runtime.readers import AudioInput, ImageInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.stage import Context
from tests.bundles import WORDS, tokenizer_json

RATE, SAMPLES, FRAMES, WIDTH = 8000, 1600, 20, 16
LABELS = ("left", "right")
DIMS = {
    "batch": DimRange(1, 1, 8),
    "tokens": DimRange(1, 4, 8),
    "height": DimRange(8, 32, 64),
    "width": DimRange(8, 32, 64),
}


class Patches(nn.Module):
    """(B, 3, 32, 32) to 16 tokens (B, 16, WIDTH), each of its own 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, 8, 8)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.patch(pixels).flatten(2).transpose(1, 2)


class Frames(nn.Module):
    """(B, 1600) to (B, WIDTH): 20 frames through one transformer layer, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.frame = nn.Linear(SAMPLES // FRAMES, WIDTH)
        self.layer = Layer(WIDTH, 2, WIDTH // 2, 2 * WIDTH)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        x = self.frame(waveform.reshape(-1, FRAMES, SAMPLES // FRAMES))
        return self.layer(x, torch.zeros(1, 1, 1, 1)).mean(1)


class Embed(nn.Module):
    """Pixels to (B, WIDTH): 16 patches through one transformer layer, then their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.layer = Layer(WIDTH, 2, WIDTH // 2, 2 * WIDTH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(self.patches(pixels), torch.zeros(1, 1, 1, 1)).mean(1)


class Join(nn.Module):
    """The fused vector and the sound's features to logits, or to a value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = nn.Linear(4 * WIDTH, width)

    def forward(self, fused: torch.Tensor, audio_features: torch.Tensor) -> torch.Tensor:
        return self.out(torch.cat((fused, audio_features), dim=-1))


def spec(name: str, *shape: int | str, dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, dtype, shape)


def part(name: str, role: str, modality: str | None, module: nn.Module, ins: list[TensorSpec], out: TensorSpec) -> Part:
    named = {d for s in (*ins, out) for d in s.shape if isinstance(d, str)}
    signature = Signature(tuple(ins), (out,), {d: DIMS[d] for d in sorted(named)})
    return Part(name, role, modality, "test", {}, signature, module.eval())  # type: ignore[arg-type]


def attending_model(seed: int = 0, *, task: str = "single-label") -> Model:
    torch.manual_seed(seed)
    output, width = ("value", 1) if task == "regression" else ("logits", len(LABELS))
    text = TextTransformer(vocab=len(WORDS), layers=2, width=WIDTH, heads=2, max_tokens=8)
    fusion = CrossAttention({"image": WIDTH, "text": WIDTH}, width=WIDTH, heads=2)
    for module in (text, fusion):  # at their usual start all attention is even, and there would be nothing to see
        for weight in module.parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.6)
    ids = [
        spec("input_ids", "batch", "tokens", dtype="int64"),
        spec("attention_mask", "batch", "tokens", dtype="int64"),
    ]
    chain = [
        _frontend(),
        part("image", "tower", "image", Patches(), [spec("pixels", "batch", 3, 32, 32)],
             spec("image_features", "batch", 16, WIDTH)),
        part("text", "tower", "text", text, ids, spec("text_features", "batch", WIDTH)),
        part("audio", "tower", "audio", Frames(), [spec("waveform", "batch", SAMPLES)],
             spec("audio_features", "batch", WIDTH)),
        part("fusion", "fusion", None, fusion,
             [spec("image_features", "batch", 16, WIDTH), spec("text_features", "batch", WIDTH)],
             spec("fused", "batch", 3 * WIDTH)),
        part("head", "head", None, Join(width),
             [spec("fused", "batch", 3 * WIDTH), spec("audio_features", "batch", WIDTH)], spec(output, "batch", width)),
    ]  # fmt: skip
    inputs = {
        "image": ImageInput(),
        "text": TextInput("tokenizer.json", 8),
        "audio": AudioInput(sample_rate=RATE),
    }
    model = Model("fusion-classifier", chain, inputs=inputs, outputs={output: answer_of(task, LABELS)})
    model.tokenizer_json = tokenizer_json()
    return model


def attending_embedder(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    tower = Embed()
    for weight in tower.layer.attention.parameters():
        if weight.ndim == 2:
            nn.init.normal_(weight, std=0.6)
    chain = [
        _frontend(),
        part("image", "tower", "image", tower, [spec("pixels", "batch", 3, 32, 32)], spec("embedding", "batch", WIDTH)),
    ]
    return Model("embedder", chain, inputs={"image": ImageInput()}, outputs={"embedding": Embedding()})


def _frontend() -> Part:
    return part(
        "image_frontend", "frontend", "image", ImageFrontend(size=32),
        [spec("image", "batch", "height", "width", 3, dtype="uint8")], spec("pixels", "batch", 3, 32, 32),
    )  # fmt: skip


def raw_values(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Values of the raw inputs, batch first."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8),
        "input_ids": rng.integers(4, len(WORDS), (count, 5)),
        "attention_mask": np.ones((count, 5), np.int64),
        "waveform": rng.normal(0, 0.3, (count, SAMPLES)).astype(np.float32),
    }


def write_attending(folder: Path, *, seed: int = 0, task: str = "single-label") -> Path:
    """The model as a float32 bundle."""
    return _write(attending_model(seed, task=task), raw_values(2), folder)


def write_embedder(folder: Path, *, seed: int = 0) -> Path:
    """The embedder as a float32 bundle."""
    return _write(attending_embedder(seed), {"image": raw_values(2)["image"]}, folder)


def _write(model: Model, values: dict[str, np.ndarray], folder: Path) -> Path:
    capture_model(model, [values], folder, name="attending", context=Context(folder.parent / "scratch"))
    return folder


def attending_samples(folder: Path, count: int = 8) -> list[Sample]:
    """Noise as pictures and sounds, and sentences, with a label and a value each and two groups."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    samples = []
    for i in range(count):
        Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes((rng.normal(0, 6000, SAMPLES)).astype("<i2").tobytes())
        text = f"what is {rng.choice(['red', 'blue'])} {rng.choice(['cat', 'dog', 'sky'])} ?"
        samples.append(
            Sample(
                f"s{i}", image=folder / f"{i}.png", text=text, audio=folder / f"{i}.wav", label=LABELS[i % 2],
                value=i / 4, group="shown" if i % 2 else "hidden",
            )
        )  # fmt: skip
    return samples
