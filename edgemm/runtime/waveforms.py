"""Waveforms: a sound file or an array becomes float32 mono samples at the rate a model was trained on."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.runtime.errors import EngineNotInstalled, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install

ZERO_CROSSINGS = 16  # half-width of the resampling filter
RATES = (1_000, 768_000)  # Hz of a file; beyond them a header is broken, or a few bytes would become gigabytes
MAX_CHANNELS = 64  # of an array: more is an array (channels, samples)


def decode_audio(raw: Any, *, sample_rate: int, where: str, limit: int | None = None) -> np.ndarray:
    """Decode one sound.

    Args:
        raw: a path or the bytes of a file that libsndfile reads (WAV, FLAC, OGG, MP3), or a float32 array
            (samples,) or (samples, channels) that is already at ``sample_rate``.
        sample_rate: Hz that the model takes.
        where: names the sample in messages.
        limit: samples wanted at most; of a longer file no more is decoded than they need.

    Returns:
        float32 (samples,): channels averaged, resampled by ``resample``, cut to ``limit``.

    Raises:
        InputError: missing, corrupt or empty, a rate outside ``RATES``, NaN or infinite samples, or an array of
            another dtype or shape.
        EngineNotInstalled: soundfile is needed and not installed.
    """
    mono, rate = read_audio(raw, sample_rate=sample_rate, where=where, limit=limit)
    return resample(mono, rate, sample_rate)[:limit]


def read_audio(raw: Any, *, sample_rate: int, where: str, limit: int | None = None) -> tuple[np.ndarray, int]:
    """``decode_audio`` before the resampling: float32 (samples,), channels averaged, and their rate in Hz.

    Of a longer file no more is decoded than ``limit`` samples at ``sample_rate`` need. Raises what it raises.
    """
    if isinstance(raw, np.ndarray):
        if not np.issubdtype(raw.dtype, np.floating):
            raise InputError(f"{where}: got an array of {raw.dtype}, expected float32 in -1..1")
        samples, rate = raw[:limit] if raw.ndim else raw, sample_rate
    else:
        samples, rate = _read(raw, where, sample_rate=sample_rate, limit=limit)
    if samples.ndim not in (1, 2) or samples.size == 0 or (samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS):
        raise InputError(f"{where}: got samples of shape {samples.shape}, expected (samples,) or (samples, channels)")
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, and found below
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise InputError(f"{where}: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    return samples if samples.ndim == 1 else samples.mean(axis=1), rate


def resample(waveform: np.ndarray, source_rate: int, target_rate: int) -> np.ndarray:
    """Change the sample rate with a polyphase Hann-windowed sinc filter.

    The cut-off is at the lower of the two Nyquist frequencies. Each of the ``up`` phases has its own taps, normalised
    to a gain of 1 at 0 Hz; the signal is taken as zero outside. Measured on tones, in parts of the lower Nyquist
    frequency: what lies up to .9 keeps its value within -44 dB; what lies above 1.1 comes back as an alias of -44 dB at
    most, above 1.2 of -56; between them the filter falls through -6 dB at 1.

    Args:
        waveform: float32 (samples,).
        source_rate: of ``waveform``, Hz.
        target_rate: wanted, Hz.

    Returns:
        float32 (ceil(samples * target_rate / source_rate),); the input itself where the rates are equal.

    Source: Smith, "Digital Audio Resampling Home Page" (windowed-sinc interpolation).
    """
    if source_rate == target_rate:
        return waveform
    divisor = math.gcd(source_rate, target_rate)
    up, down = target_rate // divisor, source_rate // divisor
    count = -(-len(waveform) * up // down)
    cutoff = min(1.0, up / down)  # of the source's Nyquist frequency
    reach = _reach(source_rate, target_rate)
    offsets = np.arange(-reach, reach + 1)  # (K,) source samples around the nearest one to the left
    padded = np.pad(waveform, (reach, reach + 1))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    made = np.empty(count, np.float32)
    for phase in range(min(up, count)):
        positions = np.arange(phase, count, up) * down  # in 1/up source samples
        distance = (offsets - (positions[0] % up) / up) * cutoff
        window = np.where(np.abs(distance) < ZERO_CROSSINGS, np.cos(np.pi * distance / (2 * ZERO_CROSSINGS)) ** 2, 0.0)
        taps = np.sinc(distance) * window
        made[phase::up] = windows[positions // up] @ (taps / taps.sum()).astype(np.float32)
    return made


def _reach(source_rate: int, target_rate: int) -> int:
    """Source samples to each side that one made sample depends on."""
    return math.ceil(ZERO_CROSSINGS * max(1.0, source_rate / target_rate))


def _read(raw: Any, where: str, *, sample_rate: int, limit: int | None) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise EngineNotInstalled(
            f"{where}: soundfile is not installed; {pip_install('soundfile')}, or give a float32 array"
        ) from error
    name = where
    try:
        if isinstance(raw, (str, os.PathLike)):
            name = f"{where} ({raw})"
            data = Path(raw).read_bytes()
        elif isinstance(raw, (bytes, bytearray, memoryview)):
            data = bytes(raw)
        else:
            raise InputError(f"{where}: got {type(raw).__name__}, expected a path, bytes or a float32 array")
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            if not RATES[0] <= rate <= RATES[1]:
                raise InputError(f"{name}: a sample rate of {rate} Hz, expected {RATES[0]} to {RATES[1]}")
            needed = -1 if limit is None else math.ceil(limit * rate / sample_rate) + _reach(rate, sample_rate) + 1
            samples = file.read(needed, dtype="float32", always_2d=True)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        reason = getattr(error, "error_string", None) or one_line(error)  # the rest of it is a buffer's address
        raise InputError(f"{name}: not a sound file that libsndfile knows, or corrupt: {reason}") from error
    return samples, rate
