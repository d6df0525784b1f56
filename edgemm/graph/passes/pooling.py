"""Pooling: spatial means in the form that has int8 kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult


class MeanToPool(InPlacePass):
    """Write the mean over the image of what a convolution made as global average pooling.

    1. ReduceMean(x, axes=[2, 3], keepdims=1) -> GlobalAveragePool(x)
    2. ReduceMean(x, axes=[2, 3], keepdims=0) -> Squeeze(GlobalAveragePool(x), [2, 3])

    Only where x is made by a Conv, possibly through Relu, Clip or Add: then x has four dimensions.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        for node in list(model.graph):
            if node.op_type != "ReduceMean" or len(node.inputs) < 2 or not _is_image(node.inputs[0]):
                continue
            axes = node.inputs[1].const_value if node.inputs[1] is not None else None
            if axes is None or sorted(int(a) % 4 for a in axes.numpy().reshape(-1)) != [2, 3]:
                continue
            old = node.outputs[0]
            pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=f"{node.name}_pool")
            nodes, made = [pool], pool.outputs[0]
            if not node.attributes.get_int("keepdims", 1):
                pool.outputs[0].name = f"{old.name}_pooled"
                value = ir.Value(name=f"{old.name}_axes", const_value=ir.tensor(np.array([2, 3], np.int64)))
                value.shape, value.type = ir.Shape([2]), ir.TensorType(ir.DataType.INT64)
                model.graph.register_initializer(value)
                squeeze = ir.node("Squeeze", [pool.outputs[0], value], name=f"{node.name}_squeeze")
                nodes, made = [pool, squeeze], squeeze.outputs[0]
            model.graph.insert_before(node, nodes)
            made.shape, made.type = old.shape, old.type
            old.replace_all_uses_with(made, replace_graph_outputs=True)
            name = old.name
            model.graph.remove(node, safe=True)
            made.name = name
            modified = True
        return PassResult(model, modified=modified)


def _is_image(value: ir.Value | None, depth: int = 4) -> bool:
    producer = value.producer() if value is not None else None
    if producer is None or depth == 0:
        return False
    if producer.op_type == "Conv":
        return True
    return producer.op_type in ("Relu", "Clip", "Add") and _is_image(producer.inputs[0], depth - 1)
