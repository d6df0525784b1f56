"""What feeds a Hugging Face model, from the files beside its weights: the frontend's fields, and the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgemm.models.audio_frontend import audio_frontend_from_extractor
from edgemm.models.checkpoint import read_json
from edgemm.models.frontend import frontend_from_processor
from edgemm.models.huggingface_towers import POSITIONS_AFTER_PADDING
from edgemm.models.model import Part
from edgemm.models.owner_tokenizer import OwnerTokenizer
from edgemm.models.parts import audio_frontend_part, frontend_part
from edgemm.models.sentence import Sentence
from edgemm.runtime.errors import ModelError
from edgemm.runtime.readers import ImageInput, RawInput, TextInput


def frontend_of(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    modality: str,
    longest_s: float | None = None,
    or_its_own: bool = False,
) -> tuple[Part, RawInput]:
    """Return the frontend that compiles from ``preprocessor_config.json``, and the raw input that it reads.

    Args:
        kind: of model, in the tables.
        config: of the model.
        modality: ``"image"`` or ``"audio"``.
        longest_s: seconds of sound; see ``encoder_from_hub``, also for ``or_its_own``.

    Raises:
        ModelError: a file that can't be read, a field that can't be compiled, or a length that the tower doesn't take.
    """
    content = _processor_config(folder, modality)
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


_PROCESSORS = {
    "image": ("image_processor", "an image processor"),
    "audio": ("feature_extractor", "a feature extractor"),
}


def _processor_config(folder: Path, modality: str) -> dict[str, Any]:
    """Fields of the image processor or the feature extractor, from either of the two files that may have them.

    transformers 5 writes them into ``processor_config.json``, one level deeper, and no ``preprocessor_config.json``.
    """
    old, new = folder / "preprocessor_config.json", folder / "processor_config.json"
    key, what = _PROCESSORS[modality]
    inside = read_json(new).get(key) if new.is_file() else None
    if inside is not None and not isinstance(inside, dict):
        raise ModelError(f"{new}: {key} is {type(inside).__name__}, expected an object")
    if not old.is_file():
        if inside is not None:
            return inside
        if new.is_file():
            raise ModelError(f"{new}: names no {key}, and preprocessor_config.json is missing; expected {what} in one")
        if (folder / "video_preprocessor_config.json").is_file():
            raise ModelError(f"{folder}: has a processor of videos alone, and edgemm takes images; expected {what}")
        return read_json(old)  # which says that it is missing
    content = read_json(old)
    inside = inside or {}
    odd = [f for f in inside if f in content and inside[f] != content[f] and f != "processor_class"]
    if odd:
        raise ModelError(
            f"{folder}: preprocessor_config.json and processor_config.json disagree on {odd[0]}: {content[odd[0]]!r} "
            f"and {inside[odd[0]]!r}; take away the one that is out of date"
        )
    return content


def _samples_of(config: Mapping[str, Any], *, frames: int) -> int:
    """Return how long a sound has to be for wav2vec 2.0's convolutions to make so many frames."""
    for kernel, stride in zip(reversed(config["conv_kernel"]), reversed(config["conv_stride"]), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


def text_input_of(
    sentence: Sentence, config: Mapping[str, Any], max_tokens: int | None, *, name: str, full_length: bool
) -> tuple[TextInput, str]:
    """Raw input and tokenizer for a text tower.

    Args:
        sentence: which folder the tokenizer lies in, and what is said of its texts.
        config: of the tower.
        max_tokens: None: as many as its owner cuts at, and the tower takes.
        name: of the checkpoint, for messages.
        full_length: every text is padded to them.

    Raises:
        ModelError: files that can't be read, or of which the device would make other tokens than their owner.
    """
    tokens = int(config["max_position_embeddings"])
    if config.get("model_type") in POSITIONS_AFTER_PADDING:
        tokens -= int(config.get("pad_token_id", 1)) + 1
    owner = OwnerTokenizer(
        sentence.encoder, name=name, rows=int(config["vocab_size"]), lower=sentence.lower, arguments=sentence.tokenizer
    )
    tokens = min(tokens, max_tokens or sentence.max_tokens or owner.longest or tokens)
    return TextInput("tokenizer.json", tokens), owner.cut_at(tokens, length=tokens if full_length else None)
