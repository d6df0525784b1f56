"""Teachers from outside: Hugging Face models, folders saved by edgemm, and one's own Python factory.

transformers is touched here and nowhere else, and only when asked for: importing it takes seconds.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from edgemm.models.families import BATCH, frontend_part, text_specs
from edgemm.models.frontend import frontend_from_processor
from edgemm.models.heads import unit
from edgemm.models.hub import snapshot
from edgemm.models.kinds import KINDS
from edgemm.models.model import Model, Part
from edgemm.models.store import load_model
from edgemm.models.text import TextTransformer, load_bert_weights_
from edgemm.models.tokenizer import with_limits
from edgemm.runtime.errors import ModelError
from edgemm.runtime.manifest import ImageInput, TensorInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec


def teacher_from_source(source: str, *, family: str | None = None, labels: Sequence[str] = ()) -> Model:
    """The model that ``source`` names.

    Args:
        source: ``hf:NAME_OR_FOLDER`` (CLIP, SigLIP, BERT, ViT), ``folder:PATH`` (saved by ``save_model``), or
            ``python:module:factory``, where ``factory()`` returns a ``Model``, or an ``nn.Module`` with an attribute
            ``signature``, which becomes a model of one part.
        family: what the recipe expects; None takes any.
        labels: the data's classes, which a classifier has to share, in their order; empty takes any.

    Raises:
        ModelError: what, where, and what was expected.
    """
    scheme, _, rest = source.partition(":")
    if scheme == "hf" and rest:
        model = _from_hugging_face(rest)
    elif scheme == "folder" and rest:
        model = load_model(Path(rest))
    elif scheme == "python" and rest.count(":") == 1:
        model = _from_factory(rest)
    else:
        raise ModelError(
            f"teacher.source: got '{source}', expected hf:NAME_OR_FOLDER, folder:PATH or python:module:factory"
        )
    if family is not None and model.family != family:
        raise ModelError(f"teacher.source '{source}' is of family '{model.family}', the recipe says '{family}'")
    if model.labels and labels and model.labels != tuple(labels):
        odd = sorted(set(model.labels) ^ set(labels))
        raise ModelError(
            f"teacher.source '{source}': its {len(model.labels)} classes are not the data's {len(labels)}"
            + (f"; '{odd[0]}' is in only one of them" if odd else ", in another order")
        )
    return model


# --- python ----------------------------------------------------------------------------------------------------------


def _from_factory(path: str) -> Model:
    made = _call(path)
    if isinstance(made, Model):
        parts = [
            part
            if part.kind in KINDS and part.kind != "python"  # another factory's is this one's now: this one is named
            else replace(part, kind="python", config={"factory": path, "part": part.name})
            for part in made.chain
        ]
        model = Model(made.family, parts, inputs=made.inputs, outputs=made.outputs, labels=made.labels)
        model.tokenizer_json = made.tokenizer_json
        return model.eval()
    signature = getattr(made, "signature", None)
    if not isinstance(signature, Signature):
        raise ModelError(
            f"teacher.source 'python:{path}': got {type(made).__name__}; expected an edgemm Model, or an nn.Module "
            "with an attribute 'signature' (edgemm.runtime.signature.Signature)"
        )
    made.eval()
    part = Part("model", "tower", None, "python", {"factory": path}, signature, made)
    inputs = {spec.name: TensorInput(spec.name) for spec in signature.inputs}
    return Model("outside", [part], inputs=inputs, outputs=signature.output_names)


def module_from_factory(*, factory: str, part: str | None = None) -> nn.Module:
    """A part that the user's own code makes (kind ``python``). Raises ModelError."""
    made = _call(factory)
    if part is None:
        return made
    if not isinstance(made, Model):
        raise ModelError(f"'python:{factory}' returned {type(made).__name__}, expected an edgemm Model as before")
    return made.part(part).module


