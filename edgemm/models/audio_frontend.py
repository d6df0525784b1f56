"""Audio frontends: a waveform becomes what an audio tower was trained on, as a torch module that exports to ONNX.

One rule for sounds of any length: a frontend whose tower takes a fixed length pads inside its graph, as the original
extractor does, and takes any length up to that; a longer sound is cut to its beginning. So the device feeds what it
decoded, at the sample rate that the bundle names, and sounds of different lengths run one by one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.mel import MelPower, mel_filters
from edgemm.runtime.errors import ModelError
from edgemm.runtime.readers import AudioInput
from edgemm.runtime.signature import Dim, DimRange

PADDINGS = ("pad", "repeat", "repeatpad")


class WhisperFrontend(nn.Module):
    """float32 (batch, samples) to log-mel (batch, mels, samples // hop), padded with zeros to ``samples``.

    Args:
        mels: filters from 0 to 8000 Hz, on Slaney's scale.
        sample_rate: Hz.
        samples: length that the tower takes.
        fft: samples of a frame, which is centred; a periodic Hann window.
        hop: samples from one frame to the next.

    Source: Radford et al. 2022, "Robust Speech Recognition via Large-Scale Weak Supervision"; transformers'
    WhisperFeatureExtractor.
    """

    def __init__(
        self, *, mels: int = 80, sample_rate: int = 16000, samples: int = 480000, fft: int = 400, hop: int = 160
    ) -> None:
        super().__init__()
        self.samples, self.margin = samples_up_to(samples, 1, least=fft // 2 + 1), fft // 2
        self.outputs: tuple[str, tuple[Dim, ...]] = ("log_mel", (mels, samples // hop))
        filters = mel_filters("slaney", bins=fft // 2 + 1, mels=mels, low=0, high=8000, sample_rate=sample_rate)
        self.power = MelPower(window=np.hanning(fft + 1)[:-1], fft=fft, hop=hop, frames=samples // hop, filters=filters)

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class."""
        x = mirrored(zero_padded(waveform, self.samples.max), self.margin)
        x = self.power(x).clamp(min=1e-10).log10()  # (B, frames, mels)
        x = torch.maximum(x, x.amax((1, 2), keepdim=True) - 8.0)
        return ((x + 4.0) / 4.0).transpose(1, 2)


class ClapFrontend(nn.Module):
    """float32 (batch, samples) to decibels (batch, copies, samples // hop + 1, mels).

    Of a sound longer than ``samples`` CLAP takes a window at random or, with fusion, three of them and the whole
    shrunk; this takes the beginning, and with fusion four copies of it, as CLAP does of shorter sounds. No sound is
    longer than the tower takes, then: ``is_longer`` is False for all (transformers says True of one per batch).

    Args:
        mels: filters from ``low`` to ``high`` Hz.
        sample_rate: Hz.
        samples: length that the tower takes.
        fft: samples of a frame, which is centred; a periodic Hann window.
        hop: samples from one frame to the next.
        scale: ``"slaney"`` without fusion, ``"htk"`` with it.
        padding: of shorter sounds: ``"pad"`` with zeros, ``"repeat"``, or ``"repeatpad"`` whole times, then zeros.
        copies: 4 with fusion, whose towers take four views of a sound, else 1.

    Source: Wu et al. 2023, "Large-scale Contrastive Language-Audio Pretraining"; transformers' ClapFeatureExtractor.
    """

    def __init__(
        self,
        *,
        mels: int = 64,
        sample_rate: int = 48000,
        samples: int = 480000,
        fft: int = 1024,
        hop: int = 480,
        low: float = 0,
        high: float = 14000,
        scale: str = "slaney",
        padding: str = "repeatpad",
        copies: int = 1,
    ) -> None:
        super().__init__()
        if padding not in PADDINGS:
            raise ModelError(f"clap frontend: padding '{padding}'; expected one of {', '.join(PADDINGS)}")
        self.samples, self.margin = samples_up_to(samples, 1, least=fft // 2 + 1), fft // 2
        self.padding, self.copies, frames = padding, copies, samples // hop + 1
        self.outputs: tuple[str, tuple[Dim, ...]] = ("log_mel", (copies, frames, mels))
        filters = mel_filters(scale, bins=fft // 2 + 1, mels=mels, low=low, high=high, sample_rate=sample_rate)
        self.power = MelPower(window=np.hanning(fft + 1)[:-1], fft=fft, hop=hop, frames=frames, filters=filters)

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class."""
        if self.padding == "pad":
            x = zero_padded(waveform, self.samples.max)
        else:
            x = repeated(waveform, self.samples.max, whole=self.padding == "repeatpad")
        power: Tensor = self.power(mirrored(x, self.margin))  # (B, frames, mels)
        return (10.0 * power.clamp(min=1e-10).log10())[:, None].expand(-1, self.copies, -1, -1)


class AstFrontend(nn.Module):
    """float32 (batch, samples) to normalised log-mel (batch, frames, mels) in the manner of Kaldi, at 16 kHz.

    Frames of 25 ms every 10 ms that lie wholly in the sound: without their mean, pre-emphasised, under a symmetric
    Hann window. Where the sound has fewer than ``frames``, the rest is 0 before normalisation.

    Args:
        mels: filters from 20 to 8000 Hz.
        frames: length that the tower takes.
        mean, std: what is subtracted and then divided by.

    Source: Gong et al. 2021, "AST: Audio Spectrogram Transformer"; transformers' ASTFeatureExtractor.
    """

    def __init__(self, *, mels: int = 128, frames: int = 1024, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        size, self.hop = 400, 160
        self.samples, self.mean, self.std = samples_up_to(size + (frames - 1) * self.hop, size), mean, std
        self.outputs: tuple[str, tuple[Dim, ...]] = ("log_mel", (frames, mels))
        filters = mel_filters("kaldi", bins=257, mels=mels, low=20, high=8000, sample_rate=16000)
        emphasis = np.eye(size) - 0.97 * np.eye(size, k=-1)
        emphasis[0, 0] = 1 - 0.97  # as if the first sample stood before itself
        linear = emphasis @ (np.eye(size) - 1 / size)
        self.power = MelPower(
            window=np.hanning(size), fft=512, hop=self.hop, frames=frames, filters=filters, linear=linear
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class."""
        present = (waveform.shape[1] - self.samples.min) // self.hop + 1
        x = self.power(zero_padded(waveform, self.samples.max)).clamp(min=2.0**-23).log()
        inside = torch.arange(x.shape[1], device=x.device) < present
        return (torch.where(inside[:, None], x, 0.0) - self.mean) / self.std


class WaveformFrontend(nn.Module):
    """float32 (batch, samples) as wav2vec 2.0 and HuBERT take it: the same shape, with mean 0 and variance 1.

    Args:
        normalise: False passes the sound on as it is.
        longest: samples at most, to which a longer sound is cut.
        shortest: samples at least; the device pads with zeros to it. The towers' convolutions need 400.

    Source: Baevski et al. 2020, "wav2vec 2.0"; transformers' Wav2Vec2FeatureExtractor.
    """

    def __init__(self, *, normalise: bool = True, longest: int = 480000, shortest: int = 400) -> None:
        super().__init__()
        self.samples, self.normalise = samples_up_to(longest, shortest), normalise
        self.outputs: tuple[str, tuple[Dim, ...]] = ("normalised_waveform", ("samples",))

    def forward(self, waveform: Tensor) -> Tensor:
        """See the class."""
        x = waveform[:, : self.samples.max]
        if not self.normalise:
            return x
        x = x - x.mean(1, keepdim=True)
        return x / torch.sqrt((x * x).mean(1, keepdim=True) + 1e-7)


AudioFrontend = WhisperFrontend | ClapFrontend | AstFrontend | WaveformFrontend
"""Each has ``samples``, the lengths it takes, and ``outputs``, name and shape of what it makes (without the batch)."""


# --- lengths ---------------------------------------------------------------------------------------------------------


def samples_up_to(longest: int, shortest: int, *, least: int = 1) -> DimRange:
    """Range of a waveform's length; ``least``: what ``longest`` has to be. Raises ModelError."""
    if longest < max(shortest, least):
        raise ModelError(f"audio frontend: {longest} samples; expected at least {max(shortest, least)}, one frame")
    return DimRange(shortest, longest, longest)


def zero_padded(waveform: Tensor, samples: int) -> Tensor:
    """(B, N) cut to its beginning, or padded with zeros, to (B, samples)."""
    x = waveform[:, :samples]
    return F.pad(x, (0, samples - x.shape[1]))


def repeated(waveform: Tensor, samples: int, *, whole: bool) -> Tensor:
    """(B, N) cut to its beginning, or repeated, to (B, samples); ``whole``: zeros for a last repetition cut short."""
    x = waveform[:, :samples]
    # a tensor, since the exporter has no remainder by a size
    length = torch.full((1,), x.shape[1], device=x.device)
    place = torch.arange(samples, device=x.device)
    repetitions = x.index_select(1, place % length)
    total = torch.full_like(length, samples)
    return torch.where(place < total - total % length, repetitions, 0.0) if whole else repetitions


def mirrored(waveform: Tensor, margin: int) -> Tensor:
    """(B, N) to (B, margin + N + margin), so that frames are centred."""
    return F.pad(waveform[:, None], (margin, margin), mode="reflect")[:, 0]


# --- from a Hugging Face feature extractor ---------------------------------------------------------------------------

_EXTRACTORS: Mapping[str, Mapping[str, Any]] = {
    # class: every field that its arithmetic reads, with its constructor's default (transformers 4.57)
    "WhisperFeatureExtractor": {
        "feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "chunk_length": 30, "n_fft": 400,
        "padding_value": 0.0, "padding_side": "right", "dither": 0.0,
    },
    "ClapFeatureExtractor": {
        "feature_size": 64, "sampling_rate": 48000, "hop_length": 480, "max_length_s": 10, "fft_window_size": 1024,
        "frequency_min": 0, "frequency_max": 14000, "truncation": "fusion", "padding": "repeatpad",
    },
    "ASTFeatureExtractor": {
        "sampling_rate": 16000, "num_mel_bins": 128, "max_length": 1024, "do_normalize": True, "mean": -4.2677393,
        "std": 4.5689974,
    },
    "Wav2Vec2FeatureExtractor": {"sampling_rate": 16000, "do_normalize": True},
}  # fmt: skip
"""HuBERT takes wav2vec 2.0's."""

# What changes no value of one sound: bookkeeping, what follows from other fields, masks of a batch's padding
_HARMLESS = {
    "feature_extractor_type", "processor_class", "_processor_class", "return_attention_mask", "n_samples",
    "nb_max_frames", "nb_max_samples", "nb_frequency_bins", "mel_filters", "mel_filters_slaney", "window",
    "chunk_length_s", "top_db",
}  # fmt: skip


def audio_frontend_from_extractor(
    config: Mapping[str, object], *, longest_s: float = 30
) -> tuple[str, dict[str, object], AudioInput]:
    """Kind, keyword arguments and raw input of the frontend for a Hugging Face feature extractor's config.

    A field that is left out, or null, has the default of the extractor's class. A field that only other classes read
    is ignored, as transformers does.

    Args:
        config: the parsed ``preprocessor_config.json``.
        longest_s: seconds that a raw waveform is cut to; wav2vec 2.0's extractor has no limit of its own.

    Raises:
        ModelError: a field whose arithmetic the frontends don't have, by name.
    """
    name = config.get("feature_extractor_type")
    defaults = _EXTRACTORS.get(str(name))
    if defaults is None:
        raise _refusal("feature_extractor_type", name, f"one of {', '.join(_EXTRACTORS)}")
    known = _HARMLESS.union(*_EXTRACTORS.values())
    for field, value in config.items():
        if field not in known and value not in (None, False):
            raise _refusal(field, value, "none; it is no field of a feature extractor that edgemm knows")
    fields: dict[str, Any] = {
        field: default if config.get(field) is None else config[field] for field, default in defaults.items()
    }
    for field in (
        "sampling_rate",
        "feature_size",
        "num_mel_bins",
        "hop_length",
        "chunk_length",
        "max_length_s",
        "max_length",
        "n_fft",
        "fft_window_size",
    ):
        if field in fields and not (isinstance(fields[field], int) and fields[field] > 0):
            raise _refusal(field, fields[field], "a whole number above 0")
    for field in ("mean", "std", "frequency_min", "frequency_max"):
        if field in fields and not (isinstance(fields[field], int | float) and math.isfinite(fields[field])):
            raise _refusal(field, fields[field], "a number")
    kind, arguments = _compiled(str(name), fields, longest_s)
    return kind, arguments, AudioInput(sample_rate=fields["sampling_rate"])


def _compiled(name: str, fields: Mapping[str, Any], longest_s: float) -> tuple[str, dict[str, object]]:
    rate = fields["sampling_rate"]
    if name == "WhisperFeatureExtractor":
        for field, only in (("padding_value", 0), ("padding_side", "right"), ("dither", 0)):
            if fields[field] != only:
                raise _refusal(field, fields[field], repr(only))
        return "whisper-frontend", {
            "mels": fields["feature_size"], "sample_rate": rate, "samples": fields["chunk_length"] * rate,
            "fft": fields["n_fft"], "hop": fields["hop_length"],
        }  # fmt: skip
    if name == "ClapFeatureExtractor":
        if fields["truncation"] not in ("rand_trunc", "fusion"):
            raise _refusal("truncation", fields["truncation"], "rand_trunc or fusion")
        if fields["padding"] not in PADDINGS:
            raise _refusal("padding", fields["padding"], " or ".join(PADDINGS))
        fusion = fields["truncation"] == "fusion"
        return "clap-frontend", {
            "mels": fields["feature_size"], "sample_rate": rate, "samples": fields["max_length_s"] * rate,
            "fft": fields["fft_window_size"], "hop": fields["hop_length"],
            "low": fields["frequency_min"], "high": fields["frequency_max"],
            "scale": "htk" if fusion else "slaney", "padding": fields["padding"], "copies": 4 if fusion else 1,
        }  # fmt: skip
    if name == "ASTFeatureExtractor":
        if rate != 16000:  # its frames are 400 samples in numpy, and 25 ms where torchaudio is installed
            raise _refusal("sampling_rate", rate, "16000")
        mean, std = (fields["mean"], 2 * fields["std"]) if fields["do_normalize"] else (0.0, 1.0)
        return "ast-frontend", {
            "mels": fields["num_mel_bins"], "frames": fields["max_length"], "mean": mean, "std": std
        }  # fmt: skip
    return "waveform-frontend", {"normalise": bool(fields["do_normalize"]), "longest": int(longest_s * rate)}


def _refusal(field: str, got: object, expected: str) -> ModelError:
    return ModelError(f"preprocessor_config.json: can't compile {field} = {got!r}; expected {expected}")
