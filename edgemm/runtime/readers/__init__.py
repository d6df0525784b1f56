"""Readers: the table of modalities: kind of a raw input -> what a manifest says of it, and what reads it.

To add one: a file with both, and a line here; docs/your-own-modality.md shows both.
"""

from __future__ import annotations

from edgemm.runtime.fields import Fields
from edgemm.runtime.readers.audio import AudioInput
from edgemm.runtime.readers.base import RawInput, Reader, Taken
from edgemm.runtime.readers.image import ImageInput
from edgemm.runtime.readers.tensor import TensorInput
from edgemm.runtime.readers.text import TextInput

__all__ = [
    "READERS", "AudioInput", "ImageInput", "RawInput", "Reader", "Taken", "TensorInput", "TextInput", "raw_from_json",
]  # fmt: skip

READERS: dict[str, type[RawInput]] = {
    "image": ImageInput,
    "text": TextInput,
    "audio": AudioInput,
    "tensor": TensorInput,
}


def raw_from_json(value: object, *, where: str = "inputs") -> RawInput:
    """Read how one modality's raw form becomes values. Raises BundleError naming ``where`` and the key."""
    fields = Fields(value, where)
    raw = READERS[fields.choice("kind", tuple(READERS))].from_json(fields)
    fields.done()
    return raw
