"""Sentence embeddings: what a sentence-transformers folder says stands behind its encoder.

``modules.json`` lists the modules in their order: the encoder, a pooling of its tokens, and dense layers, a LayerNorm
or a normalisation after that. Each has a folder with its ``config.json``.

Source: Reimers and Gurevych 2019, "Sentence-BERT"; the formulas are those of the package sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.checkpoint import read_json, read_weights
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import json_value, one_line

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
"""In the order in which several are joined."""

_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_FIELDS = {*_SWITCHES, "pooling_mode", "word_embedding_dimension", "embedding_dimension", "include_prompt"}
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": F.gelu,
    "Sigmoid": torch.sigmoid,
    "SiLU": F.silu,
}
_ENCODER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_ENCODER_FIELDS = {
    "max_seq_length", "do_lower_case", "model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args",
    "processor_kwargs", "transformer_task", "modality_config", "module_output_name", "unpad_inputs",
}  # fmt: skip


_WIDEST = 2**16  # features of one layer


@dataclass(frozen=True)
class Sentence:
    """What a folder says of a text's embedding.

    Args:
        encoder: folder of the encoder itself.
        pooling: of ``POOLINGS``; several are joined.
        layers: arguments of ``SentenceHead`` for what stands behind the pooling.
        weights: of those layers.
        max_tokens: at which a text is cut; None where the folder doesn't say.
        lower: texts are made lower case first.
        tokenizer: arguments for AutoTokenizer.
    """

    encoder: Path
    pooling: tuple[str, ...] = ("mean",)
    layers: tuple[Mapping[str, object], ...] = ()
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    max_tokens: int | None = None
    lower: bool = False
    tokenizer: Mapping[str, Any] = field(default_factory=dict)

    @property
    def without_norm(self) -> Sentence:
        """Without the normalisation that comes last."""
        last = len(self.layers) - 1
        return replace(self, layers=self.layers[:last]) if self.layers and self.layers[last]["kind"] == "unit" else self

    def load_(self, head: nn.Module | None, *, where: str) -> None:
        """Copy the layers' weights into the head that was built of them. Raises ModelError where they don't fit."""
        if head is None:
            return
        try:
            head.load_state_dict({f"layers.{key}": value for key, value in self.weights.items()})
        except RuntimeError as error:
            raise ModelError(
                f"{where}: weights behind the pooling don't fit: {' '.join(str(error).split())}"
            ) from error


class SentenceHead(nn.Module):
    """Pooling of tokens, and the layers behind it.

    Args:
        pooling: of ``POOLINGS``; several are joined in that order.
        layers: each ``{"kind": "dense", "inputs", "outputs", "bias", "activation"}``, ``{"kind": "norm", "width"}`` or
            ``{"kind": "unit"}``.
    """

    def __init__(self, *, pooling: Sequence[str], layers: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__()
        if odd := sorted(set(pooling) - set(POOLINGS)):
            raise ModelError(f"pooling: got '{odd[0]}', expected {', '.join(POOLINGS)}")
        self.pooling = tuple(pooling)
        self.layers = nn.ModuleList(_layer(layer) for layer in layers)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """(B, T, W) and its (B, T) mask, padded on either side, to (B, D)."""
        x = pooled(tokens, mask, self.pooling)
        for layer in self.layers:
            x = layer(x)
        return x


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, bias: bool, activation: str) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs, bias=bias)
        self.activation = _ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.linear(x))


class _Unit(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1)


def _layer(layer: Mapping[str, Any]) -> nn.Module:
    if layer["kind"] == "dense":
        return _Dense(layer["inputs"], layer["outputs"], bias=layer["bias"], activation=layer["activation"])
    return nn.LayerNorm(layer["width"]) if layer["kind"] == "norm" else _Unit()


def pooled(tokens: Tensor, mask: Tensor, modes: Sequence[str]) -> Tensor:
    """(B, T, W) and its (B, T) mask, at least one token each, to (B, W) for every mode, joined."""
    real = mask.to(tokens.dtype)
    made = [_POOLED[mode](tokens, real) for mode in modes]
    return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def _weighted(tokens: Tensor, weights: Tensor) -> Tensor:
    """(B, T, W) and (B, T) to (B, W); one MatMul instead of a broadcast product."""
    return torch.matmul(weights[:, None, :], tokens).squeeze(1)


def _first(tokens: Tensor, real: Tensor) -> Tensor:
    before = F.pad(real, (1, 0))[:, :-1]  # of the token before each
    return _weighted(tokens, (real - before).clamp(min=0.0))


def _last(tokens: Tensor, real: Tensor) -> Tensor:
    after = F.pad(real, (0, 1))[:, 1:]
    return _weighted(tokens, (real - after).clamp(min=0.0))


def _max(tokens: Tensor, real: Tensor) -> Tensor:
    # below what any token holds, and inside float16's range
    return tokens.masked_fill(real[:, :, None] == 0, -6e4).max(dim=1).values


def _mean(tokens: Tensor, real: Tensor) -> Tensor:
    return _weighted(tokens, real / real.sum(1, keepdim=True))


def _mean_by_root(tokens: Tensor, real: Tensor) -> Tensor:
    return _weighted(tokens, real / real.sum(1, keepdim=True).sqrt())


def _weighted_mean(tokens: Tensor, real: Tensor) -> Tensor:
    places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device).to(tokens.dtype) * real  # padding counts
    return _weighted(tokens, places / places.sum(1, keepdim=True))


_POOLED: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}


# --- the folder ------------------------------------------------------------------------------------------------------


def encoder_folder(folder: Path) -> Path:
    """Where a checkpoint's encoder lies: in older sentence-transformers folders not beside ``modules.json``."""
    listed = _modules(folder)
    return listed[0][1] if listed else folder


