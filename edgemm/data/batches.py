"""Samples as the values that models take: raw ones as on the device, or batches of what the towers take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgemm.data.dataset import Dataset, Sample
from edgemm.data.image import read_image
from edgemm.models.model import Model
from edgemm.models.tokenizer import encode, tokenizer_from_json
from edgemm.runtime.errors import DataError


def in_order(samples: Sequence[Sample], batch: int) -> Iterator[list[Sample]]:
    """Consecutive lists of up to ``batch`` samples."""
    for start in range(0, len(samples), batch):
        yield list(samples[start : start + batch])


def strided_samples(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most ``limit`` samples, evenly spread, so that few of them still hold every vendor and answer."""
    count = len(samples) if limit is None else min(limit, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def raw_value_stream(
    samples: Sequence[Sample], model: Model, *, limit: int | None = None
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Raw values one sample at a time, as the device would feed them: for calibration, parity and golden samples.

    Nothing is kept in memory; ``limit`` samples are taken evenly spread.

    Yields:
        ``image`` uint8 (1, H, W, 3), ``input_ids`` and ``attention_mask`` int64 (1, T): what the model takes and
        the sample has.

    Raises:
        DataError: a file that can't be decoded, or none of the model's modalities in a sample.
    """
    tokenizer = tokenizer_from_json(model.tokenizer_json) if model.tokenizer_json is not None else None
    for sample in strided_samples(samples, limit):
        values: dict[str, NDArray[np.generic]] = {}
        for raw in model.inputs.values():
            if raw.kind == "image" and sample.image is not None:
                values[raw.feeds] = read_image(sample.image)[None]
            elif raw.kind == "audio" and sample.audio is not None:
                values[raw.feeds] = _waveform(sample.audio, raw.sample_rate)[None]
            elif raw.kind == "text" and sample.text is not None and tokenizer is not None:
                values[raw.ids], values[raw.mask] = encode(tokenizer, [sample.text])
        if not values:
            raise DataError(f"sample '{sample.id}' has none of what the model takes: {', '.join(model.inputs)}")
        yield values


def _waveform(path: Path, sample_rate: int) -> NDArray[np.float32]:
    from edgemm.runtime.errors import InputError
    from edgemm.runtime.waveforms import decode_audio

    try:
        return decode_audio(path, sample_rate=sample_rate, where="audio")
    except InputError as error:
        raise DataError(f"data: {error}") from error


def model_values(samples: Sequence[Sample], model: Model) -> dict[str, Tensor]:
    """What the parts after the frontends take of these samples, as one batch: ``pixels``, ids and mask.

    Every image goes through the model's frontend by itself, as on the device, so sizes may differ.

    Raises:
        DataError: a modality that only some of the samples have, or a file that can't be decoded.
    """
    made: dict[str, Tensor] = {}
    for modality, raw in model.inputs.items():
        if raw.kind == "text":
            if texts := _of_all(samples, "text"):
                if model.tokenizer_json is None:
                    raise DataError("the model has no tokenizer, but the data has text")
                ids, mask = encode(tokenizer_from_json(model.tokenizer_json), [str(t) for t in texts])
                made |= {raw.ids: torch.from_numpy(ids), raw.mask: torch.from_numpy(mask)}
            continue
        if not (raw.kind in ("image", "audio") and _of_all(samples, modality)):
            continue
        fronts = [p for p in model.chain if p.role == "frontend" and p.signature.input_names == (raw.feeds,)]
        rows = []
        for values in raw_value_stream([Sample(s.id, image=s.image, audio=s.audio) for s in samples], model):
            value = torch.from_numpy(values[raw.feeds])
            with torch.no_grad():
                rows.append(fronts[0].module(value) if fronts else value)
        made[fronts[0].signature.output_names[0] if fronts else raw.feeds] = torch.cat(rows)
    return made


def _of_all(samples: Sequence[Sample], field: str) -> list[object]:
    """A field of all samples, or an empty list where none has it. Raises DataError where only some do."""
    found = [value for s in samples if (value := getattr(s, field)) is not None]
    if found and len(found) != len(samples):
        lacking = next(s.id for s in samples if getattr(s, field) is None)
        raise DataError(f"sample '{lacking}' has no {field}, but others have; give every sample one, or none")
    return found


def label_indices(dataset: Dataset, samples: Sequence[Sample]) -> NDArray[np.int64]:
    """The class of every sample, (N,) int64; -1 where its label is none of the train split's (always an error)."""
    index = {label: i for i, label in enumerate(dataset.labels)}
    return np.array([index.get(s.label, -1) if s.label is not None else -1 for s in samples], dtype=np.int64)
