"""A smaller tower out of a larger one: layers by stride, widths by importance.

Evenly strided layers and channels ranked by importance beat "the first k". Source: Wu et al. 2023, "TinyCLIP"
(weight inheritance); the importance here is the L2 norm of the weights that make a channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edgemm.models.efficientnet import EfficientNetLite, MBConv
from edgemm.models.text import Layer, TextTransformer


def strided(count: int, of: int) -> list[int]:
    """``count`` indices spread evenly over ``range(of)``, first and last included; some twice if there are fewer."""
    if count == 1:
        return [0]
    return [min(round(i * (of - 1) / (count - 1)), of - 1) for i in range(count)]


def important(weight: Tensor, count: int) -> Tensor:
    """Return indices, ascending, of the ``count`` rows of the largest L2 norm; (rows, ...) to (count,) int64."""
    norms = weight.detach().flatten(1).norm(dim=1)
    return torch.sort(torch.topk(norms, min(count, len(norms))).indices).values


def inherit_text_(student: TextTransformer, teacher: TextTransformer, *, rows: Sequence[int]) -> None:
    """Copy the teacher's text tower into the smaller ``student``, in place.

    Width: dimensions of the largest norm in the word table. Heads: whole ones, by the norm of their output
    rows. Feed-forward: units by the norm of their input weights. A factorised word table gets the best
    approximation of its rank (truncated SVD).
    """
    width = student.norm.weight.shape[0]
    kept = important(teacher.words.weight.T if teacher.widen is None else teacher.widen.weight, width)
    count = min(len(student.positions), len(teacher.positions))
    with torch.no_grad():
        if len(kept) < width:  # a wider student has nothing to be copied from
            return
        table = teacher.words(torch.tensor(list(rows)))
        if teacher.widen is not None:
            table = teacher.widen(table)
        _copy_table_(student, table[:, kept])
        student.positions[:count] = teacher.positions[:count][:, kept]
        _take_(student.norm, teacher.norm, kept)
        for target, i in zip(student.layers, strided(len(student.layers), len(teacher.layers)), strict=True):
            source = teacher.layers[i]
            assert isinstance(target, Layer)
            assert isinstance(source, Layer)
            _inherit_layer_(target, source, kept)


def _copy_table_(student: TextTransformer, table: Tensor) -> None:
    """(V, W) word vectors into the student's table, factorised where it is."""
    vocab = min(len(table), student.words.num_embeddings)
    if student.widen is None:
        student.words.weight[:vocab] = table[:vocab]
        return
    rank = student.words.embedding_dim
    u, s, v = torch.linalg.svd(table, full_matrices=False)  # (V, K), (K,), (K, W)
    used = min(rank, len(s))
    student.words.weight[:vocab, :used] = (u[:, :used] * s[:used].sqrt())[:vocab]
    student.widen.weight[:, :used] = (s[:used].sqrt()[:, None] * v[:used]).T


