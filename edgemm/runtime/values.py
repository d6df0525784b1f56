"""Values: the arrays that parts take: what they have to be, and how samples of several sizes go together.

A batch of samples that differ in size (images straight from files) stays a list of single-sample arrays; the
bundle then runs a part per sample, so ``predict([a, b])`` is what ``predict(a)`` and ``predict(b)`` are together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from edgemm.runtime.errors import BundleError, EdgemmError, InputError
from edgemm.runtime.signature import Dim, DimRange, TensorSpec

Value = np.ndarray | list[np.ndarray]  # (batch, ...), or one (1, ...) array per sample where sizes differ
Samples = Sequence[Any] | np.ndarray  # sliceable, one element per sample


def check_feed(
    feeds: Mapping[str, Any], spec: TensorSpec, *, where: str, error: type[EdgemmError] = InputError
) -> None:
    """Raise ``error`` unless ``feeds`` has, under the spec's name, an array of its dtype and shape without NaN."""
    array = feeds.get(spec.name)
    wanted = f"expected {spec.dtype} {list(spec.shape)}"
    if array is None:
        raise error(f"{where}: no value for it among {sorted(feeds)}; {wanted}")
    if not isinstance(array, np.ndarray):
        raise error(f"{where}: got {type(array).__name__}, {wanted} as a numpy array")
    if array.dtype != spec.dtype or not fits(array.shape, spec.shape) or 0 in array.shape:
        raise error(f"{where}: got {array.dtype} {array.shape}, {wanted}")
    check_finite(array, where=where, error=error)


def check_finite(array: np.ndarray, *, where: str, error: type[EdgemmError] = InputError) -> None:
    """Raise ``error`` where floats hold NaN or infinity; the message names the sample. array: (batch, ...)."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int(np.argmax(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
        raise error(f"{where}: sample {bad} holds NaN or infinite values, expected finite numbers")


def fits(shape: tuple[int, ...], wanted: tuple[Dim, ...]) -> bool:
    """Return whether an array has as many axes, and the sizes that are fixed."""
    return len(shape) == len(wanted) and all(
        isinstance(w, str) or w == got for w, got in zip(wanted, shape, strict=True)
    )


def join(arrays: list[np.ndarray]) -> Value:
    """Return one array where all samples have one shape, else the list itself."""
    if len(arrays) == 1:
        return arrays[0]
    if len({array.shape for array in arrays}) == 1:
        return np.concatenate(arrays)
    return arrays


def size_range(spec: TensorSpec, dims: Mapping[str, DimRange], *, axis: int) -> tuple[int, int | None]:
    """Smallest and largest size that a part takes along one axis; (1, None) where the signature leaves it open."""
    if axis >= len(spec.shape):
        raise BundleError(
            f"value '{spec.name}' has the shape {list(spec.shape)}, expected at least {axis + 1} dimensions"
        )
    dim = spec.shape[axis]
    if isinstance(dim, int):
        return dim, dim
    return (dims[dim].min, dims[dim].max) if dim in dims else (1, None)


def name_of(modality: str, index: int, many: Iterable[Any]) -> str:
    """``image`` for one sample, ``image[3]`` among several."""
    return modality if isinstance(many, Sequence) and len(many) == 1 else f"{modality}[{index}]"
