"""Base: what a reader of a modality says and does. ``readers/__init__.py`` has the table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import numpy as np

from edgemm.runtime.errors import BundleError
from edgemm.runtime.fields import Fields
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from edgemm.runtime.values import Samples, Value

Taken = Mapping[str, tuple[TensorSpec, Mapping[str, DimRange]]]
"""Value -> how the first part that takes it has it, and the ranges of its named dimensions."""


class Reader(Protocol):
    """Turns the raw samples of one modality of an open bundle into values."""

    def samples(self, raw: Any) -> Samples:
        """Return one element per sample, whether one sample was given or several. Raises InputError."""
        ...

    def values(self, many: Samples) -> dict[str, Value]:
        """Return the values that samples become. Raises InputError naming the sample."""
        ...


class RawInput:
    """What a manifest says of one modality: how its raw form becomes values. A dataclass of each modality extends it.

    Attributes:
        kind: the name in the table.
        inline: a sample is a string that stands in a manifest or a command as it is; else it is a file.
        takes: dtype and number of axes of its values; None: the signature's own.
    """

    __slots__ = ()
    kind: ClassVar[str]
    inline: ClassVar[bool] = False
    takes: ClassVar[tuple[str, int] | None] = None

    @property
    def values(self) -> tuple[str, ...]:
        """Names of the values that it becomes, the first of which some part has to take."""
        raise NotImplementedError

    @property
    def files(self) -> dict[str, str]:
        """What it reads of the bundle: key of the manifest -> path."""
        return {}

    @classmethod
    def from_json(cls, fields: Fields) -> RawInput:
        """Read it from a manifest. Raises BundleError naming the key."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Return its keys in a manifest. Law: ``from_json(to_json(r)) == r``."""
        raise NotImplementedError

    def check(self, spec: TensorSpec, signature: Signature, *, where: str) -> None:  # noqa: ARG002
        """Raise BundleError where a part takes one of its values as something else than it is."""
        if self.takes is not None and (spec.dtype, len(spec.shape)) != self.takes:
            dtype, axes = self.takes
            got = f"{spec.dtype} {list(spec.shape)}"
            raise BundleError(f"{where}: a part takes '{spec.name}' as {got}, expected {dtype} of {axes} axes")

    def in_range(self, grey_range: tuple[float, float] | None) -> RawInput:  # noqa: ARG002
        """Return it as it reads grey files of more than 8 bits in a range; the same where it reads none."""
        return self

    def reader(self, modality: str, taken: Taken, read: Callable[[str], bytes]) -> Reader:
        """Return what reads it.

        Args:
            modality: for messages.
            taken: how parts take its values.
            read: gives the bytes of a file of the bundle.
        """
        raise NotImplementedError

    def decoded(self, raw: Any, *, where: str) -> Any:  # noqa: ARG002
        """Return a raw sample with its file decoded: what an application with a camera or a microphone holds."""
        return raw

    def golden(self, held: str, read: Callable[[str], bytes]) -> Any:
        """Return what ``predict`` takes for a golden sample, which is a file of the bundle."""
        return read(held)

    def noise(self, taken: Taken, rng: np.random.Generator) -> Any:
        """Return a sample of the usual size, drawn at random."""
        spec, dims = taken[self.values[0]]
        shape = usual_shape(spec, dims)
        if spec.dtype.startswith("float"):
            return (rng.standard_normal(shape) * 0.1).astype(spec.dtype)
        return np.zeros(shape, spec.dtype)

    def options(self, modality: str, sample: str) -> list[str]:
        """Return the options of ``edgemm infer`` that give it a sample: a file, or the string itself."""
        return [f"--{modality}", sample]

    def usage(self, modality: str) -> str:
        """Return how that option is spelt in a message."""
        return f"--{modality}"


def usual_shape(spec: TensorSpec, dims: Mapping[str, DimRange]) -> tuple[int, ...]:
    """Return the usual size of one sample of a value, without the batch axis; 1 where the signature leaves it open."""
    return tuple(d if isinstance(d, int) else dims[d].opt if d in dims else 1 for d in spec.shape[1:])
