"""The explicit table that rebuilds a part's module from what ``model.json`` says of it.

Classes are named, not imported: transformers takes seconds to import, and most models need none of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from edgemm.recipe import TOWERS
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import ModelError

_KINDS: Mapping[str, str] = {
    "image-frontend": "edgemm.models.frontend:ImageFrontend",
    "whisper-frontend": "edgemm.models.audio_frontend:WhisperFrontend",
    "clap-frontend": "edgemm.models.audio_frontend:ClapFrontend",
    "ast-frontend": "edgemm.models.audio_frontend:AstFrontend",
    "waveform-frontend": "edgemm.models.audio_frontend:WaveformFrontend",
    "text-transformer": "edgemm.models.text:TextTransformer",
    "projection": "edgemm.models.heads:Projection",
    "fusion": "edgemm.models.fusion:fusion",
    "mlp-head": "edgemm.models.heads:MlpHead",
    "decision": "edgemm.models.heads:Decision",
    "hf": "edgemm.models.huggingface:hf_tower",
    "python": "edgemm.models.outside:module_from_factory",
}


def kinds() -> dict[str, str]:
    """Kind of part -> ``"module:callable"`` that makes it, the recipe's table of towers among them.

    Raises:
        ModelError: a tower of a kind that something else makes.
    """
    known = dict(_KINDS)
    for table in TOWERS.values():
        for kind, encoder in table.items():
            if known.setdefault(kind, encoder.made_by) != encoder.made_by:
                raise ModelError(
                    f"TOWERS: kind '{kind}' of '{encoder.made_by}' is what '{known[kind]}' makes; expected a name of "
                    "its own"
                )
    return known


def module_from_config(kind: str, config: Mapping[str, object]) -> nn.Module:
    """Return the module of a part, with fresh weights.

    Raises:
        ModelError: an unknown kind, or a config that the kind doesn't take.
    """
    known = kinds()
    if kind not in known:
        raise ModelError(f"part kind '{kind}' is unknown; expected one of {', '.join(known)}")
    make = resolve(known[kind], what=f"part kind '{kind}'")
    try:
        made: nn.Module = make(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"part kind '{kind}': config {dict(config)} doesn't fit: {error}") from error
    return made
