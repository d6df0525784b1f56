"""Signature: the named, typed inputs and outputs of a part, in ONNX terms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgemm.runtime.errors import BundleError
from edgemm.runtime.fields import Fields, check_integer, check_string, show

Dim = int | str
LARGEST_DIM = 2**31 - 1
DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float16", "float32", "float64")


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
        """Plain JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: object, *, where: str = "tensor") -> TensorSpec:
        """Read strictly. Raises BundleError naming ``where`` and the key."""
        fields = Fields(value, where)
        name, dtype = fields.string("name"), fields.choice("dtype", DTYPES)
        shape: list[Dim] = [
            check_string(dim, at) if isinstance(dim, str) else check_integer(dim, at, minimum=1, maximum=LARGEST_DIM)
            for dim, at in fields.items("shape")
        ]
        fields.done()
        return cls(name, dtype, tuple(shape))


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
        """Names of the inputs, in order."""
        return tuple(spec.name for spec in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(spec.name for spec in self.outputs)

    def least(self, dim: Dim) -> int:
        """Return the smallest size of one axis: a fixed one, the least of a named one, 1 where its range is open."""
        return dim if isinstance(dim, int) else self.dims[dim].min if dim in self.dims else 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; a dimension's range is ``[min, opt, max]``."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            "dims": {name: [r.min, r.opt, r.max] for name, r in self.dims.items()},
        }

    @classmethod
    def from_json(cls, value: object, *, where: str = "signature") -> Signature:
        """Read strictly. Raises BundleError naming ``where`` and the key."""
        fields = Fields(value, where)
        inputs = tuple(TensorSpec.from_json(item, where=at) for item, at in fields.items("inputs"))
        outputs = tuple(TensorSpec.from_json(item, where=at) for item, at in fields.items("outputs"))
        dims = {name: _dim_range(item, at) for name, item, at in fields.mapping("dims", {})}
        fields.done()
        for key, specs in (("inputs", inputs), ("outputs", outputs)):
            names = [spec.name for spec in specs]
            if not names or len(set(names)) != len(names):
                raise BundleError(f"{fields.path(key)}: got the names {names}, expected at least one and no two alike")
        return cls(inputs, outputs, dims)


def _dim_range(value: object, where: str) -> DimRange:
    if isinstance(value, list) and len(value) == 3:
        low, usual, high = (
            check_integer(v, f"{where}[{i}]", minimum=1, maximum=LARGEST_DIM) for i, v in enumerate(value)
        )
        if low <= usual <= high:
            return DimRange(low, usual, high)
    raise BundleError(f"{where}: got {show(value)}, expected [min, opt, max] with 1 <= min <= opt <= max")
