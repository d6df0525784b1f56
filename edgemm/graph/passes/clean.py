"""Clean: from whatever exported the graph to the form that every later pass and engine reads."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult, PostconditionError, Sequential
from onnx_ir.passes import common as passes
from onnxscript import optimizer
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_conv_transpose_rule,
    fuse_batchnorm_into_gemm_rule,
)


class FoldBatchNorm(InPlacePass):
    """Fold inference-mode batch normalisation into the layer before it.

    1. BatchNormalization(Conv(x, W, b)) -> Conv(x, W * s, (b - mean) * s + beta), s = gamma / sqrt(var + eps)
    2. the same for ConvTranspose
    3. the same for Gemm

    A batch norm with no such layer before it, or one that is shared, stays.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        before = sum(n.op_type == "BatchNormalization" for n in model.graph)
        if not before:
            return PassResult(model, modified=False)
        rewrite(
            model,
            pattern_rewrite_rules=[
                fuse_batchnorm_into_conv_rule,
                fuse_batchnorm_into_conv_transpose_rule,
                fuse_batchnorm_into_gemm_rule,
            ],
        )
        return PassResult(model, modified=True)


class ForgetShapes(InPlacePass):
    """Drop inferred shapes and types of inner values, and the exporter's metadata.

    1. shape and type of every value that is neither graph input, output nor initializer -> unknown
    2. metadata, doc strings of nodes and values -> gone

    onnxruntime's shape inference refuses graphs whose recorded shapes differ from its own by a symbol's name.
    """

    def call(self, model: ir.Model) -> PassResult:
        """Apply the rules; see the class."""
        outputs = set(model.graph.outputs)
        for node in model.graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
                value.doc_string = None
                if value not in outputs:
                    value.shape = None
                    value.type = None
        model.graph.metadata_props.clear()
        model.metadata_props.clear()
        model.doc_string = None
        model.graph.doc_string = None
        model.producer_name, model.producer_version = "edgemm", ""
        return PassResult(model, modified=True)

    def ensures(self, model: ir.Model) -> None:
        """No inner value keeps a shape."""
        outputs = set(model.graph.outputs)
        for node in model.graph.all_nodes():
            if any(v.shape is not None for v in node.outputs if v not in outputs):
                raise PostconditionError(f"node '{node.name}' kept a shape")


def clean_(model: ir.Model) -> None:
    """Inline, fold constants and batch norm, drop what nothing reads, merge what is equal, forget shapes; in place."""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
    optimizer.optimize_ir(model)
    Sequential(
        FoldBatchNorm(),
        passes.IdentityEliminationPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.CommonSubexpressionEliminationPass(),
        passes.DeduplicateInitializersPass(),
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
        passes.TopologicalSortPass(),
        ForgetShapes(),
    )(model)
