"""Audio frontends: transformers' numbers in torch and in ONNX, configs compiled, a bundle fed with files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import transformers
from transformers.audio_utils import mel_filter_bank

from edgemm.graph.capture import capture_model, capture_part
from edgemm.graph.parity import OnnxGraph
from edgemm.models.audio_frontend import (
    _EXTRACTORS,
    AstFrontend,
    ClapFrontend,
    WaveformFrontend,
    WhisperFrontend,
    audio_frontend_from_extractor,
)
from edgemm.models.mel import mel_filters
from edgemm.models.model import Model
from edgemm.models.part_kinds import module_from_config
from edgemm.models.parts import audio_frontend_part
from edgemm.models.store import load_model, save_model
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Values
from edgemm.runtime.waveforms import decode_audio
from edgemm.stage import Context
from install import find_sounds


def voice(seconds: float, *, rate: int, seed: int) -> np.ndarray:
    """Like speech: harmonics of a gliding pitch, syllables, noise bursts, a chirp through the whole band."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 40 * np.sin(2 * np.pi * 1.3 * time)) / rate
    sound = sum(np.sin(h * phase) / h for h in range(1, 25)) * (np.sin(2 * np.pi * 2 * time) > -0.3)
    sound += 0.1 * rng.normal(size=len(time)) * (np.sin(2 * np.pi * 3 * time + seed) > 0.8)
    sound += 0.3 * np.sin(2 * np.pi * (50 * time + rate / 8 * time**2))
    return (0.2 * sound).astype(np.float32)


def spoken(rate: int) -> list[np.ndarray]:
    """Up to eight real sounds, whole."""
    folder = find_sounds()
    assert folder is not None
    paths = sorted(Path(folder).glob("*.wav"))[:8]
    return [decode_audio(path, sample_rate=rate, where="audio") for path in paths]


def sounds(rate: int, longest: float) -> Iterator[np.ndarray]:
    """Real ones, and synthetic ones, up to ``longest`` seconds."""
    yield from (sound[: int(longest * rate)] for sound in spoken(rate))
    yield voice(0.31 * longest, rate=rate, seed=0)
    yield voice(longest, rate=rate, seed=1)
    yield voice(0.03, rate=rate, seed=2)
    yield 1e-3 * voice(0.8 * longest, rate=rate, seed=3)  # quiet
    yield 0.7 + 0.1 * voice(0.7 * longest, rate=rate, seed=4)  # beside a constant
    yield np.zeros(rate, np.float32)[: int(longest * rate)]


FEW_BINS = pytest.mark.filterwarnings("ignore:At least one mel filter")  # AST's 128 filters over 257 bins

EXTRACTORS = {
    # at lengths that export in seconds
    "whisper": ("WhisperFeatureExtractor", {"chunk_length": 2}, 2.0),
    "whisper, 128 mels": ("WhisperFeatureExtractor", {"chunk_length": 1, "feature_size": 128}, 1.0),
    "clap": ("ClapFeatureExtractor", {"max_length_s": 2, "truncation": "rand_trunc"}, 2.0),
    "clap, fusion": ("ClapFeatureExtractor", {"max_length_s": 1, "frequency_min": 50}, 1.0),
    "clap, repeat": ("ClapFeatureExtractor", {"max_length_s": 1, "truncation": "rand_trunc", "padding": "repeat"}, 1.0),
    "clap, pad": ("ClapFeatureExtractor", {"max_length_s": 1, "truncation": "rand_trunc", "padding": "pad"}, 1.0),
    "ast": ("ASTFeatureExtractor", {"max_length": 130}, 1.3),
    "ast, plain": ("ASTFeatureExtractor", {"max_length": 100, "num_mel_bins": 64, "do_normalize": False}, 1.0),
    "wav2vec2": ("Wav2Vec2FeatureExtractor", {"return_attention_mask": True}, 2.0),
    "wav2vec2, plain": ("Wav2Vec2FeatureExtractor", {"do_normalize": False}, 2.0),
}


@FEW_BINS
@pytest.mark.needs("sounds")
@pytest.mark.parametrize("name", EXTRACTORS)
def test_a_feature_extractor_compiles_and_agrees_in_torch_and_in_onnx(name: str) -> None:
    kind, changes, longest = EXTRACTORS[name]
    extractor = getattr(transformers, kind)(**changes)
    compiled, arguments, raw = audio_frontend_from_extractor(
        {"feature_extractor_type": kind, **changes}, longest_s=longest
    )
    part = audio_frontend_part(compiled, arguments)
    assert raw.sample_rate == extractor.sampling_rate
    first = torch.from_numpy(voice(0.3, rate=raw.sample_rate, seed=9))[None]
    graph = OnnxGraph(capture_part(part, {"waveform": first}))
    (output,) = part.signature.output_names
    for sound in sounds(raw.sample_rate, longest):
        made = extractor(sound, sampling_rate=raw.sample_rate, return_tensors="np")
        expected = made.get("input_features", made.get("input_values"))
        in_torch = part.module(torch.from_numpy(sound)[None]).numpy()
        in_onnx = graph.run({"waveform": sound[None]})[output]
        for got in (in_torch, in_onnx):
            assert got.dtype == np.float32
            assert got.shape == expected.shape
            # Whisper's extractor is itself off by 1e-4, as it runs in float32; the others agree to 2e-5
            assert np.abs(got - expected).max() <= 2e-4


