"""What is pruned from a transformer: units and heads that add nothing go first, and the answer stays."""

from __future__ import annotations

import pytest
import torch

from edgemm.compress.structure import prune_part_
from edgemm.models.model import Part
from edgemm.models.text import TextTransformer
from edgemm.runtime.errors import ModelError
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

IDS = torch.tensor([[5, 6, 7, 8]])
MASK = torch.ones_like(IDS)


def text_part() -> Part:
    """One layer, 4 heads of 8, 64 units; the last two heads and the last 32 units give nothing."""
    torch.manual_seed(0)
    module = TextTransformer(vocab=20, layers=1, width=32, heads=4, ffn=64, max_tokens=8, embed_dim=8).eval()
    (layer,) = module.structure().layers
    with torch.no_grad():
        layer.down.weight[:, 32:] = 0
        layer.up.weight[32:] = 0
        layer.up.bias[32:] = 0
        for linear in (layer.attention.query, layer.attention.key, layer.attention.value):
            linear.weight[16:] = 0
            linear.bias[16:] = 0
        layer.attention.out.weight[:, 16:] = 0
    tokens = tuple(TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask"))
    made = (TensorSpec("text_embedding", "float32", ("batch", 8)),)
    signature = Signature(tokens, made, {"batch": DimRange(1, 1, 4), "tokens": DimRange(1, 4, 8)})
    return Part("text", "tower", "text", "text-transformer", {}, signature, module)


def test_heads_and_units_that_give_nothing_are_what_goes() -> None:
    part = text_part()
    with torch.no_grad():
        before = part.module(IDS, MASK)
        prune_part_(part, (IDS, MASK), ratio=0.5, importance="l2", round_to=8, floor=0.1)
        after = part.module(IDS, MASK)
    (layer,) = part.module.structure().layers
    assert (layer.attention.heads, layer.up.out_features, layer.down.in_features) == (2, 32, 32)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)


def test_no_layer_keeps_less_than_the_floor() -> None:
    part = text_part()
    prune_part_(part, (IDS, MASK), ratio=0.9, importance="l2", round_to=8, floor=0.75)
    (layer,) = part.module.structure().layers
    assert (layer.attention.heads, layer.up.out_features) == (3, 48)


def test_a_part_of_nothing_that_can_be_cut_is_named() -> None:
    part = text_part()
    plain = Part("plain", "head", None, "linear", {}, part.signature, torch.nn.Linear(4, 4))
    with pytest.raises(ModelError, match="part 'plain' of kind 'linear' has no channels to remove"):
        prune_part_(plain, (torch.zeros(1, 4),), ratio=0.5, importance="l2", round_to=8, floor=0.1)
