"""EfficientNet-Lite: the image tower of teacher and student, written out so that it exports and prunes cleanly.

Mobile inverted bottlenecks without squeeze-and-excitation, ReLU6, batch norm; TensorFlow's "SAME" padding, so
that the published weights give the published numbers.
Source: Tan and Le 2019, "EfficientNet"; the Lite variants are Google's, in tensorflow/tpu.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.heads import unit
from edgemm.models.structure import Structure
from edgemm.runtime.errors import ModelError

KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
BLOCKS = (1, 2, 2, 3, 3, 4, 1)
CHANNELS = (16, 24, 40, 80, 112, 192, 320)
EXPAND = (1, 6, 6, 6, 6, 6, 6)


def scaled_channels(channels: int, width: float) -> int:
    """Channels times ``width``, rounded to a multiple of 8 and never more than 10 % below."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's "SAME" padding: the odd pixel goes right and below."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        vertical, horizontal = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            for size, stride, kernel in zip(input.shape[2:], self.stride, self.kernel_size, strict=True)
        )
        if vertical % 2 or horizontal % 2:
            input = F.pad(
                input, [horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2]
            )
            return F.conv2d(input, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        padding = (vertical // 2, horizontal // 2)
        return F.conv2d(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    # 0.1 and not TensorFlow's 0.01: distilling takes hundreds of steps, and must forget the statistics it inherits
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.1)


class MBConv(nn.Module):
    """Expand (1x1), depthwise (k x k), project (1x1), and the shortcut where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = inputs * expand
        self.expand: nn.Module | None = None
        if expand != 1:
            self.expand = nn.Sequential(nn.Conv2d(inputs, hidden, 1, bias=False), _norm(hidden), nn.ReLU6())
        self.depthwise = nn.Sequential(
            SameConv(hidden, hidden, kernel, stride, groups=hidden, bias=False), _norm(hidden), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, outputs, 1, bias=False), _norm(outputs))
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(x if self.expand is None else self.expand(x)))
        return x + y if self.shortcut else y


class EfficientNetLite(nn.Module):
    """Image tower: (batch, 3, S, S) float32 pixels to features, or to a unit vector of ``embed_dim``.

    Args:
        stem: channels after the first convolution.
        blocks, channels, expand: per stage; fewer than 7 leaves the last stages out.
        features: channels of the last 1x1 convolution, which is the feature width.
        output: ``"pooled"``: (batch, features); ``"tokens"``: (batch, positions, features).
        embed_dim: add a linear projection and L2 normalisation (pooled only).
        inputs: channels of what it sees.
    """

    def __init__(
        self,
        *,
        stem: int = 32,
        blocks: Sequence[int] = BLOCKS,
        channels: Sequence[int] = CHANNELS,
        expand: Sequence[int] = EXPAND,
        features: int = 1280,
        output: str = "pooled",
        embed_dim: int | None = None,
        inputs: int = 3,
    ) -> None:
        super().__init__()
        if not len(blocks) == len(channels) == len(expand) or not 1 <= len(blocks) <= len(KERNELS):
            raise ModelError(
                f"image tower: blocks, channels and expand must name the same 1 to {len(KERNELS)} stages; "
                f"got {len(blocks)}, {len(channels)} and {len(expand)}"
            )
        if output == "tokens" and embed_dim is not None:
            raise ModelError('image tower: output "tokens" has no single vector to project; leave embed_dim out')
        self.output = output
        self.stem = nn.Sequential(SameConv(inputs, stem, 3, 2, bias=False), _norm(stem), nn.ReLU6())
        width = stem
        self.stages = nn.ModuleList()
        for i, (count, outputs) in enumerate(zip(blocks, channels, strict=True)):
            stage = nn.Sequential()
            for j in range(count):
                stride = STRIDES[i] if j == 0 else 1
                stage.append(MBConv(width, outputs, kernel=KERNELS[i], stride=stride, expand=expand[i]))
                width = outputs
            self.stages.append(stage)
        self.last = nn.Sequential(nn.Conv2d(width, features, 1, bias=False), _norm(features), nn.ReLU6())
        self.projection = nn.Linear(features, embed_dim) if embed_dim is not None else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def feature_map(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, features, S / 32, S / 32)."""
        x = self.stem(pixels)
        for stage in self.stages:
            x = stage(x)
        result: Tensor = self.last(x)
        return result

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 to (B, features), (B, N, features), or unit vectors (B, embed_dim)."""
        if self.output == "tokens":
            return self.feature_map(pixels).flatten(2).transpose(1, 2)  # (B, C, H, W) -> (B, N, C)
        x = self.pooled(pixels)
        return x if self.projection is None else unit(self.projection(x))

    def pooled(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 to (B, features), before any projection."""
        return self.feature_map(pixels).mean((2, 3))

    def structure(self) -> Structure:
        """Return all channels but those of what it gives; see ``edgemm.models.structure``."""
        return Structure(ends=(self.last[0] if self.projection is None else self.projection,))


class AudioCnn(EfficientNetLite):
    """Sound tower: (batch, mels, frames) float32 log-mel, seen as a picture of one channel.

    Args:
        sizes: EfficientNetLite's keyword arguments.

    Source: Hershey et al. 2017, "CNN architectures for large-scale audio classification".
    """

    def __init__(self, **sizes: Any) -> None:
        super().__init__(inputs=1, **sizes)

    def feature_map(self, pixels: Tensor) -> Tensor:
        """(B, mels, frames) to (B, features, mels / 32, frames / 32)."""
        return super().feature_map(pixels[:, None])


def tower_config(
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stem: int | None = None,
    blocks: Sequence[int] | None = None,
    channels: Sequence[int] | None = None,
    expand: Sequence[int] | None = None,
    features: int | None = None,
    output: str = "pooled",
) -> dict[str, object]:
    """Keyword arguments of ``EfficientNetLite`` from multipliers or explicit lists.

    As in the Lite models, stem, features and the depth of the first and the last stage don't scale.
    """
    count = len(blocks or channels or BLOCKS)
    if blocks is None:
        ends = (0, len(BLOCKS) - 1)
        blocks = [n if i in ends else math.ceil(depth * n) for i, n in enumerate(BLOCKS)][:count]
    if channels is None:
        channels = [scaled_channels(c, width) for c in CHANNELS][:count]
    return {
        "stem": stem or 32,
        "blocks": list(blocks),
        "channels": list(channels),
        "expand": list(expand or EXPAND[:count]),
        "features": features or 1280,
        "output": output,
    }


def state_from_package(state: Mapping[str, Tensor], blocks: Sequence[int]) -> dict[str, Tensor]:
    """Return the state dict of ``efficientnet-lite-pytorch``, under our names, without its 1000-class layer.

    Raises:
        ModelError: a key that EfficientNet-Lite doesn't have.
    """
    place = [(i, j) for i, count in enumerate(blocks) for j in range(count)]
    rows = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    ends = {"_conv_stem": "stem.0", "_bn0": "stem.1", "_conv_head": "last.0", "_bn1": "last.1"}
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith("_fc."):
            continue
        match = re.fullmatch(r"_blocks\.(\d+)\.(_\w+)\.(\w+)", key)
        if match and int(match[1]) < len(place) and match[2] in rows:
            i, j = place[int(match[1])]
            name = rows[match[2]]
            if i == 0 and EXPAND[0] == 1 and j == 0 and match[2] in ("_expand_conv", "_bn0"):
                raise ModelError(f"image weights: unexpected '{key}'; expected an EfficientNet-Lite state dict")
            found[f"stages.{i}.{j}.{name}.{match[3]}"] = value
            continue
        head, _, tail = key.rpartition(".")
        if head not in ends:
            raise ModelError(f"image weights: unexpected '{key}'; expected an EfficientNet-Lite state dict")
        found[f"{ends[head]}.{tail}"] = value
    return found


def load_package_weights_(tower: EfficientNetLite, state: Mapping[str, Tensor]) -> None:
    """Load the package's state dict into ``tower`` (all but its projection), in place.

    Raises:
        ModelError: the checkpoint is of another architecture or width.
    """
    blocks = [len(stage) for stage in tower.stages]  # type: ignore[arg-type]
    found = state_from_package(state, blocks)
    wanted = {k: v for k, v in tower.state_dict().items() if not k.startswith("projection.")}
    if missing := sorted(wanted.keys() - found.keys()):
        raise ModelError(f"image weights: '{missing[0]}' and {len(missing) - 1} more are missing from the checkpoint")
    if extra := sorted(found.keys() - wanted.keys()):
        raise ModelError(f"image weights: the tower has no '{extra[0]}' ({len(extra)} such); is it of another depth?")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"image weights: '{name}' is {list(value.shape)} in the checkpoint, {list(wanted[name].shape)} in the "
                "tower; use width = 1.0 and the checkpoint's own stages"
            )
    with torch.no_grad():
        tower.load_state_dict(found, strict=False)
