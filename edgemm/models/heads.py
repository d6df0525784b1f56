"""Projections and heads: the small parts behind towers and fusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.structure import Structure


def unit(x: Tensor) -> Tensor:
    """(B, D) to length 1 (zero stays zero); fewer operators in ONNX than ``F.normalize``, which clamps and expands."""
    result: Tensor = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-12)
    return result


class Projection(nn.Module):
    """Features to unit vectors of a joint space: linear, or linear plus a residual hidden layer.

    Args:
        hidden: width of the hidden layer; 0 for a plain linear projection.
    """

    def __init__(self, *, width: int, embed_dim: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, embed_dim)
        self.up = nn.Linear(width, hidden) if hidden else None
        self.down = nn.Linear(hidden, embed_dim) if hidden else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width) to unit vectors (B, embed_dim)."""
        x = self.linear(features)
        if self.up is not None and self.down is not None:
            x = x + self.down(self.dropout(F.gelu(self.up(features))))
        return unit(x)


class MlpHead(nn.Module):
    """Classifier or regressor: dropout and one linear layer, or two with ReLU between.

    Args:
        classes: outputs; 1 for a quantity.
        hidden: width of the hidden layer; 0 for a linear one.
        quantity: the layers answer in units of ``spread`` about ``mean``, which the head remembers: a step of training
            is as large for prices in cents as for years, and as small.
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, *, width: int, classes: int, hidden: int = 0, dropout: float = 0.0, quantity: bool = False
    ) -> None:
        super().__init__()
        self.quantity = quantity
        if quantity:
            self.register_buffer("mean", torch.zeros(1))
            self.register_buffer("spread", torch.ones(1))
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(hidden or width, classes)

    def forward(self, fused: Tensor) -> Tensor:
        """(B, width) to (B, classes)."""
        x = self.dropout(fused)
        if self.up is not None:
            x = self.dropout(F.relu(self.up(x)))
        result: Tensor = self.out(x)
        return result * self.spread + self.mean if self.quantity else result

    def structure(self) -> Structure | None:
        """Return the units of its hidden layer, where it has one; see ``edgemm.models.structure``."""
        return None if self.up is None else Structure(ends=(self.out,))

    def set_units_(self, mean: float, spread: float) -> None:
        """Answer about ``mean`` in units of ``spread``, where it is a quantity; units that were set before stay."""
        if self.quantity and self.mean == 0 and self.spread == 1:
            self.mean.fill_(mean)
            self.spread.fill_(spread)


class Decision(nn.Module):
    """Late fusion: every voice has decided for itself, and a learnt weight says how much each counts.

    One class of several: the log of the weighted mean of the voices' softmax. Independent classes and quantities: the
    weighted mean of their logits or values.

    Args:
        voices: how many decide.
        one_of_all: one class of several is right; else the classes are independent, or it is a quantity.

    Source: Kittler et al. 1998, "On combining classifiers" (sum rule).
    """

    def __init__(self, *, voices: int, one_of_all: bool = True) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(voices))
        self.one_of_all = one_of_all

    def forward(self, *decisions: Tensor) -> Tensor:
        """(B, classes) of each voice to (B, classes)."""
        weights = torch.softmax(self.weights, dim=0)
        if not self.one_of_all:
            return torch.stack([w * x for w, x in zip(weights.unbind(), decisions, strict=True)]).sum(0)
        mixed = torch.stack([w * torch.softmax(x, -1) for w, x in zip(weights.unbind(), decisions, strict=True)]).sum(0)
        return torch.log(mixed + 1e-9)
