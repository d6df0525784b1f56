"""Engines: the table of what runs graphs, which sessions, manifests, recipes, quantization and messages are made from.

To add one: a file with its session, and a line here; docs/your-own-engine.md shows both. What an engine does in its own
way stands in its file (``engine_onnxruntime.py``, ...).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from edgemm.runtime.errors import EngineError, EngineNotInstalled
from edgemm.runtime.hints import pip_install

Array = np.ndarray


class Session(Protocol):
    """One loaded part.

    Attributes:
        engine: what runs it.
        input_names, output_names: of the graph.
        dtypes: numpy dtype of each input and output, as far as the engine tells; else the engine's word for it.
    """

    engine: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    dtypes: Mapping[str, str]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: every input by name; values of other names are ignored.

        Returns:
            Every output by name; arrays of the caller's own, not overwritten by the next run.

        Raises:
            EngineError: the engine refuses the feeds; the message holds its reason in one line.
        """
        ...


@dataclass(frozen=True, slots=True)
class Loading:
    """How a part is loaded.

    Args:
        engine: name of the engine.
        threads: CPU threads for one run; 0 lets the engine decide.
        what: names target and part in messages (``"target 'cpu-int8', part 'text'"``).
        float32: keep float arithmetic in float32 where the engine could lower it by itself.
        fingerprint: what a compiled plan needs to load; checked against this machine.
    """

    engine: str
    threads: int = 0
    what: str = "graph"
    float32: bool = True
    fingerprint: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scheme:
    """How an engine wants int8 written.

    Args:
        activations: ``"uint8"`` with a zero point, or ``"int8"`` without (symmetric).
        integer_bias: biases as int32 at scale ``s_x * s_w`` (what fused integer kernels take), or left in float.
        weight_levels: largest weight magnitude: 127, or 64 where 8-bit products saturate (x86 without VNNI).
        absorb: let the quantization perform ReLU and ReLU6.
        tables: embedding tables as int8 rows, dequantized after the lookup.
        float_results: int8 convolutions whose results stay floats, for those that leave the graph.
        dynamic_lstm: LSTMs with int8 weights whose inputs are rounded as they come.
        half_recurrent: recurrent layers that stay in float keep their weights as float16.
    """

    activations: str = "uint8"
    integer_bias: bool = True
    weight_levels: int = 127
    absorb: bool = True
    tables: bool = True
    float_results: bool = False
    dynamic_lstm: bool = False
    half_recurrent: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether activations have no zero point."""
        return self.activations == "int8"


class Engine(NamedTuple):
    """A line of the table.

    Args:
        about: what it is, for the reference.
        package: Python package that it needs.
        distributions: what to install for it, its own the last.
        session: ``"module:Class"`` that loads a part: of its file's bytes and a ``Loading``, a ``Session``.
        scheme: how its int8 graphs are written.
        precisions: that a target of it may have.
        compiles: whether it runs plans that are built for one kind of GPU, and no graphs.
    """

    about: str
    package: str
    distributions: tuple[str, ...]
    session: str
    scheme: Scheme = Scheme()
    precisions: tuple[str, ...] = ("float32", "int8")
    compiles: bool = False


_PLANS = Scheme(activations="int8", integer_bias=False, absorb=False, tables=False, float_results=True)
PORTABLE = "onnxruntime"
"""The engine that runs preprocessing in every target, and the graphs beside a compiled plan."""
ENGINES: dict[str, Engine] = {
    "onnxruntime": Engine(
        "CPUs of x86 and ARM",
        "onnxruntime",
        ("onnxruntime",),
        "edgemm.runtime.engine_onnxruntime:ORTSession",
        Scheme(dynamic_lstm=True, half_recurrent=True),
    ),
    "openvino": Engine(
        "CPUs, often faster on x86",
        "openvino",
        ("openvino",),
        "edgemm.runtime.engine_openvino:OpenVINOSession",
        Scheme(float_results=True, half_recurrent=True),
    ),
    "tensorrt": Engine(
        "NVIDIA GPUs, built for one kind",
        "tensorrt",
        ("cuda-bindings", "tensorrt"),
        "edgemm.runtime.engine_tensorrt:TensorRTSession",
        _PLANS,
        ("float32", "float16", "int8"),
        compiles=True,
    ),
    "tensorrt-rtx": Engine(
        "GeForce RTX GPUs, built for one kind",
        "tensorrt_rtx",
        ("cuda-bindings", "tensorrt-rtx"),
        "edgemm.runtime.engine_tensorrt:TensorRTSession",
        _PLANS,
        ("float32", "float16", "int8"),
        compiles=True,
    ),
}


def compiles(engine: str) -> bool:
    """Return whether an engine runs plans that are built for one kind of GPU, and no graphs."""
    return ENGINES[engine].compiles


def engine_installed(engine: str) -> bool:
    """Return whether the engine's package can be found, without importing it."""
    return importlib.util.find_spec(ENGINES[engine].package) is not None


def require_engine(engine: str, *, what: str) -> None:
    """Raise EngineNotInstalled, with what to install, where the engine's package is not there."""
    if not engine_installed(engine):
        raise EngineNotInstalled(
            f"{what}: {engine} is not installed; {pip_install(*ENGINES[engine].distributions)}, or choose another "
            "--target"
        )


def missing_feeds(names: tuple[str, ...], feeds: Mapping[str, Array], *, what: str) -> EngineError:
    """Return the error for feeds that lack an input."""
    lacking = [name for name in names if name not in feeds]
    return EngineError(f"{what}: no value for the inputs {lacking}; got {sorted(feeds)}")
