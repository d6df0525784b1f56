"""TextTransformer: a BERT-compatible text tower whose heads and feed-forward layers are explicit.

Written out so that it exports to few operators, prunes with torch-pruning (four plain linears per layer) and
loads MiniLM and other BERT checkpoints unchanged. Source: Devlin et al. 2019, "BERT" (post-norm encoder).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.heads import unit
from edgemm.models.sentence import POOLINGS, pooled
from edgemm.models.structure import Structure
from edgemm.runtime.errors import ModelError


class Attention(nn.Module):
    """Multi-head self-attention with separate query, key and value linears."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.query = nn.Linear(width, heads * head_dim)
        self.key = nn.Linear(width, heads * head_dim)
        self.value = nn.Linear(width, heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, W) and an additive (B, 1, 1, T) mask to (B, T, W)."""
        # (B, T, H * D) -> (B, H, T, D); -1 keeps the head count right after pruning whole heads
        q, k, v = (f(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for f in (self.query, self.key, self.value))
        scores = torch.matmul(q * self.head_dim**-0.5, k.transpose(-1, -2)) + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), v)
        result: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, H, T, D) -> (B, T, H * D)
        return result


class Layer(nn.Module):
    """One post-norm transformer layer: attention and feed-forward, each with shortcut and LayerNorm."""

    def __init__(self, width: int, heads: int, head_dim: int, ffn: int, *, eps: float = 1e-12) -> None:
        super().__init__()
        self.attention = Attention(width, heads, head_dim)
        self.attention_norm = nn.LayerNorm(width, eps=eps)
        self.up = nn.Linear(width, ffn)
        self.down = nn.Linear(ffn, width)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """(B, T, W) to (B, T, W)."""
        x = self.attention_norm(x + self.attention(x, bias))
        result: Tensor = self.ffn_norm(x + self.down(F.gelu(self.up(x))))
        return result


class TextTransformer(nn.Module):
    """Text tower: ids and mask to a pooled feature, to tokens, or to a unit vector of ``embed_dim``.

    Args:
        vocab: rows of the word table.
        max_tokens: rows of the position table; longer inputs are an error of the caller.
        embedding_rank: factorise the word table into (vocab, rank) and (rank, width).
        output: ``"pooled"``: (batch, width); ``"tokens"``: (batch, tokens, width), padding set to zero.
        embed_dim: add a linear projection and L2 normalisation (pooled only).
        pooling: of ``edgemm.models.sentence.POOLINGS``; BERT has all its tokens' mean where nobody says otherwise.
        norm_eps: of every LayerNorm.
    """

    def __init__(
        self,
        *,
        vocab: int,
        layers: int = 6,
        width: int = 384,
        heads: int = 12,
        head_dim: int | None = None,
        ffn: int | None = None,
        max_tokens: int = 32,
        embedding_rank: int | None = None,
        output: str = "pooled",
        embed_dim: int | None = None,
        pooling: str = "mean",
        norm_eps: float = 1e-12,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ModelError(f"text tower: pooling '{pooling}'; expected {', '.join(POOLINGS)}")
        if head_dim is None and width % heads:
            raise ModelError(f"text tower: width {width} is no multiple of heads {heads}; change one of them")
        if output == "tokens" and embed_dim is not None:
            raise ModelError('text tower: output "tokens" has no single vector to project; leave embed_dim out')
        head_dim = head_dim or width // heads
        self.max_tokens, self.output, self.pooling = max_tokens, output, pooling
        self.words = nn.Embedding(vocab, embedding_rank or width)
        self.widen = nn.Linear(embedding_rank, width, bias=False) if embedding_rank else None
        self.positions = nn.Parameter(torch.zeros(max_tokens, width))
        self.norm = nn.LayerNorm(width, eps=norm_eps)
        self.layers = nn.ModuleList(
            Layer(width, heads, head_dim, ffn or 4 * width, eps=norm_eps) for _ in range(layers)
        )
        self.projection = nn.Linear(width, embed_dim) if embed_dim is not None else None
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.positions, std=0.02)
        if self.widen is not None:  # the product of the two tables should start as large as one table would
            nn.init.normal_(self.widen.weight, std=(embedding_rank or 1) ** -0.5)

    def tokens(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) int64 ids and (B, T) float32 mask to (B, T, W)."""
        x: Tensor = self.words(input_ids)
        if self.widen is not None:
            x = self.widen(x)
        x = self.norm(x + self.positions[: input_ids.shape[1]])
        # -1e4 is past softmax's float16 floor and still inside float16's range
        bias = ((mask - 1.0) * 1e4)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        return x

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) int64 ids and mask to (B, W), (B, T, W), or unit vectors (B, embed_dim); at least one token each."""
        if self.output == "tokens":
            mask = attention_mask.to(self.positions.dtype)
            return self.tokens(input_ids, mask) * mask[:, :, None]
        x = self.pooled(input_ids, attention_mask)
        return x if self.projection is None else unit(self.projection(x))

    def pooled(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, T) int64 ids and mask to (B, W), ``pooling`` of the real tokens, before any projection."""
        mask = attention_mask.to(self.positions.dtype)
        return pooled(self.tokens(input_ids, mask), mask, [self.pooling])

    def structure(self) -> Structure:
        """Return its layers' heads and feed-forward units; see ``edgemm.models.structure``."""
        return Structure(layers=tuple(self.layers))


