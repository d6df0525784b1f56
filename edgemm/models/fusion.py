"""Fusions: the features of several modalities become one vector, which the head answers from.

``edgemm.recipe.fusions`` is the table of them. Each takes ``widths`` (modality -> width of its features, in the order
of its inputs) and those options of the recipe's section that its constructor names; ``out_width`` says how wide its
result is, ``takes`` whether it wants pooled features (B, W), tokens (B, N, W), or whatever there is. To add one: a
subclass of ``Fusion`` and a line in the table.

Rows of tokens that are all zero are padding, which towers that put out tokens leave there.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from edgemm.models.text import Layer
from edgemm.recipe import FUSIONS
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import ModelError

Takes = Literal["pooled", "tokens", "either"]


class Fusion(nn.Module):
    """What every fusion says of itself."""

    takes: Takes = "pooled"
    out_width: int


class _Sides(Fusion):
    """What fusions of pooled features share: every side normalised on request, projected and squashed by tanh."""

    def __init__(self, widths: Mapping[str, int], *, width: int, norm: bool, dropout: float) -> None:
        super().__init__()
        self.out_width = width
        self.norms = nn.ModuleList(nn.LayerNorm(w) for w in widths.values()) if norm else None
        self.sides = nn.ModuleList(nn.Linear(w, width) for w in widths.values())
        self.dropout = nn.Dropout(dropout)

    def normalised(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each (B, W) to (B, W)."""
        if self.norms is None:
            return list(features)
        return [norm(x) for norm, x in zip(self.norms, features, strict=True)]

    def projected(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return each (B, W) to (B, width) in -1..1."""
        sides = zip(self.sides, self.normalised(features), strict=True)
        return [self.dropout(torch.tanh(side(x))) for side, x in sides]


class Concat(_Sides):
    """All sides beside each other: (B, sides * width)."""

    def __init__(self, widths: Mapping[str, int], *, width: int, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__(widths, width=width, norm=norm, dropout=dropout)
        self.out_width = len(widths) * width

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        return torch.cat(self.projected(features), dim=-1)


class Sum(_Sides):
    """Additive: (B, width)."""

    def __init__(self, widths: Mapping[str, int], *, width: int, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__(widths, width=width, norm=norm, dropout=dropout)

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        sides = self.projected(features)
        result = sides[0]
        for side in sides[1:]:
            result = result + side
        return result


class Mean(Sum):
    """The sum by the number of sides: (B, width)."""

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        result: Tensor = super().forward(*features) * (1 / len(features))
        return result


class Hadamard(_Sides):
    """The product of all sides: (B, width), or with ``concat`` the sides beside it: (B, (1 + sides) * width).

    Source: Kim et al. 2017, "Hadamard product for low-rank bilinear pooling".
    """

    def __init__(
        self, widths: Mapping[str, int], *, width: int, concat: bool = False, norm: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__(widths, width=width, norm=norm, dropout=dropout)
        self.concat = concat
        self.out_width = (1 + len(widths)) * width if concat else width

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        sides = self.projected(features)
        product = sides[0]
        for side in sides[1:]:
            product = product * side
        return torch.cat((product, *sides), dim=-1) if self.concat else product


class Gated(_Sides):
    """A sum in which all features together say, unit by unit, how much of each side is let through: (B, width).

    Source: Arevalo et al. 2017, "Gated multimodal units".
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__(widths, width=width, norm=norm, dropout=dropout)
        self.gates = nn.ModuleList(nn.Linear(sum(widths.values()), width) for _ in widths)

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        everything = torch.cat(self.normalised(features), dim=-1)
        sides = self.projected(features)
        gated = [torch.sigmoid(gate(everything)) * side for gate, side in zip(self.gates, sides, strict=True)]
        result = gated[0]
        for side in gated[1:]:
            result = result + side
        return result


class Hierarchical(_Sides):
    """Step by step: the first two sides, what came of them with the third, and so on: (B, width).

    Source: Majumder et al. 2018, "Multimodal sentiment analysis using hierarchical fusion".
    """

    def __init__(self, widths: Mapping[str, int], *, width: int, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__(widths, width=width, norm=norm, dropout=dropout)
        self.steps = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(len(widths) - 1))

    def forward(self, *features: Tensor) -> Tensor:
        """See the class."""
        first, *others = self.projected(features)
        for step, side in zip(self.steps, others, strict=True):
            first = self.dropout(torch.tanh(step(torch.cat((first, side), dim=-1))))
        return first


class CrossAttention(Fusion):
    """One modality's pooled feature looks at the tokens of each other: (B, (1 + 2 * others) * width).

    The pooled feature is the only query, so the cost grows with the others' tokens alone. Of each other modality there
    is what was seen, times the query and by itself; the query follows.
    """

    takes = "tokens"

    def __init__(
        self, widths: Mapping[str, int], *, width: int, query: str = "text", heads: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"fusion: width {width} is no multiple of heads {heads}")
        others = [w for name, w in widths.items() if name != query]
        self.place, self.head_dim = list(widths).index(query), width // heads
        self.out_width = (1 + 2 * len(others)) * width
        self.queries = nn.ModuleList(nn.Linear(widths[query], width) for _ in others)
        self.keys = nn.ModuleList(nn.Linear(w, width) for w in others)
        self.values = nn.ModuleList(nn.Linear(w, width) for w in others)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in others)
        self.side = nn.Linear(widths[query], width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, *features: Tensor) -> Tensor:
        """(B, W) of the query's modality and (B, N, W) or (B, W) of the others, in the order of ``widths``."""
        asks = features[self.place]
        side = self.dropout(torch.tanh(self.side(asks)))
        parts: list[Tensor] = []
        others = [x for i, x in enumerate(features) if i != self.place]
        for tokens, query, key, value, norm in zip(
            others, self.queries, self.keys, self.values, self.norms, strict=True
        ):
            seen = self._attended(query(asks), _as_tokens(tokens), key, value)
            seen = self.dropout(torch.tanh(norm(seen)))
            parts += [seen * side, seen]
        return torch.cat((*parts, side), dim=-1)

    def _attended(self, query: Tensor, tokens: Tensor, key: nn.Module, value: nn.Module) -> Tensor:
        q = query.unflatten(-1, (-1, self.head_dim))[:, :, None]  # type: ignore[no-untyped-call]  # (B, H, 1, D)
        k = key(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        v = value(tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-1, -2)) + _padding_bias(tokens)
        return torch.matmul(torch.softmax(scores, dim=-1), v).transpose(1, 2).flatten(1)  # (B, H, 1, D) -> (B, H * D)


