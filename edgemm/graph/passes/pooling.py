"""Pooling: spatial means in the form that has int8 kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgemm.graph.passes.values import add_weight, constant, is_standard, opset_of, put_in_place_

OLDEST_OPSET = 13
"""The first whose Squeeze takes its axes as an input."""

IMAGE_RANK = 4  # (batch, channels, height, width)


class MeanToPool(InPlacePass):
    """Write the mean over the image of what a convolution made as global average pooling.

    1. ReduceMean(x, axes=[2, 3], keepdims=1) -> GlobalAveragePool(x)
    2. ReduceMean(x, axes=[2, 3], keepdims=0) -> Squeeze(GlobalAveragePool(x), [2, 3])

    Takes opsets from 13 on, the axes as an attribute or as a constant input, in any order, counted from either end.
    Only where x is an image of rank 4: made by a Conv with a constant weight of rank 4, possibly through Relu, Clip or
    the Add of another value of at most that rank. A mean of rank 3 or 5, or over other axes, stays.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        if opset_of(model) < OLDEST_OPSET:
            return PassResult(model, modified=False)
        for node in list(model.graph):
            if not is_standard(node, "ReduceMean") or _rank(node.inputs[0]) != IMAGE_RANK:
                continue
            axes = axes_of(node)
            if axes is None or sorted(a % IMAGE_RANK for a in axes) != [2, 3]:
                continue
            old = node.outputs[0]
            pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=f"{old.name}_pool")
            nodes, made = [pool], pool.outputs[0]
            if not node.attributes.get_int("keepdims", 1):
                pool.outputs[0].name = f"{old.name}_pooled"
                spatial = add_weight(model, f"{old.name}_axes", np.array([2, 3], np.int64))
                squeeze = ir.node("Squeeze", [pool.outputs[0], spatial], name=f"{old.name}_squeeze")
                nodes, made = [pool, squeeze], squeeze.outputs[0]
            model.graph.insert_before(node, nodes)
            put_in_place_(old, made)
            modified = True
        return PassResult(model, modified=modified)


def axes_of(node: ir.Node) -> Sequence[int] | None:
    """Return the axes that a reduction names; None where it names none, or computes them."""
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        array = constant(node.inputs[1])
        return None if array is None else [int(a) for a in array.reshape(-1)]
    return node.attributes.get_ints("axes", None)


def _rank(value: ir.Value | None, depth: int = 4) -> int | None:
    """Return the rank of a value that is an image, as far as that is sure; None where it isn't."""
    producer = value.producer() if value is not None else None
    if producer is None or depth == 0:
        return None
    if is_standard(producer, "Conv"):
        weight = constant(producer.inputs[1])
        return None if weight is None else weight.ndim
    if is_standard(producer, "Relu", "Clip"):
        return _rank(producer.inputs[0], depth - 1)
    if is_standard(producer, "Add"):
        arrays = [constant(v) for v in producer.inputs]
        ranks = [_rank(v, depth - 1) if a is None else a.ndim for v, a in zip(producer.inputs, arrays, strict=True)]
        known = [r for r in ranks if r is not None]
        return max(known) if len(known) == 2 and any(a is None for a in arrays) else None
    return None