_LAYER_NAMES = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.out",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "ffn_norm",
}


def state_from_bert(state: Mapping[str, Tensor], *, max_tokens: int) -> dict[str, Tensor]:
    """Return a Hugging Face BERT state dict under our names; token type 0 is folded into the positions.

    The encoder may lie inside a larger model (``bert.``, ``model.bert.``), and the first checkpoints call LayerNorm's
    weights gamma and beta.

    Raises:
        ModelError: a key that a BERT encoder doesn't have, one missing, or several encoders.
    """
    found: dict[str, Tensor] = {}
    prefix = _encoder_prefix(state)
    plain = {_modern(key.removeprefix(prefix)): value for key, value in state.items() if key.startswith(prefix)}
    try:
        positions = plain.pop("embeddings.position_embeddings.weight")
        types = plain.pop("embeddings.token_type_embeddings.weight")
        found["words.weight"] = plain.pop("embeddings.word_embeddings.weight")
        found["norm.weight"] = plain.pop("embeddings.LayerNorm.weight")
        found["norm.bias"] = plain.pop("embeddings.LayerNorm.bias")
    except KeyError as error:
        raise ModelError(f"text weights: {error} is missing; expected a BERT encoder's state dict") from error
    if max_tokens > len(positions):
        raise ModelError(f"text tower: max_tokens is {max_tokens}, but the weights know {len(positions)} positions")
    found["positions"] = positions[:max_tokens] + types[0]
    for key, value in plain.items():
        if not key.startswith(("embeddings.", "encoder.")) or key == "embeddings.position_ids":
            continue  # a pooler, or the head of the task that it was trained for
        words = key.split(".")
        name = _LAYER_NAMES.get(".".join(words[3:-1]))
        if words[:2] != ["encoder", "layer"] or name is None:
            raise ModelError(f"text weights: unexpected '{key}'; expected a BERT encoder's state dict")
        found[f"layers.{words[2]}.{name}.{words[-1]}"] = value
    return found


def _encoder_prefix(state: Mapping[str, Tensor]) -> str:
    """Return what stands before a BERT encoder's own names. Raises ModelError where there are several encoders."""
    table = "embeddings.word_embeddings.weight"
    found = [key.removesuffix(table) for key in state if key.endswith(table)]
    if len(found) > 1:
        raise ModelError(
            f"text weights: there are {len(found)} encoders ({', '.join(sorted(found))}), expected one BERT"
        )
    return found[0] if found else ""


def _modern(key: str) -> str:
    for old, new in ((".gamma", ".weight"), (".beta", ".bias")):
        if key.endswith(f"LayerNorm{old}"):
            return key.removesuffix(old) + new
    return key


def load_bert_weights_(tower: TextTransformer, state: Mapping[str, Tensor]) -> None:
    """Load a BERT state dict into ``tower`` (all but its projection), in place.

    Raises:
        ModelError: the checkpoint is of another architecture or size.
    """
    found = state_from_bert(state, max_tokens=tower.max_tokens)
    wanted = {k: v for k, v in tower.state_dict().items() if not k.startswith("projection.")}
    if different := sorted(wanted.keys() ^ found.keys()):
        raise ModelError(
            f"text weights: '{different[0]}' and {len(different) - 1} more are in only one of checkpoint and tower; "
            "do layers and embedding_rank match?"
        )
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ModelError(
                f"text weights: '{name}' is {list(value.shape)} in the checkpoint, {list(wanted[name].shape)} in the "
                "tower; leave width, ffn and vocabulary out of the recipe to take the checkpoint's"
            )
    tower.load_state_dict(found, strict=False)