def sentence_of(folder: Path, *, name: str) -> Sentence:
    """Return what a folder says of a text's embedding; where it says nothing, the mean over the encoder's tokens.

    Raises:
        ModelError: a module or a setting that edgemm can't honour, by name.
    """
    listed = _modules(folder)
    if listed is None:
        return _alone(folder, name)
    if not listed or listed[0][0] != "Transformer":
        what = listed[0] if listed else ("nothing", folder)
        raise ModelError(
            f"{name}: modules.json begins with {what[0]}, expected a Transformer"
            + (f"; give hf:{what[1]}" if (what[1] / "config.json").is_file() and what[1] != folder else "")
        )
    _check_prompt(folder, name)
    encoder = listed[0][1]
    pooling: tuple[str, ...] | None = None
    layers: list[Mapping[str, object]] = []
    weights: dict[str, Tensor] = {}
    for kind, place in listed[1:]:
        if kind == "Pooling" and pooling is None:
            pooling = _pooling(place, name)
        elif kind == "Dense" and pooling is not None:
            layer, own = _dense(place, name)
            weights |= {f"{len(layers)}.{key}": value for key, value in own.items()}
            layers.append(layer)
        elif kind == "LayerNorm" and pooling is not None:
            own = read_weights(place, name=f"{name}: {place.name}")
            weights |= {f"{len(layers)}.{key.removeprefix('norm.')}": value for key, value in own.items()}
            layers.append({"kind": "norm", "width": _whole(place, "dimension", name)})
        elif kind == "Normalize" and pooling is not None:
            layers.append({"kind": "unit"})
        elif kind != "Dropout":  # which changes nothing once trained
            raise ModelError(
                f"{name}: modules.json has a {kind} ({place.name}), which edgemm can't honour there; expected "
                "a Pooling, then Dense, LayerNorm and Normalize; make the text tower in a python: factory "
                "(docs/your-own-model.md)"
            )
    if pooling is None:
        raise ModelError(f"{name}: modules.json names no Pooling, which makes one vector of a text's tokens")
    settings = _settings(encoder, name)
    return Sentence(
        encoder, pooling, tuple(layers), weights, settings.get("max_seq_length"),
        bool(settings.get("do_lower_case")), settings.get("tokenizer_args") or settings.get("processor_kwargs") or {},
    )  # fmt: skip


def _modules(folder: Path) -> list[tuple[str, Path]] | None:
    """Return name of the class and folder of each module; None where there is no list of them."""
    path = folder / "modules.json"
    try:
        modules = json_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: can't be read ({one_line(error)})") from error
    try:
        listed = [(str(module["type"]), str(module["path"])) for module in modules]
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelError(f"{path}: expected a list of modules with type and path") from error
    if foreign := [kind for kind, _ in listed if not kind.startswith("sentence_transformers.")]:
        raise ModelError(
            f"{path}: '{foreign[0]}' is code of the folder's own, which is never run; make the text tower in a python: "
            "factory (docs/your-own-model.md)"
        )
    if odd := [place for _, place in listed if place and (Path(place).name != place or place == "..")]:
        raise ModelError(f"{path}: names '{odd[0]}', expected folders beside it")
    return [(kind.rsplit(".", 1)[-1], folder / place) for kind, place in listed]


