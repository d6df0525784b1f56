"""The explicit table that rebuilds a part's module from what ``model.json`` says of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from edgemm.models.audio_frontend import AstFrontend, ClapFrontend, WaveformFrontend, WhisperFrontend
from edgemm.models.efficientnet import AudioCnn, EfficientNetLite
from edgemm.models.frontend import ImageFrontend
from edgemm.models.fusion import fusion
from edgemm.models.heads import Decision, MlpHead, Projection
from edgemm.models.tensors import TensorMlp
from edgemm.models.text import TextTransformer
from edgemm.runtime.errors import ModelError


def _hf(**config: object) -> nn.Module:
    from edgemm.models.huggingface import hf_tower  # transformers takes seconds to import

    return hf_tower(**config)  # type: ignore[arg-type]


def _python(**config: object) -> nn.Module:
    from edgemm.models.outside import module_from_factory

    return module_from_factory(**config)  # type: ignore[arg-type]


KINDS: Mapping[str, Callable[..., nn.Module]] = {
    "image-frontend": ImageFrontend,
    "whisper-frontend": WhisperFrontend,
    "clap-frontend": ClapFrontend,
    "ast-frontend": AstFrontend,
    "waveform-frontend": WaveformFrontend,
    "efficientnet-lite": EfficientNetLite,
    "audio-cnn": AudioCnn,
    "text-transformer": TextTransformer,
    "tensor-mlp": TensorMlp,
    "projection": Projection,
    "fusion": fusion,
    "mlp-head": MlpHead,
    "decision": Decision,
    "hf": _hf,
    "python": _python,
}


def module_from_config(kind: str, config: Mapping[str, object]) -> nn.Module:
    """The module of a part, with fresh weights.

    Raises:
        ModelError: an unknown kind, or a config that the kind doesn't take.
    """
    if kind not in KINDS:
        raise ModelError(f"part kind '{kind}' is unknown; expected one of {', '.join(KINDS)}")
    try:
        return KINDS[kind](**config)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"part kind '{kind}': config {dict(config)} doesn't fit: {error}") from error
