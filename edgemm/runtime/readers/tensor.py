"""Tensors: arrays as they are, of sensors or made before."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.runtime.arrays import as_dtype, load_array
from edgemm.runtime.errors import BundleError, InputError
from edgemm.runtime.fields import Fields, one_line
from edgemm.runtime.readers.base import RawInput, Taken
from edgemm.runtime.regular import open_regular
from edgemm.runtime.sizes import LIMITS
from edgemm.runtime.values import Samples, Value, check_finite, fits


@dataclass(frozen=True, slots=True)
class TensorInput(RawInput):
    """Arrays given as they are, under the modality's own name (sensor vectors, precomputed features)."""

    feeds: str
    kind: ClassVar[str] = "tensor"

    @property
    def values(self) -> tuple[str, ...]:
        """See RawInput."""
        return (self.feeds,)

    @classmethod
    def from_json(cls, fields: Fields) -> TensorInput:
        """See RawInput."""
        return cls(feeds=fields.string("feeds"))

    def to_json(self) -> dict[str, Any]:
        """See RawInput."""
        return {"kind": self.kind, "feeds": self.feeds}

    def reader(self, modality: str, taken: Taken, read: Callable[[str], bytes]) -> TensorReader:  # noqa: ARG002
        """See RawInput."""
        return TensorReader(self, modality, taken)

    def decoded(self, raw: Any, *, where: str) -> Any:
        """See RawInput."""
        return read_array(raw, where) if isinstance(raw, (str, os.PathLike)) else raw

    def golden(self, held: str, read: Callable[[str], bytes]) -> Any:
        """See RawInput."""
        return load_array(read(held), held)

    def options(self, modality: str, sample: str) -> list[str]:
        """See RawInput."""
        return ["--tensor", f"{modality}={sample}"]

    def usage(self, modality: str) -> str:
        """See RawInput."""
        return f"--tensor {modality}=FILE.npy"


class TensorReader:
    """See ``Reader``: arrays with or without the batch axis, and ``.npy`` files."""

    def __init__(self, raw: TensorInput, modality: str, taken: Taken) -> None:
        self._raw, self._modality, self._taken = raw, modality, taken

    def samples(self, raw: Any) -> np.ndarray:
        """See Reader."""
        spec, _ = self._taken[self._raw.feeds]
        modality = self._modality
        if isinstance(raw, (str, os.PathLike)):
            raw = read_array(raw, modality)
        elif isinstance(raw, (list, tuple)) and raw and all(isinstance(one, (str, os.PathLike)) for one in raw):
            raw = [read_array(one, f"{modality}[{i}]") for i, one in enumerate(raw)]
        try:
            array = as_dtype(np.asarray(raw), spec.dtype, where=modality)
        except (TypeError, ValueError) as error:
            raise InputError(f"{modality}: not an array of {spec.dtype}: {one_line(error)}") from error
        if array.ndim == 0 and len(spec.shape) > 1:
            raise InputError(f"{modality}: got one number, expected an array {list(spec.shape[1:])}")
        return array[None] if array.ndim == len(spec.shape) - 1 else array

    def values(self, many: Samples) -> dict[str, Value]:
        """See Reader."""
        spec, _ = self._taken[self._raw.feeds]
        array = np.ascontiguousarray(many)
        if not fits(array.shape[1:], spec.shape[1:]) or 0 in array.shape:
            raise InputError(
                f"{self._modality}: got shape {array.shape}, expected {list(spec.shape)} or one sample of it"
            )
        check_finite(array, where=self._modality)
        return {self._raw.feeds: array}


def read_array(path: str | os.PathLike[str], where: str) -> np.ndarray:
    """Return the array of an ``.npy`` file. Raises InputError where it is none, or no regular file."""
    try:
        with open_regular(path, where=f"{where} ({path})", largest=LIMITS[".npy"]) as file:
            return load_array(file.read(), str(path))
    except OSError as error:
        raise InputError(f"{where} ({path}): can't be read ({error.strerror or error})") from error
    except BundleError as error:
        raise InputError(f"{where}: {error}") from error
