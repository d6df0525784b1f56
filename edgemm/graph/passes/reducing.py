"""Reducing: sums and means of looked-up rows in the form that every engine computes rightly in int8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgemm.graph.passes.pooling import OLDEST_OPSET, axes_of
from edgemm.graph.passes.values import add_weight, constant, is_standard, opset_of, put_in_place_


class KeepReducedAxes(InPlacePass):
    """Drop the axes of a reduction behind it, in graphs that look rows of a table up.

    1. ReduceOp(x, axes, keepdims=0) -> Squeeze(ReduceOp(x, axes, keepdims=1), axes)

    Takes opsets from 13 on, every Reduce operator, the axes as an attribute or as a constant input. Where no axes are
    named, or they are computed, the node stays.

    OpenVINO 2026.4 moves the scales of int8 rows, one per column, behind the reduction, to an int8 product. It does
    not drop the axes of the scales that the reduction drops of the rows, and multiplies columns by others' scales: the
    mean of 12 rows and a product had a cosine of .42 to what it should be, and no warning.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        if opset_of(model) < OLDEST_OPSET or not any(_looks_up(node) for node in model.graph):
            return PassResult(model, modified=False)
        for node in list(model.graph):
            reduces = node.op_type.startswith("Reduce") and is_standard(node, node.op_type)
            axes: Sequence[int] = (axes_of(node) or ()) if reduces else ()
            if not axes or node.attributes.get_int("keepdims", 1) != 0:
                continue
            old = node.outputs[0]
            kept = {**node.attributes, "keepdims": ir.AttrInt64("keepdims", 1)}
            reduced = ir.Node(node.domain, node.op_type, node.inputs, kept.values(), name=node.name)
            reduced.outputs[0].name = f"{old.name}_unsqueezed"
            dropped = add_weight(model, f"{old.name}_axes", np.array(axes, np.int64))
            squeeze = ir.node("Squeeze", [reduced.outputs[0], dropped], name=f"{old.name}_squeeze")
            model.graph.insert_before(node, [reduced, squeeze])
            put_in_place_(old, squeeze.outputs[0])
            modified = True
        return PassResult(model, modified=modified)


def _looks_up(node: ir.Node) -> bool:
    table = constant(node.inputs[0]) if is_standard(node, "Gather") else None
    return table is not None and table.ndim == 2
