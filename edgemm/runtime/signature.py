"""Signature: the named, typed inputs and outputs of a part, in ONNX terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Dim = int | str


@dataclass(frozen=True, slots=True)
class DimRange:
    """Smallest, usual and largest value of a named dimension (a TensorRT profile's min/opt/max)."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise ValueError(f"dimension range {self.min}/{self.opt}/{self.max}: expected 1 <= min <= opt <= max")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, numpy dtype name (``"float32"``) and shape, where a named dimension is a string."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TensorSpec:
        return cls(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))


@dataclass(frozen=True, slots=True)
class Signature:
    """Inputs and outputs of a part, and the range of every named dimension among them.

    Law: ``Signature.from_json(s.to_json()) == s``.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, DimRange] = field(default_factory=dict)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.outputs)

    def to_json(self) -> dict[str, Any]:
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "dims": {name: [r.min, r.opt, r.max] for name, r in self.dims.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Signature:
        return cls(
            tuple(TensorSpec.from_json(v) for v in value["inputs"]),
            tuple(TensorSpec.from_json(v) for v in value["outputs"]),
            {str(name): DimRange(*r) for name, r in value.get("dims", {}).items()},
        )
