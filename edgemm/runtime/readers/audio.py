"""Sounds: files of any rate, and waveforms of the model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.runtime.fields import Fields
from edgemm.runtime.readers.base import RawInput, Taken
from edgemm.runtime.values import Samples, Value, join, name_of, size_range
from edgemm.runtime.waveforms import decode_audio

SAMPLE_RATES = (1_000, 768_000)  # Hz


@dataclass(frozen=True, slots=True)
class AudioInput(RawInput):
    """Raw audio files or float32 mono waveforms at ``sample_rate``, fed as value ``feeds``: (batch, samples)."""

    sample_rate: int
    feeds: str = "waveform"
    kind: ClassVar[str] = "audio"
    takes: ClassVar[tuple[str, int] | None] = ("float32", 2)

    @property
    def values(self) -> tuple[str, ...]:
        """See RawInput."""
        return (self.feeds,)

    @classmethod
    def from_json(cls, fields: Fields) -> AudioInput:
        """See RawInput."""
        rate = fields.integer("sample_rate", minimum=SAMPLE_RATES[0], maximum=SAMPLE_RATES[1])
        return cls(rate, fields.string("feeds", "waveform"))

    def to_json(self) -> dict[str, Any]:
        """See RawInput."""
        return {"kind": self.kind, "sample_rate": self.sample_rate, "feeds": self.feeds}

    def reader(self, modality: str, taken: Taken, read: Callable[[str], bytes]) -> AudioReader:  # noqa: ARG002
        """See RawInput."""
        return AudioReader(self, modality, taken)

    def decoded(self, raw: Any, *, where: str) -> Any:
        """See RawInput: float32 (samples,)."""
        return decode_audio(raw, sample_rate=self.sample_rate, where=where)


class AudioReader:
    """See ``Reader``: files, and float32 (samples,)."""

    def __init__(self, raw: AudioInput, modality: str, taken: Taken) -> None:
        self._raw, self._modality, self._taken = raw, modality, taken

    def samples(self, raw: Any) -> Samples:
        """See Reader."""
        return raw if isinstance(raw, (list, tuple)) else [raw]

    def values(self, many: Samples) -> dict[str, Value]:
        """See Reader: a sound that is shorter than a part takes is padded, a longer one cut."""
        spec, dims = self._taken[self._raw.feeds]
        low, high = size_range(spec, dims, axis=1)
        arrays = []
        for i, raw in enumerate(many):
            where = name_of(self._modality, i, many)
            wave = decode_audio(raw, sample_rate=self._raw.sample_rate, where=where, limit=high)
            arrays.append(np.pad(wave, (0, max(0, low - len(wave))))[None])
        return {self._raw.feeds: join(arrays)}
