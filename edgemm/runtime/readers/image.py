"""Images: files of any size, and frames of a camera."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from edgemm.runtime.errors import BundleError, InputError
from edgemm.runtime.fields import Fields, show
from edgemm.runtime.images import decode_image
from edgemm.runtime.readers.base import RawInput, Taken, usual_shape
from edgemm.runtime.values import Samples, Value, join

_UINT8 = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class ImageInput(RawInput):
    """Raw image files or uint8 HWC arrays, fed as value ``feeds``: uint8 (batch, height, width, 3), RGB.

    ``grey_range``: what becomes 0 and 255 of a grey file with more than 8 bits a sample; None: 0 and its bits' white.
    """

    feeds: str = "image"
    grey_range: tuple[float, float] | None = None
    kind: ClassVar[str] = "image"
    takes: ClassVar[tuple[str, int] | None] = ("uint8", 4)

    def __post_init__(self) -> None:
        if self.grey_range is not None:  # JSON has lists
            low, high = self.grey_range
            object.__setattr__(self, "grey_range", (float(low), float(high)))

    @property
    def values(self) -> tuple[str, ...]:
        """See RawInput."""
        return (self.feeds,)

    @classmethod
    def from_json(cls, fields: Fields) -> ImageInput:
        """See RawInput."""
        return cls(feeds=fields.string("feeds", "image"), grey_range=_grey_range(fields))

    def to_json(self) -> dict[str, Any]:
        """See RawInput."""
        said: dict[str, Any] = {"kind": self.kind, "feeds": self.feeds}
        # a reader without the key refuses it
        return said if self.grey_range is None else {**said, "grey_range": list(self.grey_range)}

    def in_range(self, grey_range: tuple[float, float] | None) -> ImageInput:
        """See RawInput."""
        return replace(self, grey_range=grey_range)

    def reader(self, modality: str, taken: Taken, read: Callable[[str], bytes]) -> ImageReader:  # noqa: ARG002
        """See RawInput."""
        return ImageReader(self, modality)

    def decoded(self, raw: Any, *, where: str) -> Any:
        """See RawInput: uint8 (height, width, 3)."""
        return decode_image(raw, where=where, grey_range=self.grey_range)

    def noise(self, taken: Taken, rng: np.random.Generator) -> Any:
        """See RawInput."""
        spec, dims = taken[self.feeds]
        return rng.integers(0, 256, usual_shape(spec, dims), dtype=np.uint8)


class ImageReader:
    """See ``Reader``: files, and uint8 (height, width, 3) or (batch, height, width, 3)."""

    def __init__(self, raw: ImageInput, modality: str) -> None:
        self._raw, self._modality = raw, modality

    def samples(self, raw: Any) -> Samples:
        """See Reader."""
        if type(raw) is np.ndarray:
            return raw if raw.ndim == 4 else [raw]
        return raw if isinstance(raw, (list, tuple)) else [raw]

    def values(self, many: Samples) -> dict[str, Value]:
        """See Reader."""
        return {self._raw.feeds: self._images(many)}

    def _images(self, many: Samples) -> Value:
        modality, span = self._modality, self._raw.grey_range
        if isinstance(many, np.ndarray):
            if many.dtype != np.uint8 or many.shape[3] != 3 or 0 in many.shape:
                raise InputError(f"{modality}: got {many.dtype} {many.shape}, expected uint8 (batch, height, width, 3)")
            return np.ascontiguousarray(many)
        if len(many) == 1:
            raw = many[0]
            if type(raw) is np.ndarray and raw.dtype == _UINT8 and raw.ndim == 3 and raw.shape[2] == 3 and raw.size:
                return raw[None] if raw.flags.c_contiguous else np.ascontiguousarray(raw)[None]  # a camera's frame
            return decode_image(raw, where=modality, grey_range=span)[None]
        return join([decode_image(r, where=f"{modality}[{i}]", grey_range=span)[None] for i, r in enumerate(many)])


def _grey_range(fields: Fields) -> tuple[float, float] | None:
    value = fields.take("grey_range", None)
    if value is None:
        return None
    numbers = value if isinstance(value, list) and len(value) == 2 else ()
    if not all(type(number) in (int, float) and abs(number) < 1e300 for number in numbers) or not numbers:
        raise BundleError(f"{fields.path('grey_range')}: got {show(value)}, expected two finite numbers")
    low, high = (float(number) for number in numbers)
    if low >= high:
        raise BundleError(f"{fields.path('grey_range')}: got {show(value)}, expected the smaller number first")
    return low, high
