"""Graph passes, one per file: each states what it requires and ensures, and numbers its rewrite rules."""

from __future__ import annotations

import onnx_ir as ir

from edgemm.graph.passes.clean import clean_, finish_
from edgemm.graph.passes.pooling import MeanToPool
from edgemm.graph.passes.reducing import KeepReducedAxes

__all__ = ["clean_", "finish_", "prepare_for_int8_"]


def prepare_for_int8_(model: ir.Model) -> None:
    """Exact rewrites that let more of a graph run in int8, and rightly so; in place."""
    MeanToPool()(model)
    KeepReducedAxes()(model)
    finish_(model)
