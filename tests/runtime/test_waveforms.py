"""Sounds from anywhere: what a header claims, what is there, and what reading may cost."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edgemm.data.sound import check_sound
from edgemm.runtime import waveforms
from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.waveforms import decode_audio, read_sound, resample

STEREO = (0.2 * np.random.default_rng(0).normal(size=(9000, 2))).astype(np.float32)


def written(format: str, subtype: str | None = None, *, samples: np.ndarray = STEREO, rate: int = 16000) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, samples, rate, format=format, subtype=subtype)
    return held.getvalue()


def sized(data: bytes, riff: int, samples: int | None = None) -> bytes:
    """A WAV whose header says other sizes."""
    made, at = bytearray(data), data.index(b"data")
    made[4:8] = struct.pack("<I", riff)
    if samples is not None:
        made[at + 4 : at + 8] = struct.pack("<I", samples)
    return bytes(made)


@pytest.mark.parametrize(
    ("riff", "samples"),
    [
        (0, 0),
        (36, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x7FFFF024, 0x7FFFF000),  # sox
        (0x80000024, 0x80000000),  # arecord
        (0x7FFFFFFF, 0x7FFFFFFF),  # Oboe
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (36044, None),  # eight too many
        (0, None),
    ],
)
def test_a_wav_from_a_pipe_holds_the_samples_that_are_there(tmp_path: Path, riff: int, samples: int | None) -> None:
    data = sized(written("WAV"), riff, samples)
    check_sound(data)
    (tmp_path / "a.wav").write_bytes(data)
    for raw in (data, tmp_path / "a.wav"):
        made = decode_audio(raw, sample_rate=16000, where="audio")
        np.testing.assert_allclose(made, STEREO.mean(axis=1), atol=2**-15)  # 16 bits


def test_an_empty_wav_is_empty_though_other_chunks_follow() -> None:
    data = written("WAV", samples=STEREO[:0]) + b"LIST\x04\0\0\0INFO"
    with pytest.raises(InputError, match=r"got samples of shape \(0, 2\)"):
        decode_audio(data, sample_rate=16000, where="audio")


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
        ("WAV", "ALAW"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM"), ("WAV", "MS_ADPCM"), ("WAVEX", None), ("RF64", None),
        ("W64", None), ("AIFF", None), ("AU", None), ("CAF", None), ("FLAC", None), ("OGG", "VORBIS"), ("MP3", None),
    ],
)  # fmt: skip
def test_every_kind_is_read_whole_and_told_where_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, format: str, subtype: str | None
) -> None:
    monkeypatch.setattr(waveforms, "_BLOCK", 1001)
    data = written(format, subtype)
    check_sound(data)
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        whole = file.read(dtype="float32", always_2d=True).mean(axis=1)
    np.testing.assert_array_equal(read_sound(data, where="audio").samples, whole)
    for end in (len(data) // 2, len(data) - 99, len(data) - 1):
        with pytest.raises(DataError):
            check_sound(data[:end])


def test_chunks_before_and_behind_the_samples_change_nothing() -> None:
    data = written("WAV")
    odd = b"LIST" + struct.pack("<I", 5) + b"INFOx\0"
    data = data[:12] + odd + data[12:] + odd
    check_sound(data)
    assert len(read_sound(data, where="audio").samples) == len(STEREO)


def claiming(data: bytes, frames: int) -> bytes:
    """A FLAC whose header says how many samples it has, in the 36 bits of STREAMINFO."""
    bits = int.from_bytes(data[18:26], "big") & ~(2**36 - 1)
    return data[:18] + (bits | frames).to_bytes(8, "big") + data[26:]


def test_a_flac_that_does_not_say_its_length_is_read_and_one_that_lies_is_told() -> None:
    data = written("FLAC")
    for frames in (0, 2**33, 2**36 - 1):
        assert len(decode_audio(claiming(data, frames), sample_rate=16000, where="audio")) == len(STEREO)
    check_sound(claiming(data, 0))
    with pytest.raises(DataError, match=rf"truncated sound: 9000 samples of {2**33}"):
        check_sound(claiming(data, 2**33))


def test_more_samples_than_the_limit_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waveforms, "MAX_SAMPLES", 20_000)
    data = written("FLAC")
    assert len(decode_audio(data, sample_rate=32000, where="audio")) == 18_000
    with pytest.raises(InputError, match="27000 samples at 48000 Hz, expected at most 20000; cut the sound"):
        decode_audio(data, sample_rate=48000, where="audio")
    assert len(decode_audio(data, sample_rate=48000, where="audio", limit=25_000)) == 25_000
    monkeypatch.setattr(waveforms, "MAX_SAMPLES", 8_000)
    with pytest.raises(InputError, match="more than 8000 samples, expected at most so many; cut the sound"):
        decode_audio(data, sample_rate=16000, where="audio")


PEAK = """
import resource, sys
sys.path[:0] = sys.argv[2:]
from edgemm.runtime.waveforms import decode_audio
import numpy, soundfile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = decode_audio(sys.argv[1], sample_rate=16000, where="audio")
print(len(made), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_many_channels_of_a_long_sound_take_little_more_memory_than_the_answer(tmp_path: Path) -> None:
    with soundfile.SoundFile(tmp_path / "a.flac", "w", 48000, 8, format="FLAC", subtype="PCM_16") as file:
        for _ in range(60):
            file.write(np.zeros((48000, 8), np.int16))
    run = [sys.executable, "-c", PEAK, str(tmp_path / "a.flac"), *sys.path]
    samples, taken = map(int, subprocess.run(run, check=True, capture_output=True, text=True).stdout.split())
    assert samples == 60 * 16000
    # 12 MB of mono at 48 kHz, 4 MB of the answer, and blocks; whole it was 92 MB of channels and 372 MB of windows
    assert taken < 70e6


@pytest.mark.parametrize(("source", "target"), [(44100, 16000), (16000, 44100), (44099, 16000), (1000, 16000)])
def test_resampling_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, source: int, target: int) -> None:
    wave = np.random.default_rng(1).normal(size=5000).astype(np.float32)
    whole = resample(wave, source, target)
    monkeypatch.setattr(waveforms, "_WINDOW", 9999)
    np.testing.assert_allclose(resample(wave, source, target), whole, atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize("source", [1000, 44099, 767_999, 768_000])
def test_a_tone_of_any_rate_is_the_tone(source: int) -> None:
    tone = np.sin(2 * np.pi * 100 * np.arange(source // 5) / source).astype(np.float32)
    made = resample(tone, source, 8000)
    expected = np.sin(2 * np.pi * 100 * np.arange(len(made)) / 8000)
    np.testing.assert_allclose(made[300:-300], expected[300:-300], atol=2e-3)  # the filter's ripple


def test_only_regular_files_are_opened() -> None:
    for path, kind in (("/dev/zero", "a device"), ("/", "a folder"), ("a\0b", "not the name of a file")):
        with pytest.raises(InputError, match=kind):
            decode_audio(path, sample_rate=16000, where="audio")
