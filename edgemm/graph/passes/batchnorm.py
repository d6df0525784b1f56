"""Batch norm: its scale and shift, written into the weights of the layer before it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from edgemm.graph.passes.values import add_weight, constant, is_standard, opset_of, put_in_place_, sole_reader

OLDEST_OPSET = 9
"""Before it, BatchNormalization had an attribute that made it a norm of each position."""


class FoldBatchNorm(InPlacePass):
    """Fold inference-mode batch normalisation into the layer before it; s = scale / sqrt(var + epsilon).

    1. BatchNormalization(Conv(x, W, b)) -> Conv(x, W * s, (b - mean) * s + beta), s along W's first axis
    2. BatchNormalization(ConvTranspose(x, W, b)) -> the same, s along W's second axis, group by group
    3. BatchNormalization(Gemm(x, W, b)) -> the same, s along W's columns (its rows with transB), Gemm's beta in b

    Takes opsets from 9 on, any spatial rank, a bias that is there or not, weights of one float type. A batch norm that
    trains (training_mode, or more than one output that is read), whose layer has another reader, or whose numbers
    aren't constants or don't stay finite, is left alone. Weights that are shared are left for their other readers.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        modified = False
        if opset_of(model) < OLDEST_OPSET:
            return PassResult(model, modified=False)
        for norm in list(model.graph):
            layer = norm.inputs[0].producer() if norm.inputs and norm.inputs[0] is not None else None
            if not _trains_not(norm) or layer is None or not is_standard(layer, "Conv", "ConvTranspose", "Gemm"):
                continue
            if len(layer.outputs) != 1 or sole_reader(layer.outputs[0]) is not norm or layer.graph is not norm.graph:
                continue
            folded = _folded(layer, norm)
            if folded is None:
                continue
            name = layer.inputs[1].name if layer.inputs[1] is not None else norm.name
            weight, bias = (
                add_weight(model, f"{name}_{what}", array)
                for what, array in zip(("scaled", "shifted"), folded, strict=True)
            )
            layer.resize_inputs(3)
            layer.replace_input_with(1, weight)
            layer.replace_input_with(2, bias)
            layer.attributes.pop("beta", None)
            put_in_place_(norm.outputs[0], layer.outputs[0])
            modified = True
        return PassResult(model, modified=modified)


def _trains_not(norm: ir.Node) -> bool:
    return (
        is_standard(norm, "BatchNormalization")
        and len(norm.inputs) == 5
        and norm.attributes.get_int("training_mode", 0) == 0
        and not any(v.uses() or v.is_graph_output() for v in norm.outputs[1:])
    )


def _folded(layer: ir.Node, norm: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the new weight and bias, or None."""
    if len(layer.inputs) < 2:
        return None
    weight = constant(layer.inputs[1])
    has_bias = len(layer.inputs) > 2 and layer.inputs[2] is not None
    bias = constant(layer.inputs[2]) if has_bias else np.zeros(1, np.float64)
    of_norm = [constant(v) for v in norm.inputs[1:]]
    if weight is None or bias is None or any(a is None for a in of_norm) or weight.dtype.kind != "f":
        return None
    if any(a is not None and a.dtype != weight.dtype for a in (*of_norm, *([bias] if has_bias else []))):
        return None
    scale, beta, mean, var = (np.asarray(a, np.float64) for a in of_norm)
    with np.errstate(all="ignore"):
        s = scale / np.sqrt(var + norm.attributes.get_float("epsilon", 1e-5))
        share = layer.attributes.get_float("beta", 1.0) if layer.op_type == "Gemm" else 1.0
        shifted = ((share * np.asarray(bias, np.float64) - mean) * s + beta).astype(weight.dtype)
        scaled = _scaled(layer, weight, s).astype(weight.dtype)
    return (scaled, shifted) if np.isfinite(scaled).all() and np.isfinite(shifted).all() else None


def _scaled(layer: ir.Node, weight: np.ndarray, s: np.ndarray) -> np.ndarray:
    scaled: np.ndarray
    if layer.op_type == "Conv":
        scaled = weight * s.reshape(-1, *[1] * (weight.ndim - 1))
    elif layer.op_type == "ConvTranspose":  # (inputs, outputs / groups, …): a group's inputs make its own outputs
        groups = layer.attributes.get_int("group", 1)
        by_group = weight.reshape(groups, len(weight) // groups, *weight.shape[1:])
        scaled = (by_group * s.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)
    else:
        scaled = weight * (s[:, None] if layer.attributes.get_int("transB", 0) else s)
    return scaled