def _inherit_layer_(target: Layer, source: Layer, kept: Tensor) -> None:
    a, b = target.attention, source.attention
    if a.head_dim == b.head_dim and a.out.in_features <= b.out.in_features:
        heads = b.out.in_features // b.head_dim
        by_head = b.out.weight.T.reshape(heads, -1)  # (H * D, W) -> (H, D * W)
        chosen = important(by_head, a.out.in_features // a.head_dim)
        units = (chosen[:, None] * b.head_dim + torch.arange(b.head_dim)).flatten()
    else:  # other head size: the units that matter, by the norm of what they put out
        units = important(b.out.weight.T, a.out.in_features)
    if len(units) == a.out.in_features:
        for ours, theirs in ((a.query, b.query), (a.key, b.key), (a.value, b.value)):
            ours.weight.copy_(theirs.weight[units][:, kept])
            ours.bias.copy_(theirs.bias[units])
        a.out.weight.copy_(b.out.weight[kept][:, units])
        a.out.bias.copy_(b.out.bias[kept])
    _take_(target.attention_norm, source.attention_norm, kept)
    units = important(source.up.weight, target.up.out_features)
    if len(units) == target.up.out_features:
        target.up.weight.copy_(source.up.weight[units][:, kept])
        target.up.bias.copy_(source.up.bias[units])
        target.down.weight.copy_(source.down.weight[kept][:, units])
        target.down.bias.copy_(source.down.bias[kept])
    _take_(target.ffn_norm, source.ffn_norm, kept)


def _take_(target: torch.nn.LayerNorm, source: torch.nn.LayerNorm, kept: Tensor) -> None:
    target.weight.copy_(source.weight[kept])
    target.bias.copy_(source.bias[kept])


def inherit_image_(student: EfficientNetLite, teacher: EfficientNetLite) -> None:
    """Copy the teacher's image tower into the smaller ``student``, in place.

    Channels between blocks: the same ones for a whole stage, by the norm of all projections of that stage, as
    shortcuts add them. Hidden channels of a block: by the norm of its projection's columns. A stage or block
    that is wider than the teacher's, or that only a deeper stage has, keeps its random weights.
    """
    with torch.no_grad():
        kept = important(_weight(teacher.stem), len(_weight(student.stem)))
        _conv_(student.stem, teacher.stem, kept, None)
        for ours, theirs in zip(_stages(student), _stages(teacher), strict=False):
            outputs = _stage_channels(theirs, len(_weight(ours[0].project)))
            inputs = kept
            for place, i in enumerate(strided(len(ours), len(theirs))):
                if (place == 0) == (i == 0):  # a stage's first block changes the width, and is like no other
                    _inherit_block_(ours[place], theirs[i], inputs, outputs)
                inputs = outputs
            kept = outputs
        if len(student.stages) == len(teacher.stages):
            units = important(_weight(teacher.last), len(_weight(student.last)))
            _conv_(student.last, teacher.last, units, kept)


Inheriting = Callable[[Any, Any, Sequence[int]], None]

INHERITING: Mapping[type[torch.nn.Module], Inheriting] = {
    EfficientNetLite: lambda student, teacher, rows: inherit_image_(student, teacher),  # noqa: ARG005
    TextTransformer: lambda student, teacher, rows: inherit_text_(student, teacher, rows=rows),
}
"""Class of both towers -> what copies the larger one's weights; ``rows`` as ``inherit_text_`` takes them."""


def inheriting(student: torch.nn.Module, teacher: torch.nn.Module) -> Inheriting | None:
    """Return what copies the weights of one tower into a smaller one of its class; None where there is no rule."""
    same = type(student) is type(teacher)
    return next((rule for kind, rule in INHERITING.items() if same and isinstance(student, kind)), None)


def _stages(tower: EfficientNetLite) -> list[list[MBConv]]:
    return [[block for block in stage.children() if isinstance(block, MBConv)] for stage in tower.stages]


def _weight(conv: torch.nn.Module) -> Tensor:
    """Return the convolution's weight of a (convolution, norm, activation) sequence: (out, in, k, k)."""
    weight = next(conv.parameters())
    assert weight.dim() == 4
    return weight


def _stage_channels(stage: Sequence[MBConv], count: int) -> Tensor:
    """Channels of a stage's output, ranked by all blocks that add to it."""
    return important(torch.cat([_weight(block.project).flatten(1) for block in stage], dim=1), count)


def _inherit_block_(target: MBConv, source: MBConv, inputs: Tensor, outputs: Tensor) -> None:
    hidden = _weight(target.project).shape[1]
    if target.expand is None or source.expand is None:
        if (target.expand is None) != (source.expand is None):
            return  # another expansion: nothing matches
        units = inputs  # without an expansion the block's hidden channels are its inputs
    else:
        units = important(_weight(source.project).transpose(0, 1), hidden)
        _conv_(target.expand, source.expand, units, inputs)
    _conv_(target.depthwise, source.depthwise, units, None)
    _conv_(target.project, source.project, outputs, units)


def _conv_(target: torch.nn.Module, source: torch.nn.Module, outputs: Tensor, inputs: Tensor | None) -> None:
    """Copy rows ``outputs`` and columns ``inputs`` of a convolution, and its batch norm, where shapes then agree."""
    ours, theirs = target.state_dict(), source.state_dict()  # state_dict() shares memory, so copy_ writes the module
    weight = theirs["0.weight"][outputs]
    if inputs is not None:
        weight = weight[:, inputs]
    if weight.shape != ours["0.weight"].shape:
        return
    ours["0.weight"].copy_(weight)
    for key, value in theirs.items():
        if key.startswith("1."):
            ours[key].copy_(value if value.dim() == 0 else value[outputs])