def _alone(folder: Path, name: str) -> Sentence:
    """Return a folder without ``modules.json``: of transformers, or a piece of one that has it."""
    listed = folder.parent / "modules.json"
    if listed.is_file():
        try:
            paths = [module["path"] for module in json_value(listed.read_text(encoding="utf-8"))]
        except (OSError, ValueError, TypeError, KeyError):
            paths = []
        if folder.name in paths:
            raise ModelError(
                f"{name}: is the encoder of a sentence-transformers folder alone, without its pooling; give "
                f"hf:{folder.parent}"
            )
    if (place := folder / "1_Pooling" / "config.json").is_file() and (modes := _pooling(place.parent, name)) != (
        "mean",
    ):
        raise ModelError(
            f"{name}: 1_Pooling says {' and '.join(modes)}, but modules.json, which puts it behind the encoder, is "
            "missing; fetch it too, or take 1_Pooling away for the mean"
        )
    return Sentence(folder)


def _check_prompt(folder: Path, name: str) -> None:
    path = folder / "config_sentence_transformers.json"
    if not path.is_file():
        return
    config = read_json(path)
    chosen, prompts = config.get("default_prompt_name"), config.get("prompts") or {}
    if isinstance(chosen, str) and isinstance(prompts, Mapping) and prompts.get(chosen):
        raise ModelError(
            f"{name}: puts {prompts[chosen]!r} before every text (default_prompt_name in {path.name}), and a bundle "
            "takes texts as they are; set it to null, and begin your texts with it"
        )


def _pooling(place: Path, name: str) -> tuple[str, ...]:
    path = place / "config.json"
    config = read_json(path)
    if odd := sorted(set(config) - _POOLING_FIELDS):
        raise ModelError(f"{name}: {place.name}/config.json: edgemm doesn't know '{odd[0]}'; expected {_known()}")
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for switch, mode in _SWITCHES.items() if config.get(switch)] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or not modes or not all(mode in POOLINGS for mode in modes):
        raise ModelError(f"{name}: {place.name}/config.json: pooling_mode {modes!r}; expected {', '.join(POOLINGS)}")
    return tuple(modes)


def _known() -> str:
    return ", ".join(sorted(_POOLING_FIELDS))


def _dense(place: Path, name: str) -> tuple[Mapping[str, object], dict[str, Tensor]]:
    config = read_json(place / "config.json")
    where = f"{name}: {place.name}/config.json"
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise ModelError(f"{where}: {key} {config[key]!r}; expected sentence_embedding")
    path = str(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = path.rsplit(".", 1)[-1]
    if not path.startswith("torch.") or activation not in _ACTIVATIONS:
        raise ModelError(f"{where}: activation_function '{path}'; expected one of torch's {', '.join(_ACTIVATIONS)}")
    inputs, outputs = _whole(place, "in_features", name), _whole(place, "out_features", name)
    bias = bool(config.get("bias", True))
    layer = {"kind": "dense", "inputs": inputs, "outputs": outputs, "bias": bias, "activation": activation}
    return layer, read_weights(place, name=f"{name}: {place.name}")


def _whole(place: Path, key: str, name: str) -> int:
    value = read_json(place / "config.json").get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _WIDEST:
        raise ModelError(f"{name}: {place.name}/config.json: {key} {value!r}; expected a whole number of features")
    return value


def _settings(encoder: Path, name: str) -> dict[str, Any]:
    path = next((encoder / file for file in _ENCODER_FILES if (encoder / file).is_file()), None)
    if path is None:
        return {}
    config = read_json(path)
    if odd := sorted(key for key in config if key not in _ENCODER_FIELDS and config[key]):
        raise ModelError(
            f"{name}: {path.name}: edgemm doesn't know '{odd[0]}'; take it out if the embedding needs it not"
        )
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise ModelError(f"{name}: {path.name}: transformer_task {config['transformer_task']!r} makes no embedding")
    for key in ("modality_config", "tokenizer_args", "processor_kwargs"):
        if not isinstance(config.get(key) or {}, dict):
            raise ModelError(f"{name}: {path.name}: {key} is {type(config[key]).__name__}, expected an object")
    text = (config.get("modality_config") or {}).get("text")
    if isinstance(text, dict) and (text.get("method"), text.get("method_output_name")) != (
        "forward",
        "last_hidden_state",
    ):
        raise ModelError(
            f"{name}: {path.name}: takes {text.get('method_output_name')!r} of {text.get('method')!r}; expected the "
            "last_hidden_state of forward, which a Pooling reads"
        )
    limit = config.get("max_seq_length")
    if limit is not None and (not isinstance(limit, int) or limit < 3):
        raise ModelError(f"{name}: {path.name}: max_seq_length {limit!r}; expected a whole number from 3")
    return config