@FEW_BINS
@pytest.mark.parametrize("kind", _EXTRACTORS)
def test_the_defaults_are_the_ones_of_the_class_and_agree_at_full_length(kind: str) -> None:
    own = getattr(transformers, kind)()
    for field, default in _EXTRACTORS[kind].items():
        assert getattr(own, field) == default, field
    compiled, arguments, raw = audio_frontend_from_extractor({"feature_extractor_type": kind})
    sound = voice(7.3, rate=raw.sample_rate, seed=5)
    made = own(sound, sampling_rate=raw.sample_rate, return_tensors="np")
    expected = made.get("input_features", made.get("input_values"))
    got = module_from_config(compiled, arguments)(torch.from_numpy(sound)[None]).numpy()
    assert np.abs(got - expected).max() <= 2e-4


@pytest.mark.parametrize("scale", ["slaney", "htk", "kaldi"])
@pytest.mark.parametrize(("bins", "rate", "mels"), [(201, 16000, 80), (513, 48000, 64), (257, 16000, 23)])
def test_mel_filters_are_the_ones_of_transformers(scale: str, bins: int, rate: int, mels: int) -> None:
    expected = mel_filter_bank(
        bins, mels, 20.0, rate / 2 - 100, rate, norm="slaney" if scale == "slaney" else None, mel_scale=scale,
        triangularize_in_mel_space=scale == "kaldi",
    )  # fmt: skip
    got = mel_filters(scale, bins=bins, mels=mels, low=20, high=rate / 2 - 100, sample_rate=rate)
    np.testing.assert_allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize(
    "frontend",
    [
        WhisperFrontend(samples=8000),
        ClapFrontend(samples=8000),
        ClapFrontend(samples=8000, padding="pad"),
        AstFrontend(frames=48),
        WaveformFrontend(longest=8000),
    ],
    ids=["whisper", "clap", "clap, pad", "ast", "waveform"],
)
def test_a_longer_sound_is_cut_to_its_beginning(frontend: torch.nn.Module) -> None:
    sound = torch.from_numpy(voice(2.0, rate=16000, seed=6))[None]
    longest = frontend.samples.max
    torch.testing.assert_close(frontend(sound), frontend(sound[:, :longest]), rtol=0, atol=0)


TRUNCATED = {
    "whisper": ("WhisperFeatureExtractor", {"chunk_length": 1}, 1.0),
    "ast": ("ASTFeatureExtractor", {"max_length": 100}, 1.0),
    "clap": ("ClapFeatureExtractor", {"max_length_s": 1, "truncation": "rand_trunc"}, 1.0),
}


@FEW_BINS
@pytest.mark.needs("sounds")
@pytest.mark.parametrize("name", TRUNCATED)
def test_a_sound_half_as_long_again_is_cut_as_the_original_extractor_cuts_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, changes, longest = TRUNCATED[name]
    monkeypatch.setattr(np.random, "randint", lambda low, _high: low)  # CLAP's window, the first of those it draws from
    extractor = getattr(transformers, kind)(**changes)
    compiled, arguments, raw = audio_frontend_from_extractor({"feature_extractor_type": kind, **changes})
    frontend = module_from_config(compiled, arguments)
    rate = raw.sample_rate
    repeated = [np.resize(sound, int(1.5 * longest * rate)) for sound in spoken(rate)]
    for sound in (*repeated, voice(1.5 * longest, rate=rate, seed=7)):
        made = extractor(sound, sampling_rate=rate, return_tensors="np")
        expected = made.get("input_features", made.get("input_values"))
        got = frontend(torch.from_numpy(sound)[None]).numpy()
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 2e-4
        ending = sound.copy()
        ending[int((longest + 0.05) * rate) :] = 0  # nothing is heard of what was cut
        np.testing.assert_array_equal(frontend(torch.from_numpy(ending)[None]).numpy(), got)


