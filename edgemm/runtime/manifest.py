"""Manifest: what a bundle's ``manifest.json`` says, as frozen dataclasses (specified in ``export/BUNDLE.md``).

A bundle is a chain of parts joined by value names: a part runs as soon as the values that its
signature names as inputs exist. ``targets`` say which file and engine carry each part.
Law: ``Manifest.from_json(m.to_json()) == m``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from edgemm.runtime.signature import Signature

FORMAT = 1

Role = Literal["frontend", "tower", "fusion", "head", "decoder"]


@dataclass(frozen=True, slots=True)
class PartEntry:
    """One part of the chain. ``modality`` is None where several meet (fusion, head)."""

    name: str
    role: Role
    modality: str | None
    signature: Signature
    parameters: int


@dataclass(frozen=True, slots=True)
class ImageInput:
    """Raw image files or uint8 HWC arrays, fed as value ``feeds``: uint8 (batch, height, width, 3), RGB."""

    feeds: str = "image"
    kind: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class TextInput:
    """Raw strings, tokenized by ``tokenizer`` (a ``tokenizer.json`` in the bundle) into int64 ids and mask."""

    tokenizer: str
    max_tokens: int
    ids: str = "input_ids"
    mask: str = "attention_mask"
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class AudioInput:
    """Raw audio files or float32 mono waveforms at ``sample_rate``, fed as value ``feeds``: (batch, samples)."""

    sample_rate: int
    feeds: str = "waveform"
    kind: Literal["audio"] = "audio"


@dataclass(frozen=True, slots=True)
class TensorInput:
    """Arrays given as they are, under the modality's own name (sensor vectors, precomputed features)."""

    feeds: str
    kind: Literal["tensor"] = "tensor"


RawInput = ImageInput | TextInput | AudioInput | TensorInput


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """One engine's files for the parts. ``fingerprint`` holds what a compiled plan needs to load."""

    name: str
    engine: Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
    precision: Literal["float32", "float16", "int8"]
    files: Mapping[str, str]  # part name -> path inside the bundle
    threads: int = 0  # 0: the engine decides
    fingerprint: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gallery:
    """Embeddings to search with any modality of a joint space: ``embeddings`` (N, D) float16 ``.npy``, N labels."""

    embeddings: str
    labels: str


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """Raw inputs whose outputs are known: modality -> a file in the bundle, or a string for text."""

    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GoldenOutputs:
    """Expected outputs of one target: an ``.npz`` holding ``<value>`` (samples, ...) and max_abs_error per value."""

    file: str
    max_abs_error: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Digest and size of one file of the bundle."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """The whole bundle. ``targets[0]`` is the default target."""

    name: str
    family: str
    parts: tuple[PartEntry, ...]
    inputs: Mapping[str, RawInput]  # modality -> how its raw form becomes values
    outputs: tuple[str, ...]
    targets: tuple[TargetEntry, ...]
    labels: str | None = None  # path of a JSON list of class names for value "logits"
    gallery: Gallery | None = None
    golden: tuple[GoldenSample, ...] = ()
    golden_outputs: Mapping[str, GoldenOutputs] = field(default_factory=dict)  # target name -> outputs
    measurements: str | None = None  # path of a JSONL of raw measurements
    provenance: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)  # every file but manifest.json
    format: int = FORMAT
