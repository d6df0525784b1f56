"""The explicit table that rebuilds a part's module from what ``model.json`` says of it.

Classes are named, not imported: transformers takes seconds to import, and most models need none of it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from edgemm.recipe import TOWERS
from edgemm.runtime.errors import EdgemmError, ModelError
from edgemm.runtime.fields import one_line

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


def resolve(path: str, *, what: str) -> Callable[..., Any]:
    """What ``"module:name"`` stands for; ``what`` says in an error whose line it is.

    Raises:
        ModelError: no such module or name, a module that fails, or what can't be called.
    """
    try:
        made = pkgutil.resolve_name(path)
    except EdgemmError:
        raise
    except Exception as error:  # a module of the user's may raise anything
        if path.startswith("edgemm.") and isinstance(error, ModuleNotFoundError):
            raise  # a library that isn't installed: the command line names the extra
        raise ModelError(
            f"{what}: can't import '{path}' ({one_line(error)}); expected module:name, its folder on PYTHONPATH"
        ) from error
    if not callable(made):
        raise ModelError(f"{what}: '{path}' is {type(made).__name__}; expected a class or a function")
    found: Callable[..., Any] = made
    return found


def module_from_config(kind: str, config: Mapping[str, object]) -> nn.Module:
    """The module of a part, with fresh weights.

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
