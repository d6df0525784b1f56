"""A model on disk: ``model.json`` + ``weights.safetensors`` + ``tokenizer.json``, nothing that executes.

A part may say which Python factory makes its module; a folder alone is never enough for that factory to be imported.

Law: ``load_model(save_model(m))`` computes what ``m`` computes, bit for bit, also after pruning: modules are
built from their config, then every module takes the shapes that the checkpoint has.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from edgemm.models.model import Model, Part
from edgemm.models.part_kinds import module_from_config
from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import BundleError, ModelError
from edgemm.runtime.fields import json_value
from edgemm.runtime.outputs import TASKS, Classes, Embedding, Output, Quantity, Values, recognised
from edgemm.runtime.readers import READERS, RawInput
from edgemm.runtime.signature import Signature

FORMAT = 2
_OUTPUTS: Mapping[str, type[Output]] = {
    "classes": Classes,
    "quantity": Quantity,
    "embedding": Embedding,
    "values": Values,
}


def save_model(model: Model, folder: Path) -> None:
    """Write ``model`` into ``folder`` (made if needed); each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "family": model.family,
        "parts": [
            {
                "name": part.name,
                "role": part.role,
                "modality": part.modality,
                "kind": part.kind,
                "config": dict(part.config),
                "signature": part.signature.to_json(),
                "groups": {
                    name: module.groups for name, module in part.module.named_modules() if isinstance(module, nn.Conv2d)
                },
            }
            for part in model.chain
        ],
        "inputs": {modality: raw.to_json() for modality, raw in model.inputs.items()},
        "outputs": {name: asdict(output) for name, output in model.outputs.items()},
        "placeholders": sorted(model.placeholders),
    }
    state = {f"placeholders/{name}": value.detach().clone() for name, value in model.placeholders.items()}
    state |= {
        f"{part.name}/{key}": value.detach().contiguous().clone()
        for part in model.chain
        for key, value in part.module.state_dict().items()
    }
    with replacing(folder / "weights.safetensors") as partial:
        save_file(state, str(partial))
    if model.tokenizer_json is not None:
        _write(folder / "tokenizer.json", model.tokenizer_json)
    _write(folder / "model.json", json.dumps(content, indent=1, ensure_ascii=False))  # last: its presence means whole


