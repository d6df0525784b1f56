"""Small real parts for the graph tests: the towers that ship, at sizes that export in seconds."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from edgemm.models.model import Part
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

BATCH = DimRange(1, 1, 4)


class Convolutions(nn.Module):
    """Stem, depthwise separable block with shortcut, pooling, linear layer: every pattern of the image towers."""

    def __init__(self, size: int = 16, channels: int = 16, outputs: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU6())
        self.block = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.last = nn.Sequential(nn.Conv2d(channels, 2 * channels, 1), nn.ReLU())
        self.linear = nn.Linear(2 * channels, outputs)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        x = self.stem(pixels)
        x = self.last(x + self.block(x)).mean((2, 3))
        return nn.functional.normalize(self.linear(x), dim=-1)


def image_part(module: nn.Module | None = None, *, size: int = 16, outputs: int = 8) -> Part:
    torch.manual_seed(0)
    module = module or Convolutions(outputs=outputs)
    for m in module.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.3)
            m.running_var.uniform_(0.5, 2.0)
    signature = Signature(
        (TensorSpec("pixels", "float32", ("batch", 3, size, size)),),
        (TensorSpec("image_embedding", "float32", ("batch", outputs)),),
        {"batch": BATCH},
    )
    return Part("image", "tower", "image", "convolutions", {}, signature, module)


def text_part(*, vocab: int = 200, width: int = 32) -> Part:
    from edgemm.models.text import TextTransformer

    torch.manual_seed(0)
    module = TextTransformer(vocab=vocab, layers=1, width=width, heads=4, max_tokens=12, embed_dim=8)
    ids = TensorSpec("input_ids", "int64", ("batch", "tokens"))
    signature = Signature(
        (ids, TensorSpec("attention_mask", "int64", ("batch", "tokens"))),
        (TensorSpec("text_embedding", "float32", ("batch", 8)),),
        {"batch": BATCH, "tokens": DimRange(1, 8, 12)},
    )
    return Part("text", "tower", "text", "text_transformer", {}, signature, module)


def pixels(count: int, *, size: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3, size, size)).astype(np.float32)


def tokens(count: int, *, vocab: int = 200, length: int = 8, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = np.ones((count, length), np.int64)
    mask[::2, length // 2 :] = 0
    return {"input_ids": rng.integers(0, vocab, (count, length)), "attention_mask": mask}


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]
