"""One table of ONNX functions for all exports of a process.

Why: torch.onnx.export makes its table of some 2,500 functions anew for each module, which takes 0.6 s of the 1.1 s that
a small part needs. A run exports each part of three models. The table depends on the opset alone, and is only read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any


@contextmanager
def kept_functions(opset: int) -> Iterator[None]:
    """Let ``torch.onnx.export`` read the table that an earlier export of this process made.

    A torch whose exporter has no such table exports as it does without this, only slower.

    Args:
        opset: the opset that is exported to; another one gets a table of its own.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        torchs_own = vars(ONNXRegistry)["from_torchlib"]
    except (ImportError, KeyError):  # a private name of torch 2.9 to 2.13, which another may lack
        yield
        return

    def kept(kind: type, opset_version: int = opset) -> Any:
        return _table(torchs_own, kind, opset_version)

    setattr(ONNXRegistry, "from_torchlib", classmethod(kept))  # noqa: B010  a type checker sees a method there
    try:
        yield
    finally:
        setattr(ONNXRegistry, "from_torchlib", torchs_own)  # noqa: B010


@cache
def _table(make: Any, kind: type, opset: int) -> Any:
    """Return what ``make``, torch's own class method of ``kind``, gives for one opset."""
    return make.__get__(None, kind)(opset_version=opset)
