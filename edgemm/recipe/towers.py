"""Towers: the table of encoders of edgemm's own for images, sounds and tensors.

To add one: a module with a class that takes those options of its section that its constructor names, and a line here.
What the class is given, and what it makes, stands in ``docs/families.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from edgemm.recipe.section import known_in, listed


class Encoder(NamedTuple):
    """A line of the table: ``"module:Class"``, and what it is, for the reference."""

    made_by: str
    about: str


TOWERS: Mapping[str, dict[str, Encoder]] = {
    "image": {
        "efficientnet-lite": Encoder("edgemm.models.efficientnet:EfficientNetLite", "a CNN, sizes as below"),
    },
    "audio": {
        "audio-cnn": Encoder("edgemm.models.efficientnet:AudioCnn", "the same over log-mel frames"),
    },
    "tensor": {
        "tensor-mlp": Encoder("edgemm.models.tensors:TensorMlp", "layers with ReLU, at each step of a series"),
        "frames-cnn": Encoder("edgemm.models.frames:FramesCnn", "convolutions over each frame of a video"),
    },
}
"""What it encodes -> ``kind`` in a recipe and in ``model.json``, unique over all -> how it is made."""

ImageKind = Annotated[str, AfterValidator(known_in(TOWERS["image"])), Field(json_schema_extra=listed(TOWERS["image"]))]
AudioKind = Annotated[str, AfterValidator(known_in(TOWERS["audio"])), Field(json_schema_extra=listed(TOWERS["audio"]))]
TensorKind = Annotated[
    str, AfterValidator(known_in(TOWERS["tensor"])), Field(json_schema_extra=listed(TOWERS["tensor"]))
]
