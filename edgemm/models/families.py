"""Families: how towers, fusion and head of a recipe become a Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from edgemm.models import pretrained
from edgemm.models.audio_frontend import AudioFrontend
from edgemm.models.efficientnet import EfficientNetLite, tower_config
from edgemm.models.frontend import sides
from edgemm.models.kinds import module_from_config
from edgemm.models.model import Model, Part
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import tokenizer_from_json, trim_vocabulary, with_limits
from edgemm.recipe import ImageTower, ModelSection, TextTower
from edgemm.runtime.errors import ModelError
from edgemm.runtime.manifest import ImageInput, Role, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

BATCH = DimRange(1, 1, 32)
SIDE = DimRange(16, 128, 4096)


@dataclass(frozen=True, slots=True)
class _Towers:
    """What both families start from."""

    section: ModelSection
    frontend: Part
    image_config: Mapping[str, object]
    text_config: Mapping[str, object]
    labels: tuple[str, ...]


def part(
    name: str,
    role: Role,
    modality: str | None,
    kind: str,
    config: Mapping[str, object],
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    *,
    tokens: int = 0,
) -> Part:
    """A part with one output and the usual ranges for the dimensions it names."""
    names = {d for spec in (*inputs, output) for d in spec.shape if isinstance(d, str)}
    known = {"batch": BATCH, "height": SIDE, "width": SIDE}
    if tokens:
        known["tokens"] = DimRange(1, min(16, tokens), tokens)
    signature = Signature(tuple(inputs), (output,), {n: known[n] for n in sorted(names)})
    return Part(name, role, modality, kind, config, signature, module_from_config(kind, config))


def frontend_part(config: Mapping[str, object]) -> Part:
    """``image`` to ``pixels``, for ``ImageFrontend``'s keyword arguments."""
    height, width = sides(config["size"])  # type: ignore[arg-type]
    image = TensorSpec("image", "uint8", ("batch", "height", "width", 3))
    pixels = TensorSpec("pixels", "float32", ("batch", 3, height, width))
    return part("image_frontend", "frontend", "image", "image-frontend", config, [image], pixels)


def audio_frontend_part(kind: str, config: Mapping[str, object]) -> Part:
    """``waveform`` to ``log_mel`` or ``normalised_waveform``, for an audio frontend's kind and keyword arguments."""
    module = module_from_config(kind, config)
    assert isinstance(module, AudioFrontend)
    name, shape = module.outputs
    waveform = TensorSpec("waveform", "float32", ("batch", "samples"))
    features = TensorSpec(name, "float32", ("batch", *shape))
    signature = Signature((waveform,), (features,), {"batch": BATCH, "samples": module.samples})
    return Part("audio_frontend", "frontend", "audio", kind, config, signature, module)


def text_specs() -> list[TensorSpec]:
    """``input_ids`` and ``attention_mask``."""
    return [TensorSpec(name, "int64", ("batch", "tokens")) for name in ("input_ids", "attention_mask")]


def _image_part(config: Mapping[str, object], output: str) -> Part:
    size = config["input_size"]
    assert isinstance(size, int)
    width = config.get("embed_dim") or config["features"]
    assert isinstance(width, int)
    shape: tuple[int | str, ...] = ("batch", width)
    if config["output"] == "tokens":
        count = EfficientNetLite.positions(config)
        shape = ("batch", count, width)
    pixels = TensorSpec("pixels", "float32", ("batch", 3, size, size))
    spec = TensorSpec(output, "float32", shape)
    return part("image", "tower", "image", "efficientnet-lite", config, [pixels], spec)


def _text_part(config: Mapping[str, object], output: str) -> Part:
    width = config.get("embed_dim") or config["width"]
    assert isinstance(width, int)
    shape: tuple[int | str, ...] = ("batch", width) if config["output"] == "pooled" else ("batch", "tokens", width)
    tokens = config["max_tokens"]
    assert isinstance(tokens, int)
    spec = TensorSpec(output, "float32", shape)
    return part("text", "tower", "text", "text-transformer", config, text_specs(), spec, tokens=tokens)


