"""Structured pruning of one part: channels of a CNN, feed-forward units and whole attention heads of a transformer.

torch-pruning's DepGraph finds what has to shrink together (a depthwise convolution with the two around it, all blocks
that one shortcut joins); attention heads are coupled by shape and not by edges, so they are cut here by hand.
Source: Fang et al. 2023, "DepGraph: Towards Any Structural Pruning"; importance: Molchanov et al. 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import Tensor, nn

from edgemm.models.model import Part
from edgemm.models.structure import CanBeCut
from edgemm.models.text import Attention, Layer
from edgemm.runtime.errors import ModelError
from edgemm.runtime.quiet import Quiet

_QUIET = Quiet(r"torch|edgemm\.")  # torch-pruning and what it traces


def prune_part_(
    part: Part, example: tuple[Tensor, ...], *, ratio: float, importance: str, round_to: int, floor: float
) -> None:
    """Remove a fraction of the structure inside ``part``, in place; what it takes and gives keeps its shape.

    Args:
        example: inputs of the part, batch of 1.
        ratio: fraction of the channels removed, over all layers together; 0 changes nothing.
        importance: ``"taylor"`` (needs gradients in the parameters) or ``"l2"``.
        round_to: widths stay multiples of this.
        floor: no layer keeps less than this fraction.

    Raises:
        ModelError: a kind of part that has nothing to remove.
    """
    if ratio == 0:
        return
    module = part.module
    found = module.structure() if isinstance(module, CanBeCut) else None
    if found is None:
        raise ModelError(
            f"prune.ratios: part '{part.name}' of kind '{part.kind}' has no channels to remove; expected a "
            "convolutional tower, a text tower of edgemm's own, a head with a hidden layer, or a module of your own "
            "with a method 'structure' (edgemm.models.structure)"
        )
    if found.ends:
        _prune_channels_(
            module, example, list(found.ends), ratio=ratio, importance=importance, round_to=round_to, floor=floor
        )
    if found.layers:
        _prune_feed_forward_(found.layers, ratio=ratio, importance=importance, round_to=round_to, floor=floor)
        for layer in found.layers:
            _prune_heads_(layer.attention, ratio=ratio, importance=importance, floor=floor)


def macs_and_parameters(part: Part, example: tuple[Tensor, ...]) -> tuple[int, int]:
    """Multiply-accumulates for ``example`` and number of parameters, as torch-pruning counts them."""
    with _QUIET:
        macs, _ = tp.utils.count_ops_and_params(part.module, example)
    return int(macs), sum(p.numel() for p in part.module.parameters())


def _prune_channels_(
    module: nn.Module,
    example: tuple[Tensor, ...],
    fixed: list[nn.Module],
    *,
    ratio: float,
    importance: str,
    round_to: int,
    floor: float,
) -> None:
    ranked = (
        tp.importance.GroupTaylorImportance() if importance == "taylor" else tp.importance.GroupMagnitudeImportance(p=2)
    )
    frozen = [p for p in module.parameters() if not p.requires_grad]
    for parameter in frozen:  # DepGraph traces through gradients
        parameter.requires_grad_(True)
    pruner = tp.pruner.BasePruner(
        module,
        example,
        importance=ranked,
        global_pruning=True,
        pruning_ratio=ratio,
        max_pruning_ratio=1 - floor,
        ignored_layers=fixed,
        round_to=round_to,
    )
    pruner.step()
    for parameter in frozen:
        parameter.requires_grad_(False)


def _saliency(weight: Tensor, importance: str) -> Tensor:
    """Importance of every weight, of the same shape: |gradient x weight|, or the square of the weight."""
    if importance == "l2":
        return weight.detach() ** 2
    assert weight.grad is not None, "taylor importance needs gradients"
    return (weight.detach() * weight.grad).abs()


def _prune_feed_forward_(
    layers: Sequence[Layer], *, ratio: float, importance: str, round_to: int, floor: float
) -> None:
    """Units of all feed-forward layers ranked together, so that a layer that matters less loses more."""
    scores = [
        _saliency(layer.up.weight, importance).sum(1) + _saliency(layer.down.weight, importance).sum(0)
        for layer in layers
    ]
    every = torch.cat(scores)
    threshold = torch.sort(every).values[min(int(ratio * len(every)), len(every) - 1)]
    for layer, score in zip(layers, scores, strict=True):
        width = len(score)
        kept = int((score >= threshold).sum())
        kept = max(kept, int(floor * width))
        kept = min(width, max(round_to, round(kept / round_to) * round_to))
        gone = torch.argsort(score)[: width - kept].tolist()
        if gone:
            tp.prune_linear_out_channels(layer.up, gone)
            tp.prune_linear_in_channels(layer.down, gone)


def _prune_heads_(attention: Attention, *, ratio: float, importance: str, floor: float) -> None:
    """Whole heads, so that those left keep their dimension; at least one stays."""
    size = attention.head_dim
    score = _saliency(attention.out.weight, importance).sum(0)
    for linear in (attention.query, attention.key, attention.value):
        score = score + _saliency(linear.weight, importance).sum(1)
    by_head = score.reshape(-1, size).sum(1)
    count = len(by_head)
    kept = max(1, round(count * max(floor, 1 - ratio)))
    heads = torch.argsort(by_head)[: count - kept]
    gone = (heads[:, None] * size + torch.arange(size)).flatten().tolist()
    if gone:
        for linear in (attention.query, attention.key, attention.value):
            tp.prune_linear_out_channels(linear, gone)
        tp.prune_linear_in_channels(attention.out, gone)
        attention.heads = kept
