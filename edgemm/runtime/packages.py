"""Packages: the one place where a package that runs or quantizes graphs is imported, its calls home off before it.

Why: ``import onnxruntime`` (1.31, Linux) writes an id and a database of events under HOME, starts a thread and asks for
the address of a telemetry host; ``import openvino`` writes an id under HOME and does the same. Both decide at import,
so a call after it comes too late. A device must neither be written to nor call anybody.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

SPEAKING = ("onnxruntime", "openvino", "nncf", "neural_compressor", "optimum")
"""Packages that call home at import, or import one that does. No other module of edgemm imports them."""


def package(name: str) -> Any:
    """Import a package or one of its modules with its calls home switched off.

    Args:
        name: ``"onnxruntime"``, ``"onnxruntime.quantization"``, ``"tensorrt_rtx"``.

    Raises:
        ImportError: it is not installed.
    """
    switch_off_telemetry_()
    return import_module(name)


def switch_off_telemetry_() -> None:
    """Switch off the calls home of engines that this process, or a child of it, imports from now on.

    The environment is a child's as well. Whoever wants the calls imports the engine before edgemm does.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    # None is Python's own word for "not to be imported"; openvino then takes its silent stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