def _write(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class _Saved:
    """``model.json``, read."""

    family: str
    parts: list[dict[str, Any]]
    inputs: dict[str, RawInput]
    outputs: dict[str, Output]
    placeholders: list[str]


def load_model(folder: Path, *, factories: Collection[str] = ()) -> Model:
    """Return the model in ``folder``, in evaluation mode, on the CPU.

    Args:
        folder: as ``save_model`` left it.
        factories: every ``module:factory`` that the user named (``Recipe.factories``), the only ones that a part's
            module may come from; none: no Python code of the folder's is run.

    Raises:
        ModelError: a folder that holds no model, a file that can't be read, weights of another architecture, or a part
            that names a factory which the user did not.
    """
    saved = _read(folder)
    factories = (factories,) if isinstance(factories, str) else factories  # of a text, `in` finds pieces
    for entry in saved.parts:
        if entry["kind"] == "python" and entry["config"].get("factory") not in factories:
            raise ModelError(
                f"{folder}: part '{entry['name']}' names Python code, {entry['config'].get('factory')!r}, which is run "
                f"only where you name it yourself, and you named {' and '.join(factories) or 'none'}; if you trust it, "
                'name "python:MODULE:FACTORY" in the recipe, or give --factory MODULE:FACTORY to capture'
            )
    weights = folder / "weights.safetensors"
    try:
        state = load_file(str(weights))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{weights}: can't be read ({error}); the model has to be saved again") from error
    parts = []
    for entry in saved.parts:
        name = entry["name"]
        module = module_from_config(entry["kind"], entry["config"])
        prefix = f"{name}/"
        own = {key[len(prefix) :]: state.pop(key) for key in list(state) if key.startswith(prefix)}
        fit_shapes_(module, own, groups=entry.get("groups", {}), where=f"{weights}, part '{name}'")
        module.load_state_dict(own)
        parts.append(
            Part(
                name, entry["role"], entry["modality"], entry["kind"], entry["config"],
                Signature.from_json(entry["signature"]), module,
            )
        )  # fmt: skip
    try:
        placeholders = {name: state.pop(f"placeholders/{name}") for name in saved.placeholders}
    except KeyError as error:
        raise ModelError(f"{weights}: {error} is missing, a placeholder that model.json names") from error
    if state:
        raise ModelError(f"{weights}: '{next(iter(state))}' belongs to no part of model.json; expected only its parts")
    model = Model(
        saved.family,
        parts,
        inputs=saved.inputs,
        outputs=saved.outputs,
        placeholders=placeholders,
    )
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists():
        model.tokenizer_json = _tokenizer_text(tokenizer)
    elif any(raw.files for raw in saved.inputs.values()):
        raise ModelError(f"{folder}: tokenizer.json is missing, and the model takes text")
    model.eval()
    return model


def _tokenizer_text(path: Path) -> str:
    from tokenizers import Tokenizer

    try:
        text = path.read_text(encoding="utf-8")
        Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{path}: not a tokenizer ({error})") from error
    return text


def _read(folder: Path) -> _Saved:
    path = folder / "model.json"
    try:
        content = json_value(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror}); expected a folder saved by edgemm") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    try:
        if content["format"] not in (1, FORMAT):
            raise ModelError(f"{path}: format {content['format']}, this edgemm reads 1 and {FORMAT}")
        content = _of_format_1(content) if content["format"] == 1 else content
        inputs = {
            modality: READERS[raw["kind"]](**{k: v for k, v in raw.items() if k != "kind"})
            for modality, raw in content["inputs"].items()
        }
        for entry in content["parts"]:
            for key in ("name", "role", "modality", "kind", "config", "signature"):
                entry[key]
            if not isinstance(entry["config"], dict):
                raise TypeError(f"config of part '{entry['name']}' is no object")
        outputs = {
            name: _OUTPUTS[saved["kind"]](**{key: _tuple(value) for key, value in saved.items() if key != "kind"})
            for name, saved in content["outputs"].items()
        }
        return _Saved(content["family"], content["parts"], inputs, outputs, content.get("placeholders", []))
    except (KeyError, TypeError, AttributeError, BundleError) as error:
        raise ModelError(f"{path}: not a model description ({type(error).__name__}: {error})") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _of_format_1(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a model.json of format 1, which had names of outputs, one list of labels and one task."""
    specs = [spec for entry in content["parts"] for spec in Signature.from_json(entry["signature"]).outputs]
    kinds = recognised(specs, task=content.get("task"), labels=content["labels"])
    parts = [dict(entry) for entry in content["parts"]]
    for entry in parts:
        if entry["kind"] == "decision":
            config = dict(entry["config"])
            task = config.pop("task", "single-label")
            entry["config"] = config | {"one_of_all": TASKS[task] == Classes()}
    return {**content, "parts": parts, "outputs": {name: asdict(kinds[name]) for name in content["outputs"]}}


def fit_shapes_(module: nn.Module, state: Mapping[str, Tensor], *, groups: Mapping[str, int], where: str) -> None:
    """Give every layer of ``module`` the shapes of ``state``, in place, so that a pruned checkpoint loads.

    Widths may differ from the config's, the set of names and the number of dimensions may not.

    Args:
        module: built from its config.
        state: its checkpoint.
        groups: of every convolution, since its weight's shape leaves them open.
        where: names the checkpoint in errors.

    Raises:
        ModelError: what, expected and got.
    """
    own = module.state_dict()
    if missing := sorted(own.keys() - state.keys()):
        raise ModelError(f"{where}: '{missing[0]}' is missing ({len(missing)} such); a checkpoint of another model?")
    if extra := sorted(state.keys() - own.keys()):
        raise ModelError(f"{where}: unexpected '{extra[0]}' ({len(extra)} such); a checkpoint of another model?")
    for key, value in state.items():
        if value.dim() != own[key].dim() or value.dtype != own[key].dtype:
            raise ModelError(
                f"{where}: '{key}': expected {own[key].dim()} dimensions of {own[key].dtype}, "
                f"got {value.dim()} of {value.dtype}"
            )
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        for kind in ("_parameters", "_buffers"):
            for key, old in getattr(layer, kind).items():
                new = state.get(prefix + key)
                if old is None or new is None or old.shape == new.shape:
                    continue
                fresh = torch.empty_like(new)
                getattr(layer, kind)[key] = nn.Parameter(fresh) if kind == "_parameters" else fresh
        _fit_attributes_(layer, groups.get(name), where=f"{where}, layer '{name}'")


def _fit_attributes_(layer: nn.Module, groups: int | None, *, where: str) -> None:
    """Set the numbers that a layer keeps beside its weights from the weights, and check that they agree."""
    if isinstance(layer, nn.Conv2d):
        layer.groups = groups or layer.groups
        layer.out_channels = layer.weight.shape[0]
        layer.in_channels = layer.weight.shape[1] * layer.groups
        if layer.out_channels % layer.groups:
            raise ModelError(f"{where}: {layer.out_channels} channels don't divide into {layer.groups} groups")
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    elif isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None:
        layer.num_features = layer.running_mean.shape[0]
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    bias = getattr(layer, "bias", None)
    weight = getattr(layer, "weight", None)
    if isinstance(bias, Tensor) and isinstance(weight, Tensor) and bias.shape[0] != weight.shape[0]:
        raise ModelError(f"{where}: {weight.shape[0]} rows of weight, but {bias.shape[0]} of bias")