class Early(Fusion):
    """All modalities' tokens in one transformer; what stands in front answers: (B, width).

    Source: Devlin et al. 2019, "BERT"; Li et al. 2019, "VisualBERT".
    """

    takes = "either"

    def __init__(
        self, widths: Mapping[str, int], *, width: int, layers: int = 2, heads: int = 8, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width % heads:
            raise ModelError(f"fusion: width {width} is no multiple of heads {heads}")
        self.out_width = width
        self.sides = nn.ModuleList(nn.Linear(w, width) for w in widths.values())
        self.kinds = nn.Parameter(torch.randn(len(widths), width) * 0.02)  # which modality a token is of
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, width // heads, 2 * width) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)

    def forward(self, *features: Tensor) -> Tensor:
        """(B, W) or (B, N, W) of each modality, in the order of ``widths``."""
        tokens = [_as_tokens(x) for x in features]
        # made of the features, so that the batch stays dynamic in ONNX
        first = tokens[0][:, :1, :1] * 0 + self.first
        bias = torch.cat((first[:, None, None, :, 0] * 0, *(_padding_bias(x) for x in tokens)), dim=-1)
        sides = [side(x) + self.kinds[i] for i, (side, x) in enumerate(zip(self.sides, tokens, strict=True))]
        x = self.dropout(self.norm(torch.cat((first, *sides), dim=1)))
        for layer in self.layers:
            x = layer(x, bias)
        result: Tensor = x[:, 0]
        return result


def _as_tokens(x: Tensor) -> Tensor:
    """(B, N, W) as it is, (B, W) as one token."""
    return x[:, None] if x.ndim == 2 else x


def _padding_bias(tokens: Tensor) -> Tensor:
    """(B, N, W) to an additive mask (B, 1, 1, N): 0, or -1e4 where all of a token is zero."""
    there = (tokens.abs().amax(-1) > 0).to(tokens.dtype)
    return ((there - 1.0) * 1e4)[:, None, None, :]


def fusion_class(mode: str) -> type[Fusion]:
    """Return what joins features in a mode of the table.

    Raises:
        ModelError: another mode, one in which nothing joins them, or a line that names nothing, or no fusion.
    """
    joining = {name: joining.made_by for name, joining in FUSIONS.items() if joining.made_by is not None}
    if mode not in joining:
        raise ModelError(f"fusion: mode '{mode}'; expected one of {', '.join(joining)}")
    made = resolve(joining[mode], what=f"fusion.mode '{mode}'")
    if not (isinstance(made, type) and issubclass(made, Fusion)):
        raise ModelError(f"fusion.mode '{mode}': '{joining[mode]}' is no class of edgemm.models.fusion:Fusion")
    return made


def fusion(*, mode: str, widths: Mapping[str, int], **options: object) -> Fusion:
    """Return the fusion of that mode, given those options that it takes (kind ``fusion``).

    Raises:
        ModelError: a mode that isn't in the table, or options that contradict each other.
    """
    made = fusion_class(mode)
    taken = inspect.signature(made).parameters
    return made(widths, **{name: value for name, value in options.items() if name in taken})
