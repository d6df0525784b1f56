"""FramesCnn: a tower for the frames of a video: one convolutional encoder for every frame, and the mean over time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from edgemm.models.structure import Structure
from edgemm.runtime.errors import ModelError


class FramesCnn(nn.Module):
    """3 x 3 convolutions of stride 2 with batch norm and ReLU over each frame, its mean, and a linear layer.

    Args:
        shape: of one sample, (frames, height, width, channels).
        hidden: channels of the convolutions.
        features: width of the linear layer.
        output: ``"pooled"``: (batch, features), the mean over frames; ``"tokens"``: (batch, frames, features).

    Raises:
        ModelError: a shape of other than four sizes.
    """

    def __init__(
        self, *, shape: Sequence[int], hidden: Sequence[int] = (128,), features: int = 128, output: str = "pooled"
    ) -> None:
        super().__init__()
        if len(shape) != 4:
            raise ModelError(f"frames-cnn: shape {list(shape)}; expected [frames, height, width, channels]")
        self.pool = output == "pooled"
        self.norm = nn.BatchNorm2d(shape[-1], affine=False)  # 0 to 255 or 0 to 1: the data's mean and spread
        widths = [shape[-1], *hidden]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in itertools.pairwise(widths)
        )
        self.last = nn.Linear(widths[-1], features)

    def forward(self, frames: Tensor) -> Tensor:
        """(B, frames, height, width, channels) float32 to features."""
        x: Tensor = self.norm(frames.flatten(0, 1).permute(0, 3, 1, 2))
        for layer in self.hidden:
            x = layer(x)
        x = self.last(x.mean((2, 3)))
        x = x.reshape(-1, frames.shape[1], x.shape[-1])
        return x.mean(1) if self.pool else x

    def structure(self) -> Structure:
        """Return the channels of its convolutions; see ``edgemm.models.structure``."""
        return Structure(ends=(self.last,))
