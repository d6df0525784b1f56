"""Augmentation by parameters: drawn first, applied afterwards, so that a view is a few numbers and not pixels.

The parameters are relative to the image's side, so teacher and student can see the same view at different sizes,
and a view of the cached teacher can be made again from its number alone.
Source of the idea: Vasu et al. 2024, "MobileCLIP" (dataset reinforcement).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How far a view may be from its image.

    Args:
        zoom: scale is drawn log-uniformly from 1/(1+zoom) to 1+zoom, each side by itself up to a tenth of that more.
        shift: largest shift, as a fraction of the side.
        rotate: largest rotation, degrees.
        flip: probability of mirroring left to right.
        colour: largest change of brightness, contrast and saturation, each as a fraction.
        erase: largest side of one grey rectangle, as a fraction of the side.
    """

    zoom: float = 0.15
    shift: float = 0.08
    rotate: float = 8.0
    flip: float = 0.0
    colour: float = 0.2
    erase: float = 0.0

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Parameters of ``count`` views: (count, 13) float32."""
        u = torch.rand(count, 12, generator=generator) * 2 - 1
        mirrored = (torch.rand(count, 1, generator=generator) < self.flip).to(torch.float32)
        limits = torch.tensor(
            [
                torch.log1p(torch.tensor(self.zoom)).item(), 0.1 * self.zoom, self.shift, self.shift,
                self.rotate * torch.pi / 180, self.colour, self.colour, self.colour,
                1.0, 1.0, self.erase, self.erase,
            ]
        )  # fmt: skip
        return torch.cat((u * limits, mirrored), dim=1)


def identity(count: int) -> Tensor:
    """Parameters under which ``apply`` changes nothing: (count, 13) float32."""
    return torch.zeros(count, 13)


def apply(images: Tensor, parameters: Tensor) -> Tensor:
    """Return the views of ``images`` that ``parameters`` describe; what comes in from outside repeats the border.

    Args:
        images: (B, 3, H, W) float32 in 0..255.
        parameters: (B, 13) from ``Augmentation.draw`` or ``identity``.

    Returns:
        (B, 3, H, W) float32 in 0..255.
    """
    zoom, stretch, dx, dy, angle, bright, contrast, saturate, ex, ey, ew, eh, mirrored = parameters.T
    scale_x, scale_y = torch.exp(-zoom - stretch), torch.exp(-zoom + stretch)
    cos, sin = torch.cos(angle), torch.sin(angle)
    sign = 1 - 2 * mirrored
    theta = torch.stack(
        (
            torch.stack((cos * scale_x * sign, -sin * scale_y, 2 * dx), dim=1),
            torch.stack((sin * scale_x * sign, cos * scale_y, 2 * dy), dim=1),
        ),
        dim=1,
    )  # (B, 2, 3), from output to input coordinates in -1..1
    # one call per size keeps memory small; grid_sample is exact where theta is the identity
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    x = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    c = (slice(None), None, None, None)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * (1 + contrast[c]) + mean * (1 + bright[c])
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * (1 + saturate[c])
    if bool((ew != 0).any()):
        x = _erase(x, ex, ey, ew.abs(), eh.abs())
    return x.clamp(0.0, 255.0)


def _erase(x: Tensor, ex: Tensor, ey: Tensor, ew: Tensor, eh: Tensor) -> Tensor:
    height, width = x.shape[2:]
    across = torch.linspace(-1, 1, width)[None, :]
    down = torch.linspace(-1, 1, height)[None, :]
    inside_x = (across - ex[:, None]).abs() < ew[:, None]  # (B, W)
    inside_y = (down - ey[:, None]).abs() < eh[:, None]  # (B, H)
    inside = inside_y[:, None, :, None] & inside_x[:, None, None, :]  # (B, 1, H, W)
    return torch.where(inside, torch.full_like(x, 127.0), x)
