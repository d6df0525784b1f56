"""OpenAI's own Whisper checkpoints as a Hugging Face folder, so that their encoder becomes a tower like any other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemm.runtime.errors import ModelError

_PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
_IN_A_LAYER = {
    "mlp.0": "fc1",
    "mlp.2": "fc2",
    "mlp_ln": "final_layer_norm",
    "attn_ln": "self_attn_layer_norm",
    "cross_attn_ln": "encoder_attn_layer_norm",
    **{f"attn.{old}": f"self_attn.{new}" for old, new in _PROJECTIONS.items()},
    **{f"cross_attn.{old}": f"encoder_attn.{new}" for old, new in _PROJECTIONS.items()},
}
_OUTSIDE = {"ln": "layer_norm", "ln_post": "layer_norm", "token_embedding": "embed_tokens"}


def renamed(key: str) -> str:
    """OpenAI's name of a tensor as transformers calls it."""
    half, *steps = key.split(".")
    if steps == ["positional_embedding"]:
        return f"{half}.embed_positions.weight"
    if steps[0] != "blocks":
        return ".".join([half, _OUTSIDE.get(steps[0], steps[0]), *steps[1:]])
    name = _IN_A_LAYER[".".join(steps[2:-1])]
    return ".".join([half, "layers", steps[1], name, steps[-1]])


def write_hugging_face(checkpoint: Path, folder: Path) -> None:
    """Write ``checkpoint`` (a ``.pt`` of OpenAI's) as a folder that ``encoder_from_hub`` opens.

    Raises:
        ModelError: not such a checkpoint; code in it is never run.
    """
    import transformers

    made: Any = transformers  # untyped where it is called
    try:
        content: Any = torch.load(checkpoint, map_location="cpu", weights_only=True)
        sizes: Mapping[str, int] = content["dims"]
        state: Mapping[str, Tensor] = content["model_state_dict"]
        config = made.WhisperConfig(
            vocab_size=sizes["n_vocab"],
            num_mel_bins=sizes["n_mels"],
            d_model=sizes["n_audio_state"],
            encoder_layers=sizes["n_audio_layer"],
            encoder_attention_heads=sizes["n_audio_head"],
            encoder_ffn_dim=4 * sizes["n_audio_state"],
            max_source_positions=sizes["n_audio_ctx"],
            decoder_layers=sizes["n_text_layer"],
            decoder_attention_heads=sizes["n_text_head"],
            decoder_ffn_dim=4 * sizes["n_text_state"],
            max_target_positions=sizes["n_text_ctx"],
            pad_token_id=sizes["n_vocab"] - 1,  # of the decoder, which is not used
        )
        model = made.WhisperModel(config)
        model.load_state_dict({renamed(key): value.float() for key, value in state.items()})
    except OSError as error:
        raise ModelError(f"audio weights: {checkpoint}: can't be read ({error.strerror or error})") from error
    except Exception as error:  # torch.load raises by kind of damage; what it says advises to run code from the file
        raise ModelError(f"audio weights: {checkpoint}: not one of OpenAI's Whisper checkpoints") from error
    model.save_pretrained(folder)
    made.WhisperFeatureExtractor(feature_size=sizes["n_mels"]).save_pretrained(folder)
