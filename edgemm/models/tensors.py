"""TensorMlp: a tower for numbers given as they are: a sensor's vector, precomputed features, or a series of those."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from edgemm.runtime.errors import ModelError


class TensorMlp(nn.Module):
    """Linear layers with ReLU between, at each step of a series alike.

    Args:
        shape: of one sample, (width,) or (steps, width).
        hidden: widths of the layers before the last.
        features: width of the last.
        output: ``"pooled"``: (batch, features), the mean over steps; ``"tokens"``: (batch, steps, features).

    Raises:
        ModelError: a shape of more than two sizes.
    """

    def __init__(
        self, *, shape: Sequence[int], hidden: Sequence[int] = (128,), features: int = 128, output: str = "pooled"
    ) -> None:
        super().__init__()
        if len(shape) > 2:
            raise ModelError(
                f'tensor-mlp: shape {list(shape)}; expected [width] or [steps, width], or kind = "frames-cnn"'
            )
        self.pool = len(shape) == 2 and output == "pooled"
        self.norm = nn.BatchNorm1d(shape[-1], affine=False)  # numbers come in any scale: the data's mean and spread
        widths = [shape[-1], *hidden]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))
        self.last = nn.Linear(widths[-1], features)

    def forward(self, values: Tensor) -> Tensor:
        """(B, width) or (B, steps, width) float32 to features."""
        x: Tensor = self.norm(values.flatten(0, -2)).reshape(values.shape)
        for layer in self.hidden:
            x = nn.functional.relu(layer(x))
        x = self.last(x)
        return x.mean(1) if self.pool else x
