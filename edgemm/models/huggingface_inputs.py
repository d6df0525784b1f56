"""What feeds a Hugging Face model, from the files beside its weights: the frontend's fields, and the tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm.models.audio_frontend import audio_frontend_from_extractor
from edgemm.models.frontend import frontend_from_processor
from edgemm.models.huggingface_towers import POSITIONS_AFTER_PADDING
from edgemm.models.model import Part
from edgemm.models.parts import audio_frontend_part, frontend_part
from edgemm.models.tokenizer import with_limits
from edgemm.runtime.errors import ModelError
from edgemm.runtime.manifest import ImageInput, RawInput, TextInput


def frontend_of(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    modality: str,
    longest_s: float | None = None,
    or_its_own: bool = False,
) -> tuple[Part, RawInput]:
    """The frontend that compiles from ``preprocessor_config.json``, and the raw input that it reads.

    Args:
        kind: of model, in the tables.
        config: of the model.
        modality: ``"image"`` or ``"audio"``.
        longest_s: seconds of sound; see ``encoder_from_hub``, also for ``or_its_own``.

    Raises:
        ModelError: a file that can't be read, a field that can't be compiled, or a length that the tower doesn't take.
    """
    content = read_json(folder / "preprocessor_config.json")
    if modality == "image":
        size: int | None = None
        if kind.startswith("vilt"):  # its processor keeps an image's shape; a tower needs one
            edge, divisor = content.get("size") or 384, int(content.get("size_divisor") or 32)
            edge = edge.get("shortest_edge", 384) if isinstance(edge, dict) else edge
            size = int(edge) // divisor * divisor
        return frontend_part(frontend_from_processor(content, fixed_size=size)), ImageInput()
    name, arguments, raw = audio_frontend_from_extractor(content, longest_s=longest_s or 30)
    if name == "whisper-frontend" and longest_s is not None:
        step = 2 * int(str(arguments["hop"]))  # one position of the encoder
        whole = int(str(arguments["samples"]))
        arguments["samples"] = min(whole, max(1, round(longest_s * raw.sample_rate / step)) * step)
    elif name != "waveform-frontend" and longest_s is not None and not or_its_own:
        raise ModelError(f"{folder}: a {kind} takes sounds of one length; drop longest_s")
    if name == "waveform-frontend" and "conv_kernel" in config:
        arguments["shortest"] = _samples_of(config, frames=2)  # a graph takes a single frame for a fixed size
    if name == "clap-frontend":
        arguments["copies"] = 1  # the four views of a sound that isn't too long are one
    return audio_frontend_part(name, arguments), raw


def _samples_of(config: Mapping[str, Any], *, frames: int) -> int:
    """How long a sound has to be for wav2vec 2.0's convolutions to make so many frames."""
    for kernel, stride in zip(reversed(config["conv_kernel"]), reversed(config["conv_stride"]), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


def text_input_of(
    folder: Path, config: Mapping[str, Any], max_tokens: int | None, *, full_length: bool
) -> tuple[TextInput, str]:
    """Raw input and tokenizer for a text tower.

    Args:
        folder: has ``tokenizer.json``.
        config: of the tower.
        max_tokens: None: as many as the tower takes.
        full_length: every text is padded to them.

    Raises:
        ModelError: a file that can't be read.
    """
    tokens = int(config["max_position_embeddings"])
    if config.get("model_type") in POSITIONS_AFTER_PADDING:
        tokens -= int(config.get("pad_token_id", 1)) + 1
    tokens = min(tokens, max_tokens or tokens)
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"{path}: can't be read ({error.strerror}); edgemm needs the fast tokenizer: save it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        ) from error
    return TextInput("tokenizer.json", tokens), with_limits(text, tokens, length=tokens if full_length else None)


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file of the checkpoint. Raises ModelError naming it."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror}); is the model's folder complete?") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    return content
