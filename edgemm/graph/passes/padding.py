"""Padding: zeros around an image, written into the convolution that reads it."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgemm.graph.passes.values import constant, is_standard, opset_of

OLDEST_OPSET = 11
"""The first whose Pad takes its sizes as an input."""


class FoldPad(InPlacePass):
    """Write padding by zeros into the convolution after it, so that nothing lies between two int8 layers.

    1. Conv(Pad(x, sizes, 0), W) -> Conv(x, W) with its pads and those sizes added

    Takes opsets from 11 on, any spatial rank, sizes for all axes or (from 18 on) for those named, negative or not. Left
    alone: other modes, another value than 0, sizes that cut or that pad batch or channels, and a Conv with auto_pad.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        if opset_of(model) < OLDEST_OPSET:
            return PassResult(model, modified=False)
        for conv in model.graph:
            pad = conv.inputs[0].producer() if conv.inputs and conv.inputs[0] is not None else None
            if pad is None or not is_standard(conv, "Conv") or not is_standard(pad, "Pad"):
                continue
            weight = constant(conv.inputs[1])
            if weight is None or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
                continue
            sizes = _spatial_sizes(pad, weight.ndim)
            if sizes is None:
                continue
            old = conv.attributes.get_ints("pads", [0] * len(sizes))
            conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(old, sizes, strict=True)])
            conv.replace_input_with(0, pad.inputs[0])
            modified = True
        return PassResult(model, modified=modified)


def _spatial_sizes(pad: ir.Node, rank: int) -> list[int] | None:
    """Begin and end of every spatial axis, as Conv writes its pads; None where the padding is not of that kind."""
    inputs = [*pad.inputs, None, None, None]
    if pad.attributes.get_string("mode", "constant") != "constant":
        return None
    pads, value, axes = constant(inputs[1]), constant(inputs[2]), constant(inputs[3])
    if pads is None or (inputs[2] is not None and (value is None or value.item() != 0)):
        return None
    if inputs[3] is not None and axes is None:
        return None
    named = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    if len(pads) != 2 * len(named):
        return None
    begins, ends = [0] * rank, [0] * rank
    for i, axis in enumerate(named):
        begins[axis], ends[axis] = int(pads[i]), int(pads[i + len(named)])
    if any((*begins[:2], *ends[:2])) or min(begins) < 0 or min(ends) < 0:
        return None
    return [*begins[2:], *ends[2:]]