def _call(path: str) -> nn.Module:
    name, _, attribute = path.partition(":")
    where = f"teacher.source 'python:{path}'"
    try:
        factory = getattr(importlib.import_module(name), attribute)
    except ImportError as error:
        raise ModelError(
            f"{where}: can't import '{name}' ({error}); is it in the working folder, or on PYTHONPATH?"
        ) from error
    except AttributeError as error:
        raise ModelError(f"{where}: module '{name}' has no '{attribute}'") from error
    try:
        made = factory()
    except Exception as error:  # the user's own code may raise anything
        raise ModelError(f"{where}: the factory failed with {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{where}: returned {type(made).__name__}, expected an nn.Module or an edgemm Model")
    return made


# --- Hugging Face ----------------------------------------------------------------------------------------------------


class HfTower(nn.Module):
    """One tower of a Hugging Face dual encoder, or an encoder alone, with one tensor out.

    Args:
        inner: takes the tower's inputs by keyword.
        output: attribute of its result.
        unit: L2-normalise.
    """

    def __init__(self, inner: nn.Module, *, inputs: tuple[str, ...], output: str, unit: bool) -> None:
        super().__init__()
        self.inner, self.names, self.output, self.unit = inner, inputs, output, unit

    def forward(self, *values: Tensor) -> Tensor:
        """The tower's inputs, (B, ...), to (B, D)."""
        result: Tensor = getattr(self.inner(**dict(zip(self.names, values, strict=True))), self.output)
        return unit(result) if self.unit else result


_CLASSES: Mapping[str, tuple[str, str, tuple[str, ...], str, bool]] = {
    # architecture: class, class of its config, inputs, output attribute, unit length
    "clip-image": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", ("pixel_values",), "image_embeds", True),
    "clip-text": (
        "CLIPTextModelWithProjection", "CLIPTextConfig", ("input_ids", "attention_mask"), "text_embeds", True,
    ),
    "siglip-image": ("SiglipVisionModel", "SiglipVisionConfig", ("pixel_values",), "pooler_output", True),
    # SigLIP was trained on texts padded to their full length, without a mask
    "siglip-text": ("SiglipTextModel", "SiglipTextConfig", ("input_ids",), "pooler_output", True),
    "vit": ("ViTModel", "ViTConfig", ("pixel_values",), "pooler_output", False),
}  # fmt: skip


def hf_tower(*, architecture: str, config: Mapping[str, object]) -> HfTower:
    """A tower with random weights, from the JSON of its Hugging Face config (kind ``hf``). Raises ModelError."""
    if architecture not in _CLASSES:
        raise ModelError(f"part kind 'hf': architecture '{architecture}'; expected one of {', '.join(_CLASSES)}")
    transformers = _transformers()
    name, config_name, inputs, output, unit = _CLASSES[architecture]
    inner = getattr(transformers, name)(getattr(transformers, config_name)(**config))
    return HfTower(inner, inputs=inputs, output=output, unit=unit)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f'transformers can\'t be imported ({error}); pip install "edgemm[build]"') from error
    return transformers


def _from_hugging_face(name: str) -> Model:
    transformers = _transformers()
    folder = snapshot(name)
    config = _json(folder / "config.json")
    kind = config.get("model_type")
    if kind == "bert":
        return _bert(folder, config)
    if kind not in ("clip", "siglip", "vit"):
        raise ModelError(f"hf:{name}: model type '{kind}'; expected clip, siglip, bert or vit")
    try:
        whole = transformers.AutoModel.from_pretrained(str(folder), local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"hf:{name}: weights can't be loaded ({str(error).splitlines()[0]})") from error
    frontend = frontend_part(frontend_from_processor(_json(folder / "preprocessor_config.json")))
    if kind == "vit":
        image = _hf_part("image", "vit", whole, _fields(whole.config), frontend, "image_features")
        return Model("image-encoder", [frontend, image], inputs={"image": ImageInput()}, outputs=("image_features",))
    return _dual_encoder(folder, kind, whole, frontend)


