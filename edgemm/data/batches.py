"""Samples as the raw values that a model takes, made by the device's own readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgemm.data.dataset import Sample
from edgemm.data.image import read_image
from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.inputs import TextEncoder
from edgemm.runtime.manifest import RawInput
from edgemm.runtime.waveforms import decode_audio


class TakesRawInputs(Protocol):
    """What is needed of a model here (``edgemm.models.model.Model`` is one)."""

    inputs: dict[str, RawInput]
    tokenizer_json: str | None


def strided_samples(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most ``limit`` samples, evenly spread, so that few of them still hold every vendor and answer."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def raw_value_stream(
    samples: Sequence[Sample], model: TakesRawInputs, *, limit: int | None = None
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Raw values one sample at a time, as the device would feed them: for calibration, parity and golden samples.

    Nothing is kept in memory; ``limit`` samples are taken evenly spread.

    Yields:
        ``image`` uint8 (1, H, W, 3), ``input_ids`` and ``attention_mask`` int64 (1, T), ``waveform`` float32 (1, N):
        what the model takes and the sample has.

    Raises:
        DataError: a file that can't be decoded, or none of the model's modalities in a sample.
    """
    encoders = {
        modality: TextEncoder(
            (model.tokenizer_json or "").encode(),
            file=raw.tokenizer,
            min_tokens=1,
            max_tokens=raw.max_tokens,
            where="text",
        )
        for modality, raw in model.inputs.items()
        if raw.kind == "text"
    }
    for sample in strided_samples(samples, limit):
        values: dict[str, NDArray[np.generic]] = {}
        try:
            for modality, raw in model.inputs.items():
                if raw.kind == "image" and sample.image is not None:
                    values[raw.feeds] = read_image(sample.image)[None]
                elif raw.kind == "audio" and sample.audio is not None:
                    values[raw.feeds] = decode_audio(sample.audio, sample_rate=raw.sample_rate, where="audio")[None]
                elif raw.kind == "text" and sample.text is not None:
                    values[raw.ids], values[raw.mask] = encoders[modality].encode([sample.text])
        except InputError as error:
            raise DataError(f"sample '{sample.id}': {error}") from error
        if not values:
            raise DataError(f"sample '{sample.id}' has none of what the model takes: {', '.join(model.inputs)}")
        yield values