def test_sounds_of_one_length_are_the_same_in_a_batch_and_alone() -> None:
    batch = torch.from_numpy(np.stack([voice(0.4, rate=16000, seed=s) * 10.0**-s for s in range(3)]))
    for frontend in (
        WhisperFrontend(samples=8000),
        ClapFrontend(samples=8000),
        AstFrontend(frames=48),
        WaveformFrontend(),
    ):
        alone = torch.cat([frontend(sound[None]) for sound in batch])
        torch.testing.assert_close(frontend(batch), alone, rtol=1e-5, atol=1e-5)


def test_a_checkpoint_of_any_age_compiles() -> None:
    old = transformers.WhisperFeatureExtractor().to_dict() | {
        "mel_filters": [[0.0]],
        "nb_max_frames": 1,
        "n_samples": 5,
    }
    assert audio_frontend_from_extractor(old)[1]["samples"] == 480000
    clap = {
        "chunk_length_s": 10, "feature_extractor_type": "ClapFeatureExtractor", "feature_size": 64,
        "fft_window_size": 1024, "frequency_max": 14000, "frequency_min": 0, "hop_length": 480, "max_length_s": 10,
        "n_fft": 1024, "nb_frequency_bins": 513, "nb_max_frames": 1000, "nb_max_samples": 480000,
        "padding": "repeatpad", "padding_side": "right", "padding_value": 0.0, "processor_class": "ClapProcessor",
        "return_attention_mask": False, "sampling_rate": 48000, "top_db": None, "truncation": "rand_trunc",
    }  # fmt: skip
    kind, arguments, raw = audio_frontend_from_extractor(clap)
    assert (kind, arguments["scale"], raw.sample_rate) == ("clap-frontend", "slaney", 48000)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "feature_extractor_type = None; expected one of WhisperFeatureExtractor, Clap"),
        ({"feature_extractor_type": "Speech2TextFeatureExtractor"}, "feature_extractor_type = 'Speech2Text"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}, "dither = 0.1; expected 0"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "padding_value": 1.0}, "padding_value = 1.0"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "padding_side": "left"}, "expected 'right'"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "hop_length": 0}, "hop_length = 0; expected a whole"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "loudness": 3}, "loudness = 3; expected none"),
        ({"feature_extractor_type": "ClapFeatureExtractor", "truncation": "x"}, "truncation = 'x'; expected rand"),
        ({"feature_extractor_type": "ClapFeatureExtractor", "padding": "max"}, "padding = 'max'; expected pad or"),
        ({"feature_extractor_type": "ClapFeatureExtractor", "frequency_min": "low"}, "frequency_min = 'low'"),
        ({"feature_extractor_type": "ASTFeatureExtractor", "sampling_rate": 8000}, "sampling_rate = 8000; expected 16"),
        ({"feature_extractor_type": "ASTFeatureExtractor", "std": float("nan")}, "std = nan; expected a number"),
    ],
)  # fmt: skip
def test_a_field_that_cannot_be_compiled_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        audio_frontend_from_extractor(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        ("whisper-frontend", {"samples": 200}, "200 samples; expected at least 201, one frame"),
        ("clap-frontend", {"padding": "loop"}, "padding 'loop'; expected one of pad, repeat"),
        ("clap-frontend", {"scale": "bark"}, "scale 'bark'"),
        ("clap-frontend", {"low": 9000, "high": 80}, "9000 to 80 Hz"),
        ("waveform-frontend", {"longest": 100}, "100 samples; expected at least 400"),
        ("ast-frontend", {"hop": 80}, "doesn't fit"),
    ],
)
def test_arguments_without_a_meaning_are_refused(kind: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        module_from_config(kind, config)


def test_a_bundle_takes_files_of_any_rate_and_length_and_gives_the_frontends_numbers(tmp_path: Path) -> None:
    kind, arguments, raw = audio_frontend_from_extractor(
        {"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 1}
    )
    model = Model("sound", [audio_frontend_part(kind, arguments)], inputs={"audio": raw}, outputs={"log_mel": Values()})
    save_model(model, tmp_path / "model")
    model = load_model(tmp_path / "model")
    sample = {"waveform": voice(0.5, rate=16000, seed=1)[None]}
    capture_model(model, [sample], tmp_path / "bundle", name="sound", context=Context(tmp_path))
    files = []
    for rate, seconds, format in ((44100, 0.6, "WAV"), (8000, 1.7, "FLAC"), (16000, 0.001, "WAV")):
        held = io.BytesIO()
        soundfile.write(held, np.stack([voice(seconds, rate=rate, seed=rate)] * 2, axis=1), rate, format=format)
        files.append(held.getvalue())
    got = Bundle.open(tmp_path / "bundle").predict(audio=files).outputs["log_mel"]
    for data, row in zip(files, got, strict=True):
        waveform = decode_audio(data, sample_rate=16000, where="audio")
        expected = model.part("audio_frontend").module(torch.from_numpy(waveform)[None])[0].numpy()
        np.testing.assert_allclose(row, expected, atol=1e-5)