def _dual_encoder(folder: Path, kind: str, whole: Any, frontend: Part) -> Model:
    """CLIP and SigLIP: towers with projection, their weights copied from the whole model."""
    vision, text = _fields(whole.config.vision_config), _fields(whole.config.text_config)
    if kind == "clip":  # the towers' own classes read the projection's width from their own config
        vision["projection_dim"] = text["projection_dim"] = whole.config.projection_dim
    image_part = _hf_part("image", f"{kind}-image", whole, vision, frontend, "image_embedding")
    text_part = _hf_part("text", f"{kind}-text", whole, text, None, "text_embedding")
    tokens = int(str(text["max_position_embeddings"]))
    model = Model(
        "dual-encoder",
        [frontend, image_part, text_part],
        inputs={"image": ImageInput(), "text": TextInput("tokenizer.json", tokens)},
        outputs=("image_embedding", "text_embedding"),
    )
    model.tokenizer_json = _tokenizer(folder, tokens, full_length=kind == "siglip")
    return model


def _fields(config: Any) -> dict[str, object]:
    """A JSON-able config without what transformers fills in by itself."""
    fields: dict[str, object] = json.loads(config.to_json_string(use_diff=True))
    return {k: v for k, v in fields.items() if k not in ("transformers_version", "architectures", "dtype")}


def _hf_part(
    name: str, architecture: str, whole: Any, fields: dict[str, object], frontend: Part | None, output: str
) -> Part:
    tower = hf_tower(architecture=architecture, config=fields)
    source = whole.state_dict()
    wanted = tower.inner.state_dict()
    found = {k: source[k] for k in wanted if k in source}
    if missing := sorted(wanted.keys() - found.keys()):
        raise ModelError(f"{architecture}: '{missing[0]}' is missing from the checkpoint ({len(missing)} such)")
    tower.inner.load_state_dict(found)
    tower.eval()
    specs = list(frontend.signature.outputs) if frontend is not None else text_specs()[: len(tower.names)]
    dims = {"batch": BATCH}
    if frontend is None:
        tokens = int(str(fields["max_position_embeddings"]))
        dims["tokens"] = (
            DimRange(tokens, tokens, tokens) if "siglip" in architecture else DimRange(1, min(16, tokens), tokens)
        )
    with torch.no_grad():
        width = tower(*_sample(specs, dims)).shape[-1]
    signature = Signature(tuple(specs), (TensorSpec(output, "float32", ("batch", int(width))),), dims)
    modality = "text" if frontend is None else "image"
    return Part(name, "tower", modality, "hf", {"architecture": architecture, "config": fields}, signature, tower)


def _sample(specs: list[TensorSpec], dims: Mapping[str, DimRange]) -> list[Tensor]:
    """One tiny batch, to learn the output's width."""
    shapes = [[d if isinstance(d, int) else dims[d].min for d in spec.shape] for spec in specs]
    return [
        torch.ones(shape, dtype=torch.int64 if spec.dtype == "int64" else torch.float32)
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def _bert(folder: Path, config: Mapping[str, Any]) -> Model:
    """A BERT encoder with mean pooling, as our own text tower."""
    from edgemm.models import pretrained

    known, tokenizer = pretrained.text_description(f"folder:{folder}")
    tokens = min(128, int(config["max_position_embeddings"]))
    fields: dict[str, object] = {**known, "max_tokens": tokens}
    tower = TextTransformer(**fields)  # type: ignore[arg-type]
    load_bert_weights_(tower, pretrained.read_state(folder / "model.safetensors"))
    tower.eval()
    dims = {"batch": BATCH, "tokens": DimRange(1, min(16, tokens), tokens)}
    spec = TensorSpec("text_features", "float32", ("batch", known["width"]))
    signature = Signature(tuple(text_specs()), (spec,), dims)
    part = Part("text", "tower", "text", "text-transformer", fields, signature, tower)
    inputs = {"text": TextInput("tokenizer.json", tokens)}
    model = Model("text-encoder", [part], inputs=inputs, outputs=("text_features",))
    model.tokenizer_json = with_limits(tokenizer, tokens)
    return model


def _tokenizer(folder: Path, tokens: int, *, full_length: bool) -> str:
    path = folder / "tokenizer.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(
            f"{path}: can't be read ({error.strerror}); edgemm needs the fast tokenizer: save it with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        ) from error
    return with_limits(text, tokens, length=tokens if full_length else None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: can't be read ({error.strerror}); is the model's folder complete?") from error
    except ValueError as error:
        raise ModelError(f"{path}: not JSON ({error})") from error
    return content
