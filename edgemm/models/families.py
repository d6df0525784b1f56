"""Families: how towers, fusion and head of a recipe become a Model."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from edgemm.models import pretrained
from edgemm.models.audio_frontend import AudioFrontend
from edgemm.models.efficientnet import EfficientNetLite, tower_config
from edgemm.models.frontend import sides
from edgemm.models.fusion import fusion as fusion_from
from edgemm.models.fusion import fusion_class
from edgemm.models.kinds import kinds, module_from_config, resolve
from edgemm.models.model import Model, Part
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import tokenizer_from_json, trim_vocabulary, with_limits
from edgemm.recipe import FUSIONS, AudioTower, ConvTower, ImageTower, ModelSection, Section, TensorTower, TextTower
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import one_line
from edgemm.runtime.manifest import AudioInput, ImageInput, RawInput, Role, Task, TensorInput, TextInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

BATCH = DimRange(1, 1, 32)
SIDE = DimRange(16, 128, 4096)
_SEEN = {"input_size", "sample_rate", "longest_s", "mels", "shape"}  # options that say what stands before a tower


@dataclass(frozen=True, slots=True)
class Answer:
    """What a fusion-classifier says: which of the labels, how many of them, or (regression) a quantity."""

    labels: tuple[str, ...] = ()
    task: Task = "single-label"


@dataclass(frozen=True)
class Tower:
    """What leads from one modality's raw form to its features.

    Args:
        parts: a frontend where the modality has one, then the tower; the last makes ``<modality>_features``.
        raw: how the raw form becomes values.
        tokenizer_json: of a text tower.
    """

    modality: str
    parts: tuple[Part, ...]
    raw: RawInput
    tokenizer_json: str | None = None

    @property
    def features(self) -> TensorSpec:
        """What the tower makes: (batch, W), or (batch, N, W) tokens."""
        return self.parts[-1].signature.outputs[0]

    @property
    def width(self) -> int:
        """W of its features."""
        width = self.features.shape[-1]
        assert isinstance(width, int)
        return width


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


def _tower_part(
    modality: str, kind: str, config: Mapping[str, object], seen: TensorSpec, *, embed_dim: int | None = None
) -> Part:
    """A tower of the table, which is asked what it makes of zeros: (batch, W), or (batch, N, W) tokens."""
    config = {**config, **({"embed_dim": embed_dim} if embed_dim else {})}
    module = module_from_config(kind, config).eval()
    zeros = torch.zeros([1 if isinstance(size, str) else size for size in seen.shape])
    try:
        with torch.no_grad():
            made = module(zeros)
    except Exception as error:  # a tower of one's own may raise anything
        raise ModelError(f"{modality} tower '{kind}': can't see {list(zeros.shape)}: {one_line(error)}") from error
    shape = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
    if not isinstance(made, torch.Tensor) or made.ndim not in (2, 3) or made.shape[0] != 1:
        raise ModelError(
            f"{modality} tower '{kind}': makes {shape} of {list(zeros.shape)}; expected [1, width], or "
            "[1, positions, width]"
        )
    spec = TensorSpec(_named(modality, embed_dim), "float32", ("batch", *made.shape[1:]))
    return Part(modality, "tower", modality, kind, config, Signature((seen,), (spec,), {"batch": BATCH}), module)


def _options(kind: str, section: Section) -> dict[str, object]:
    """Those options of a tower's section that the constructor of its kind names.

    A class from outside has defaults of its own: it gets what the recipe gives, what it has no default for, and what
    says what it sees.
    """
    path = kinds()[kind]
    named = inspect.signature(resolve(path, what=f"part kind '{kind}'")).parameters
    values = {name: value for name, value in section.model_dump(mode="json").items() if name in named}
    if not path.startswith("edgemm."):
        always = _SEEN | {name for name, parameter in named.items() if parameter.default is parameter.empty}
        values = {name: value for name, value in values.items() if name in section.model_fields_set | always}
    return {name: value for name, value in values.items() if value is not None}


def _text_part(config: Mapping[str, object], *, embed_dim: int | None) -> Part:
    width = embed_dim or config["width"]
    assert isinstance(width, int)
    shape: tuple[int | str, ...] = ("batch", width) if config["output"] == "pooled" else ("batch", "tokens", width)
    tokens = config["max_tokens"]
    assert isinstance(tokens, int)
    config = {**config, **({"embed_dim": embed_dim} if embed_dim else {})}
    spec = TensorSpec(_named("text", embed_dim), "float32", shape)
    return part("text", "tower", "text", "text-transformer", config, text_specs(), spec, tokens=tokens)


def _named(modality: str, embed_dim: int | None) -> str:
    return f"{modality}_embedding" if embed_dim else f"{modality}_features"


def _image_tower(tower: ImageTower, *, embed_dim: int | None) -> Tower:
    frontend = frontend_part(
        {
            "size": tower.input_size,
            "fit": tower.fit,
            "resample": tower.resample,
            "mean": list(tower.mean),
            "std": list(tower.std),
        }
    )
    made = _behind(frontend, tower, own="efficientnet-lite", embed_dim=embed_dim)
    if tower.weights is not None:
        assert isinstance(made.module, EfficientNetLite)
        pretrained.load_image_weights_(made.module, tower.weights)
    return Tower("image", (frontend, made), ImageInput())


def _audio_tower(tower: AudioTower, *, embed_dim: int | None) -> Tower:
    hop = tower.sample_rate // 100  # 10 ms
    sizes = {"mels": tower.mels, "sample_rate": tower.sample_rate, "fft": 5 * hop // 2, "hop": hop}
    samples = round(tower.longest_s * 100) * hop
    frontend = audio_frontend_part("whisper-frontend", {**sizes, "samples": samples})
    made = _behind(frontend, tower, own="audio-cnn", embed_dim=embed_dim)
    return Tower("audio", (frontend, made), AudioInput(tower.sample_rate))


def _behind(frontend: Part, tower: ImageTower | AudioTower, *, own: str, embed_dim: int | None) -> Part:
    """The tower that sees what a frontend makes; only ``own`` can have its projection inside."""
    assert frontend.modality is not None
    seen = frontend.signature.outputs[0]
    if tower.kind != own:
        return _tower_part(frontend.modality, tower.kind, _options(tower.kind, tower), seen)
    return _tower_part(frontend.modality, own, conv_tower_config(tower), seen, embed_dim=embed_dim)


def _tensor_tower(modality: str, tower: TensorTower) -> Tower:
    given = TensorSpec(modality, "float32", ("batch", *tower.shape))
    return Tower(
        modality, (_tower_part(modality, tower.kind, _options(tower.kind, tower), given),), TensorInput(modality)
    )


def _dual_encoder(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:  # noqa: ARG001
    return _embedding_model("dual-encoder", towers, section)


def _embedder(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:  # noqa: ARG001
    return _embedding_model("embedder", towers, section)


def _embedding_model(family: str, towers: Sequence[Tower], section: ModelSection) -> Model:
    """Every tower ends in a unit vector of the joint space, by a projection of its own where it has none inside."""
    parts: list[Part] = []
    for tower in towers:
        parts += tower.parts
        if len(tower.features.shape) != 2:
            raise ModelError(f'{family}: the {tower.modality} tower needs output = "pooled"')
        if tower.features.name != f"{tower.modality}_embedding":
            parts.append(_projection(tower, section))
    outputs = [f"{tower.modality}_embedding" for tower in towers]
    return Model(family, parts, inputs={tower.modality: tower.raw for tower in towers}, outputs=outputs)


def _projection(tower: Tower, section: ModelSection) -> Part:
    config = {
        "width": tower.width,
        "embed_dim": section.embed_dim,
        "hidden": section.projection_hidden,
        "dropout": section.dropout,
    }
    spec = TensorSpec(f"{tower.modality}_embedding", "float32", ("batch", section.embed_dim))
    return part(f"{tower.modality}_projection", "head", tower.modality, "projection", config, [tower.features], spec)


def _fusion_classifier(towers: Sequence[Tower], section: ModelSection, answer: Answer) -> Model:
    """Towers, then one fusion and its head; or a head for each modality and a decision of them; or both."""
    if answer.task != "regression" and not answer.labels:
        raise ModelError("fusion-classifier: the data has no labels; name a label column")
    mode = section.fusion.mode
    joining = FUSIONS[mode]
    parts = [part for tower in towers for part in tower.parts]
    output = "value" if answer.task == "regression" else "logits"
    voices: list[TensorSpec] = []
    if joining.made_by is not None:
        fused = _fusion(towers, section)
        parts.append(fused)
        parts.append(
            _head(
                "head",
                None,
                fused.signature.outputs[0],
                section,
                answer,
                f"fused_{output}" if joining.voices else output,
            )
        )
        voices.append(parts[-1].signature.outputs[0])
    if joining.voices:
        for tower in towers:
            if len(tower.features.shape) != 2:
                raise ModelError(f"fusion-classifier: fusion.mode '{mode}' needs {tower.modality}.output = \"pooled\"")
            parts.append(
                _head(
                    f"{tower.modality}_head",
                    tower.modality,
                    tower.features,
                    section,
                    answer,
                    f"{tower.modality}_{output}",
                )
            )
            voices.append(parts[-1].signature.outputs[0])
        decided = TensorSpec(output, "float32", voices[0].shape)
        parts.append(
            part("decision", "fusion", None, "decision", {"voices": len(voices), "task": answer.task}, voices, decided)
        )
    placeholders = {}
    if section.fusion.missing == "placeholder":
        for tower in towers:
            shape = [1 if isinstance(d, str) else d for d in tower.features.shape]
            placeholders[tower.features.name] = torch.zeros(shape)
    return Model(
        "fusion-classifier",
        parts,
        inputs={tower.modality: tower.raw for tower in towers},
        outputs=(output,),
        labels=answer.labels if answer.task != "regression" else (),
        task=answer.task,
        placeholders=placeholders,
    )


def _fusion(towers: Sequence[Tower], section: ModelSection) -> Part:
    fusion = section.fusion
    takes = fusion_class(fusion.mode).takes
    for tower in towers:
        tokens = len(tower.features.shape) == 3
        asks = fusion.mode == "cross-attention" and tower.modality == fusion.query
        if tokens and (takes == "pooled" or asks):
            raise ModelError(
                f"fusion-classifier: fusion.mode '{fusion.mode}' needs {tower.modality}.output = \"pooled\""
            )
        if not tokens and takes == "tokens" and not asks and not isinstance(tower.raw, TensorInput):
            raise ModelError(
                f"fusion-classifier: fusion.mode '{fusion.mode}' needs {tower.modality}.output = \"tokens\""
            )
    config: dict[str, Any] = {
        "mode": fusion.mode,
        "widths": {tower.modality: tower.width for tower in towers},
        "width": fusion.width,
        "heads": fusion.heads,
        "layers": fusion.layers,
        "query": fusion.query,
        "concat": fusion.concat,
        "norm": fusion.norm,
        "dropout": section.dropout,
    }
    spec = TensorSpec("fused", "float32", ("batch", fusion_from(**config).out_width))
    longest = max((tower.raw.max_tokens for tower in towers if isinstance(tower.raw, TextInput)), default=0)
    return part("fusion", "fusion", None, "fusion", config, [tower.features for tower in towers], spec, tokens=longest)


def _head(
    name: str, modality: str | None, features: TensorSpec, section: ModelSection, answer: Answer, output: str
) -> Part:
    classes = 1 if answer.task == "regression" else len(answer.labels)
    config = {
        "width": features.shape[-1],
        "classes": classes,
        "hidden": section.head_hidden,
        "dropout": section.dropout,
    }
    return part(
        name, "head", modality, "mlp-head", config, [features], TensorSpec(output, "float32", ("batch", classes))
    )


FAMILIES: Mapping[str, Callable[[Sequence[Tower], ModelSection, Answer], Model]] = {
    "dual-encoder": _dual_encoder,
    "fusion-classifier": _fusion_classifier,
    "embedder": _embedder,
}
"""Family -> what joins its towers into a Model. Losses are chosen in ``compress``, metrics in ``measure``."""


def build_model(
    section: ModelSection,
    *,
    family: str,
    answer: Answer = Answer(),
    texts: Sequence[str] = (),
    tokenizer_json: str | None = None,
    token_order: Sequence[int] | None = None,
    seed: int,
) -> Model:
    """The model that a recipe's section describes, with pretrained towers where it names weights.

    Args:
        section: towers and what joins them.
        family: a name in ``FAMILIES``.
        answer: what a fusion-classifier says.
        texts: what a trimmed vocabulary has to cover.
        tokenizer_json: for a text tower without weights of its own (a student takes its teacher's).
        token_order: which ids of that tokenizer a trimmed vocabulary keeps first; None: its own order.
        seed: of all random weights; the global generator is left as it was.

    Raises:
        ModelError: a section that contradicts itself, or weights that don't fit.
    """
    if family not in FAMILIES:
        raise ModelError(f"family '{family}' is unknown; expected one of {', '.join(FAMILIES)}")
    inside = family != "fusion-classifier" and section.projection == "tower"
    embed_dim = section.embed_dim if inside else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        towers: list[Tower] = []
        for modality, tower in section.towers.items():
            if (hub := _tower_from_hub(modality, tower)) is not None:
                towers.append(hub)
            elif isinstance(tower, ImageTower):
                towers.append(_image_tower(tower, embed_dim=embed_dim))
            elif isinstance(tower, AudioTower):
                towers.append(_audio_tower(tower, embed_dim=embed_dim))
            elif isinstance(tower, TextTower):
                config, tokenizer, rows = text_tower_config(
                    tower, texts=texts, tokenizer_json=tokenizer_json, token_order=token_order
                )
                towers.append(_text_tower(tower, config, tokenizer, rows, embed_dim=embed_dim))
            else:
                towers.append(_tensor_tower(modality, tower))
        model = FAMILIES[family](towers, section, answer)
    model.tokenizer_json = next((t.tokenizer_json for t in towers if t.tokenizer_json is not None), None)
    model.eval()
    return model


def _tower_from_hub(modality: str, tower: ImageTower | TextTower | AudioTower | TensorTower) -> Tower | None:
    """A tower of Hugging Face's, frontend included; None where the tower is one of ours."""
    if isinstance(tower, TensorTower) or tower.weights is None:
        return None
    weights = tower.weights
    if not (weights.startswith("hf:") or isinstance(tower, AudioTower)):
        return None
    if isinstance(tower, TextTower) and pretrained.is_bert(weights):
        return None
    from edgemm.models.huggingface import encoder_from_hub  # transformers takes seconds to import

    if isinstance(tower, AudioTower):
        with tempfile.TemporaryDirectory() as folder:
            name = str(pretrained.whisper_folder(weights, Path(folder)))
            made = encoder_from_hub(name, modality=modality, output=tower.output, longest_s=tower.longest_s)
    else:
        tokens = tower.max_tokens if isinstance(tower, TextTower) else None
        made = encoder_from_hub(weights.removeprefix("hf:"), modality=modality, output=tower.output, max_tokens=tokens)
    parts = (made.tower,) if made.frontend is None else (made.frontend, made.tower)
    return Tower(modality, parts, made.raw, made.tokenizer_json)


def _text_tower(
    tower: TextTower, config: Mapping[str, object], tokenizer: str, rows: list[int] | None, *, embed_dim: int | None
) -> Tower:
    made = _text_part(config, embed_dim=embed_dim)
    if tower.weights is not None:
        assert isinstance(made.module, TextTransformer)
        pretrained.load_text_weights_(made.module, tower.weights, rows=rows)
    return Tower("text", (made,), TextInput("tokenizer.json", tower.max_tokens), tokenizer)


def weightless(section: ModelSection) -> tuple[ModelSection, str | None]:
    """The section without pretrained weights but of their sizes, and the tokenizer they come with: for a dry run.

    Raises:
        ModelError: text weights that aren't there.
    """
    changed: dict[str, object] = {}
    tokenizer = None
    for name, tower in (("image", section.image), ("audio", section.audio)):
        if tower is not None and not (tower.weights or "").startswith("hf:"):  # those have no sizes of ours
            changed[name] = tower.model_copy(update={"weights": None})
    if section.text is not None and section.text.weights is not None and pretrained.is_bert(section.text.weights):
        known, tokenizer = pretrained.text_description(section.text.weights)
        sizes = {key: getattr(section.text, key) or known[key] for key in ("width", "heads", "ffn")}
        changed["text"] = section.text.model_copy(update={"weights": None, **sizes})
    return section.model_copy(update=changed), tokenizer


def conv_tower_config(tower: ConvTower) -> dict[str, object]:
    """``EfficientNetLite``'s keyword arguments for a recipe's image or audio tower."""
    return tower_config(
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
