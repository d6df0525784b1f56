"""Waveforms: a sound file or an array becomes float32 mono samples at the rate a model was trained on.

Files are read in blocks and mixed down block by block, so that neither many channels nor a header that claims a week
takes more memory than the answer.
"""

from __future__ import annotations

import io
import math
from collections import deque
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from edgemm.runtime.chunks import find_samples
from edgemm.runtime.errors import EngineNotInstalled, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.regular import open_given

ZERO_CROSSINGS = 16  # half-width of the resampling filter
RATES = (1_000, 768_000)  # Hz of a file; beyond them a header is broken, or a few bytes would become gigabytes
MAX_CHANNELS = 64  # of an array: more is an array (channels, samples)
MAX_SAMPLES = 100_000_000  # of one channel, 400 MB: 104 minutes at 16 kHz
MAX_FILE_BYTES = 1 << 32  # of a sound file
_BLOCK = 1 << 18  # numbers that are decoded at a time, all channels together
_WINDOW = 1 << 22  # numbers that the resampling filter takes at a time


@dataclass(frozen=True, slots=True)
class Sound:
    """One decoded file: float32 (samples,) of its channels' mean, their rate in Hz, and how many the header claims.

    ``claimed`` is None where the header doesn't say.
    """

    samples: np.ndarray
    rate: int
    claimed: int | None


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
    if isinstance(raw, np.ndarray):
        return _check_array(raw, where, limit)
    sound = read_sound(raw, where=where, sample_rate=sample_rate, limit=limit)
    count = -(-len(sound.samples) * sample_rate // sound.rate)
    if limit is None and count > MAX_SAMPLES:
        raise InputError(f"{where}: {count} samples at {sample_rate} Hz, expected at most {MAX_SAMPLES}; cut the sound")
    return resample(sound.samples, sound.rate, sample_rate)[:limit]


def read_sound(raw: Any, *, where: str, sample_rate: int = RATES[0], limit: int | None = None) -> Sound:
    """``decode_audio`` of a file before the resampling. Raises what it raises.

    Args:
        limit: of a longer file no more is decoded than so many samples at ``sample_rate`` need.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: the package is there, libsndfile is not
        raise EngineNotInstalled(
            f"{where}: soundfile is not installed; {pip_install('soundfile')}, or give a float32 array"
        ) from error
    source, name = open_given(raw, where=where, largest=MAX_FILE_BYTES, expected="a float32 array")
    try:
        with source, _forward(soundfile.SoundFile)(_with_size(source)) as file:
            rate = int(file.samplerate)
            if not RATES[0] <= rate <= RATES[1]:
                raise InputError(f"{name}: a sample rate of {rate} Hz, expected {RATES[0]} to {RATES[1]}")
            needed = None if limit is None else math.ceil(limit * rate / sample_rate) + _reach(rate, sample_rate) + 1
            claimed = int(file.frames)
            samples = _mixed_down(file, name, needed)
            return Sound(samples, rate, claimed if claimed < 2**62 else None)
    except InputError:
        raise
    except Exception as error:  # libsndfile's errors, and what Python makes of the sizes that a file claims
        reason = getattr(error, "error_string", None) or one_line(error)  # the rest of it is a buffer's address
        if " object at 0x" in reason:
            reason = type(error).__name__
        raise InputError(f"{name}: not a sound file that libsndfile knows, or corrupt: {reason}") from error


def _forward(file: Any) -> Any:
    """``soundfile.SoundFile`` that never seeks: it would after each block, which FLAC streams can't."""

    class Forward(file):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Forward


def _mixed_down(file: Any, name: str, needed: int | None) -> np.ndarray:
    """Return the mean of a file's channels, read in blocks: float32 (samples,), at most ``needed``."""
    blocks: deque[np.ndarray] = deque()
    count, rows = 0, max(1, _BLOCK // file.channels)
    while needed is None or count < needed:
        block = file.read(rows if needed is None else min(rows, needed - count), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        if not np.isfinite(block).all():
            raise InputError(f"{name}: {int((~np.isfinite(block)).sum())} samples are NaN or infinite")
        blocks.append(block[:, 0].copy() if file.channels == 1 else block.mean(axis=1))
        count += len(block)
        if count > MAX_SAMPLES:
            raise InputError(f"{name}: more than {MAX_SAMPLES} samples, expected at most so many; cut the sound")
    if count == 0:
        raise InputError(f"{name}: got samples of shape (0, {file.channels}), expected some")
    made = np.empty(count, np.float32)
    while blocks:  # each is freed as it is copied
        block = blocks.pop()
        made[count - len(block) : count] = block
        count -= len(block)
    return made


def _with_size(file: BinaryIO) -> BinaryIO:
    """The file; or, where its chunk of samples says 0 and samples follow, a copy that says how many bytes they are."""
    found = find_samples(file)
    file.seek(0)
    if found is None or found.announced is not None:
        return file
    data = bytearray(file.read())
    if data[:4] == b"RIFF" and not any(data[found.size_at : found.begin]):
        data[found.size_at : found.begin] = found.there.to_bytes(4, "little")
    return io.BytesIO(data)


def _check_array(raw: np.ndarray, where: str, limit: int | None) -> np.ndarray:
    if not np.issubdtype(raw.dtype, np.floating):
        raise InputError(f"{where}: got an array of {raw.dtype}, expected float32 in -1..1")
    samples = raw[:limit] if raw.ndim else raw
    if samples.ndim not in (1, 2) or samples.size == 0 or (samples.ndim == 2 and samples.shape[1] > MAX_CHANNELS):
        raise InputError(f"{where}: got samples of shape {samples.shape}, expected (samples,) or (samples, channels)")
    with np.errstate(over="ignore"):  # float64 beyond float32 is infinite, and found below
        samples = samples.astype(np.float32, copy=False)
    if not np.isfinite(samples).all():
        raise InputError(f"{where}: {int((~np.isfinite(samples)).sum())} samples are NaN or infinite")
    mono: np.ndarray = samples if samples.ndim == 1 else samples.mean(axis=1)
    return mono


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
    rows = max(1, _WINDOW // len(offsets))

    def taps_of(places: np.ndarray) -> np.ndarray:
        """Return the filters of places in 1/up source samples: float32 (places, K)."""
        distance = (offsets - ((places % up) / up)[:, None]) * cutoff
        window = np.where(np.abs(distance) < ZERO_CROSSINGS, np.cos(np.pi * distance / (2 * ZERO_CROSSINGS)) ** 2, 0.0)
        taps = np.sinc(distance) * window
        filters: np.ndarray = (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)
        return filters

    if count < 4 * up:  # hardly two samples have one phase
        for start in range(0, count, rows):
            places = np.arange(start, min(start + rows, count)) * down
            made[start : start + rows] = np.einsum("nk,nk->n", windows[places // up], taps_of(places))
        return made
    for phase in range(up):
        taps = taps_of(np.array([phase * down]))[0]
        for start in range(phase, count, rows * up):
            places = np.arange(start, min(start + rows * up, count), up) * down
            made[start : start + rows * up : up] = windows[places // up] @ taps
    return made


def _reach(source_rate: int, target_rate: int) -> int:
    """Source samples to each side that one made sample depends on."""
    return math.ceil(ZERO_CROSSINGS * max(1.0, source_rate / target_rate))
