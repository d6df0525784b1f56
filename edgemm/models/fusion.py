"""Projections, fusions of image and text features, and the classifier head: the small parts after the towers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.runtime.errors import ModelError

MODES = ("hadamard", "concat", "sum", "mean")


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


class Fusion(nn.Module):
    """Pooled image and text features to one vector.

    Both sides are projected to ``width`` and squashed by tanh, then multiplied (``hadamard``), joined
    (``concat``), added (``sum``) or averaged (``mean``). With ``concat`` a product keeps its two factors beside it.
    ``norm`` brings the features of both towers to one scale first, by LayerNorm.
    """

    def __init__(
        self,
        *,
        image_width: int,
        text_width: int,
        width: int,
        mode: str = "hadamard",
        concat: bool = False,
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ModelError(f"fusion: mode '{mode}'; expected one of {', '.join(MODES)}")
        self.mode, self.concat = mode, concat
        self.image_norm = nn.LayerNorm(image_width) if norm else None
        self.text_norm = nn.LayerNorm(text_width) if norm else None
        self.image = nn.Linear(image_width, width)
        self.text = nn.Linear(text_width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, image_width) and (B, text_width) to (B, width), or to (B, 2 or 3 x width) where sides are joined."""
        if self.image_norm is not None and self.text_norm is not None:
            image_features, text_features = self.image_norm(image_features), self.text_norm(text_features)
        image = self.dropout(torch.tanh(self.image(image_features)))
        text = self.dropout(torch.tanh(self.text(text_features)))
        if self.mode == "concat":
            return torch.cat((image, text), dim=-1)
        if self.mode == "hadamard":
            product: Tensor = image * text
            return torch.cat((product, image, text), dim=-1) if self.concat else product
        added: Tensor = image + text
        return added if self.mode == "sum" else added * 0.5


class CrossAttentionFusion(nn.Module):
    """The text feature looks at image tokens: one multi-head cross-attention layer, then a gated product.

    The pooled text is the only query, so its cost grows with the image's positions alone.
    """

    def __init__(self, *, image_width: int, text_width: int, width: int, heads: int = 8, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"fusion: width {width} is no multiple of heads {heads}")
        self.head_dim = width // heads
        self.query = nn.Linear(text_width, width)
        self.key = nn.Linear(image_width, width)
        self.value = nn.Linear(image_width, width)
        self.text = nn.Linear(text_width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, N, image_width) and (B, text_width) to (B, 3 x width): attended x text, attended, text."""
        q = self.query(text_features)[:, None, :].unflatten(-1, (-1, self.head_dim)).transpose(1, 2)  # (B, H, 1, D)
        k = self.key(image_features).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v = self.value(image_features).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        weights = torch.softmax(torch.matmul(q * self.head_dim**-0.5, k.transpose(-1, -2)), dim=-1)
        seen = torch.matmul(weights, v).transpose(1, 2).flatten(1)  # (B, H, 1, D) -> (B, H * D)
        seen = self.dropout(torch.tanh(self.norm(seen)))
        text = self.dropout(torch.tanh(self.text(text_features)))
        return torch.cat((seen * text, seen, text), dim=-1)


class MlpHead(nn.Module):
    """Classifier: dropout and one linear layer, or two with ReLU between.

    Args:
        hidden: width of the hidden layer; 0 for a linear classifier.
    """

    def __init__(self, *, width: int, classes: int, hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(width, hidden) if hidden else None
        self.out = nn.Linear(hidden or width, classes)

    def forward(self, fused: Tensor) -> Tensor:
        """(B, width) to logits (B, classes)."""
        x = self.dropout(fused)
        if self.up is not None:
            x = self.dropout(F.relu(self.up(x)))
        result: Tensor = self.out(x)
        return result