def _inputs(text_config: Mapping[str, object]) -> dict[str, ImageInput | TextInput]:
    tokens = text_config["max_tokens"]
    assert isinstance(tokens, int)
    return {"image": ImageInput(), "text": TextInput("tokenizer.json", tokens)}


def _dual_encoder(towers: _Towers) -> Model:
    section = towers.section
    if section.image.output != "pooled" or section.text.output != "pooled":
        raise ModelError('dual-encoder: both towers need output = "pooled"')
    outputs = ("image_embedding", "text_embedding")
    if section.projection == "tower":
        parts = [
            towers.frontend,
            _image_part({**towers.image_config, "embed_dim": section.embed_dim}, outputs[0]),
            _text_part({**towers.text_config, "embed_dim": section.embed_dim}, outputs[1]),
        ]
        return Model("dual-encoder", parts, inputs=_inputs(towers.text_config), outputs=outputs)
    image = _image_part(towers.image_config, "image_features")
    text = _text_part(towers.text_config, "text_features")
    parts = [
        towers.frontend, image, _projection(image, section, outputs[0]), text, _projection(text, section, outputs[1])
    ]  # fmt: skip
    return Model("dual-encoder", parts, inputs=_inputs(towers.text_config), outputs=outputs)


def _projection(tower: Part, section: ModelSection, output: str) -> Part:
    features = tower.signature.outputs[0]
    width = features.shape[-1]
    config = {
        "width": width,
        "embed_dim": section.embed_dim,
        "hidden": section.projection_hidden,
        "dropout": section.dropout,
    }
    spec = TensorSpec(output, "float32", ("batch", section.embed_dim))
    return part(f"{tower.name}_projection", "head", tower.modality, "projection", config, [features], spec)


def _fusion_classifier(towers: _Towers) -> Model:
    section, fusion = towers.section, towers.section.fusion
    if not towers.labels:
        raise ModelError("fusion-classifier: the data has no labels; name a label column")
    attends = fusion.mode == "cross-attention"
    if (section.image.output == "tokens") != attends or section.text.output != "pooled":
        raise ModelError(
            f"fusion-classifier: fusion.mode '{fusion.mode}' needs image.output = "
            f'"{"tokens" if attends else "pooled"}" and text.output = "pooled"'
        )
    image = _image_part(towers.image_config, "image_features")
    text = _text_part(towers.text_config, "text_features")
    specs = [image.signature.outputs[0], text.signature.outputs[0]]
    config: dict[str, object] = {
        "image_width": specs[0].shape[-1],
        "text_width": specs[1].shape[-1],
        "width": fusion.width,
        "dropout": section.dropout,
    }
    if attends:
        kind, config["heads"], copies = "cross-attention-fusion", fusion.heads, 3
    else:
        kind, config["mode"], config["concat"], config["norm"] = "fusion", fusion.mode, fusion.concat, fusion.norm
        copies = {"concat": 2, "hadamard": 3 if fusion.concat else 1}.get(fusion.mode, 1)
    fused = TensorSpec("fused", "float32", ("batch", copies * fusion.width))
    head = {
        "width": copies * fusion.width,
        "classes": len(towers.labels),
        "hidden": section.head_hidden,
        "dropout": section.dropout,
    }
    logits = TensorSpec("logits", "float32", ("batch", len(towers.labels)))
    parts = [
        towers.frontend,
        image,
        text,
        part("fusion", "fusion", None, kind, config, specs, fused),
        part("head", "head", None, "mlp-head", head, [fused], logits),
    ]
    return Model(
        "fusion-classifier", parts, inputs=_inputs(towers.text_config), outputs=("logits",), labels=towers.labels
    )


FAMILIES: Mapping[str, Callable[[_Towers], Model]] = {
    "dual-encoder": _dual_encoder,
    "fusion-classifier": _fusion_classifier,
}
"""Family -> what joins its towers into a Model. Losses are chosen in ``compress``, metrics in ``measure``."""


