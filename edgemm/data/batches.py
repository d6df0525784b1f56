"""Samples as the raw values that a model takes, made by the device's own readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgemm.data.dataset import Sample, strided_samples
from edgemm.data.image import read_image
from edgemm.runtime.arrays import as_dtype, load_array
from edgemm.runtime.errors import BundleError, DataError, InputError
from edgemm.runtime.readers import AudioInput, ImageInput, RawInput, TextInput
from edgemm.runtime.readers.text import TextEncoder
from edgemm.runtime.signature import DimRange, Signature
from edgemm.runtime.waveforms import decode_audio


class TakesRawInputs(Protocol):
    """What is needed of a model here (``edgemm.models.model.Model`` is one)."""

    inputs: dict[str, RawInput]
    tokenizer_json: str | None

    @property
    def chain(self) -> Sequence[TakesValues]:
        """Its parts."""
        ...


class TakesValues(Protocol):
    """A part, as far as its signature goes."""

    @property
    def signature(self) -> Signature:
        """What it takes, and in which ranges."""
        ...


def covering_samples(samples: Sequence[Sample], modalities: Sequence[str], limit: int | None) -> list[Sample]:
    """At most ``limit`` samples that have every modality, evenly spread; where none has all, some of each modality."""
    complete = [s for s in samples if all(s.raw(m) is not None for m in modalities)]
    if complete:
        return strided_samples(complete, limit)
    each = None if limit is None else -(-limit // len(modalities))
    found = [s for m in modalities for s in strided_samples([s for s in samples if s.raw(m) is not None], each)]
    return list({s.id: s for s in found}.values())[:limit] or strided_samples(samples, limit)


def read_file(
    path: Path, raw: RawInput, *, lengths: DimRange | None = None, dtype: str = "float32"
) -> NDArray[np.generic]:
    """Return one file as the value that its modality feeds, without the batch axis, by the device's own readers.

    Args:
        lengths: samples that a sound is padded and cut to.
        dtype: that a tensor's numbers are given in.

    Returns:
        uint8 (H, W, 3), float32 (samples,), or a tensor's array.

    Raises:
        DataError: it can't be decoded.
    """
    if isinstance(raw, ImageInput):
        return read_image(path, grey_range=raw.grey_range)
    try:
        if isinstance(raw, AudioInput):
            low, high = (lengths.min, lengths.max) if lengths else (1, None)
            wave = decode_audio(path, sample_rate=raw.sample_rate, where="audio", limit=high)
            return np.pad(wave, (0, max(0, low - len(wave))))
        return as_dtype(load_array(path.read_bytes(), str(path)), dtype, where=str(path))
    except OSError as error:
        raise DataError(f"data: can't read {path} ({error.strerror or error})") from error
    except (InputError, BundleError) as error:
        raise DataError(f"data: {error}") from error


def fewest_tokens(model: TakesRawInputs, raw: TextInput) -> int:
    """To how many tokens a text is padded at least: all of them, where a tower takes texts of one length alone."""
    taking = [part.signature for part in model.chain if raw.ids in part.signature.input_names]
    return max((signature.dims["tokens"].min for signature in taking if "tokens" in signature.dims), default=1)


def text_encoder(model: TakesRawInputs, raw: TextInput) -> TextEncoder:
    """Return what makes tokens of texts, as the device does."""
    return TextEncoder(
        (model.tokenizer_json or "").encode(),
        file=raw.tokenizer,
        min_tokens=fewest_tokens(model, raw),
        max_tokens=raw.max_tokens,
        where="text",
    )


def raw_value_stream(
    samples: Sequence[Sample], model: TakesRawInputs, *, limit: int | None = None
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Raw values one sample at a time, as the device would feed them: for calibration, parity and golden samples.

    Nothing is kept in memory; ``limit`` samples are taken evenly spread, of those that have every modality.

    Yields:
        ``image`` uint8 (1, H, W, 3), ``input_ids`` and ``attention_mask`` int64 (1, T), ``waveform`` float32 (1, N),
        tensors (1, ...): what the model takes and the sample has.

    Raises:
        DataError: a file that can't be decoded, or none of the model's modalities in a sample.
    """
    encoders = {
        modality: text_encoder(model, raw) for modality, raw in model.inputs.items() if isinstance(raw, TextInput)
    }
    lengths = {n: part.signature.dims.get("samples") for part in model.chain for n in part.signature.input_names}
    dtypes = {spec.name: spec.dtype for part in model.chain for spec in part.signature.inputs}
    for sample in covering_samples(samples, tuple(model.inputs), limit):
        values: dict[str, NDArray[np.generic]] = {}
        try:
            for modality, raw in model.inputs.items():
                if isinstance(raw, TextInput) and sample.text is not None:
                    values[raw.ids], values[raw.mask] = encoders[modality].encode([sample.text])
                elif not isinstance(raw, TextInput) and (path := sample.file(modality)) is not None:
                    dtype = dtypes.get(raw.values[0], "float32")
                    values[raw.values[0]] = read_file(path, raw, lengths=lengths.get(raw.values[0]), dtype=dtype)[None]
        except (InputError, DataError) as error:
            raise DataError(f"sample '{sample.id}': {error}") from error
        if not values:
            raise DataError(f"sample '{sample.id}' has none of what the model takes: {', '.join(model.inputs)}")
        yield values