def build_model(
    section: ModelSection,
    *,
    family: str,
    labels: Sequence[str] = (),
    texts: Sequence[str] = (),
    tokenizer_json: str | None = None,
    token_order: Sequence[int] | None = None,
    seed: int,
) -> Model:
    """The model that a recipe's section describes, with pretrained towers where it names weights.

    Args:
        section: towers and what joins them.
        family: a name in ``FAMILIES``.
        labels: classes (fusion-classifier).
        texts: what a trimmed vocabulary has to cover.
        tokenizer_json: for a text tower without weights of its own (a student takes its teacher's).
        token_order: which ids of that tokenizer a trimmed vocabulary keeps first; None: its own order.
        seed: of all random weights; the global generator is left as it was.

    Raises:
        ModelError: a section that contradicts itself, or weights that don't fit.
    """
    if family not in FAMILIES:
        raise ModelError(f"family '{family}' is unknown; expected one of {', '.join(FAMILIES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        image_config = image_tower_config(section.image)
        text_config, tokenizer, rows = text_tower_config(
            section.text, texts=texts, tokenizer_json=tokenizer_json, token_order=token_order
        )
        towers = _Towers(section, _frontend(section.image), image_config, text_config, tuple(labels))
        model = FAMILIES[family](towers)
    model.tokenizer_json = tokenizer
    if section.image.weights is not None:
        module = model.part("image").module
        assert isinstance(module, EfficientNetLite)
        pretrained.load_image_weights_(module, section.image.weights)
    if section.text.weights is not None:
        module = model.part("text").module
        assert isinstance(module, TextTransformer)
        pretrained.load_text_weights_(module, section.text.weights, rows=rows)
    model.eval()
    return model


def _frontend(tower: ImageTower) -> Part:
    return frontend_part(
        {
            "size": tower.input_size,
            "fit": tower.fit,
            "resample": tower.resample,
            "mean": list(tower.mean),
            "std": list(tower.std),
        }
    )


def image_tower_config(tower: ImageTower) -> dict[str, object]:
    """``EfficientNetLite``'s keyword arguments for a recipe's image tower."""
    return tower_config(
        input_size=tower.input_size,
        width=tower.width,
        depth=tower.depth,
        stem=tower.stem,
        blocks=tower.blocks,
        channels=tower.channels,
        expand=tower.expand,
        features=tower.features,
        output=tower.output,
    )


def text_tower_config(
    tower: TextTower,
    *,
    texts: Sequence[str] = (),
    tokenizer_json: str | None = None,
    token_order: Sequence[int] | None = None,
) -> tuple[dict[str, object], str, list[int] | None]:
    """``TextTransformer``'s keyword arguments, the tokenizer, and the rows kept of a trimmed word table.

    Raises:
        ModelError: neither weights nor a tokenizer, or a trimmed vocabulary without texts.
    """
    known: Mapping[str, int] = {}
    if tower.weights is not None:
        known, own_tokenizer = pretrained.text_description(tower.weights)
        tokenizer_json = tokenizer_json or own_tokenizer
    if tokenizer_json is None:
        raise ModelError(
            "text tower: no tokenizer; name weights that have one ('package:minilm-l6', 'folder:PATH', 'hf:NAME')"
        )
    rows: list[int] | None = None
    if tower.vocabulary == "trimmed":
        if not texts:
            raise ModelError('text tower: vocabulary = "trimmed" needs texts, and the data has none')
        tokenizer_json, rows = trim_vocabulary(tokenizer_json, texts, extra_words=tower.extra_words, order=token_order)
    tokenizer_json = with_limits(tokenizer_json, tower.max_tokens)
    width = tower.width or known.get("width", 384)
    vocab = tokenizer_from_json(tokenizer_json).get_vocab_size(with_added_tokens=True)
    config: dict[str, object] = {
        "vocab": vocab if rows is not None else max(vocab, known.get("vocab", 0)),
        "layers": tower.layers or known.get("layers", 6),
        "width": width,
        "heads": tower.heads or known.get("heads", 12),
        "ffn": tower.ffn or known.get("ffn" if width == known.get("width") else "", 4 * width),
        "max_tokens": tower.max_tokens,
        "embedding_rank": tower.embedding_rank,
        "output": tower.output,
    }
    return config, tokenizer_json, rows
