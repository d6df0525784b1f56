"""Towers: how a modality's section of a recipe becomes the parts that lead from its raw form to its features."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edgemm.models import pretrained
from edgemm.models.efficientnet import EfficientNetLite, tower_config
from edgemm.models.model import Part
from edgemm.models.odd_texts import odd_texts
from edgemm.models.part_kinds import kinds, module_from_config
from edgemm.models.parts import BATCH, audio_frontend_part, frontend_part, part, text_specs
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import added_tokens, hold_trimmed, tokenizer_from_json, trim_vocabulary, with_limits
from edgemm.recipe import AudioTower, ConvTower, ImageTower, ModelSection, Section, TensorTower, TextTower
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import one_line
from edgemm.runtime.readers import AudioInput, ImageInput, RawInput, TensorInput, TextInput
from edgemm.runtime.signature import Signature, TensorSpec

if TYPE_CHECKING:
    from edgemm.models.huggingface import Encoder

AnyTower = ImageTower | TextTower | AudioTower | TensorTower
_SEEN = {"input_size", "sample_rate", "longest_s", "mels", "shape"}  # options that say what stands before a tower


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


def tower_of(
    modality: str,
    tower: AnyTower,
    *,
    embed_dim: int | None = None,
    smaller: bool = False,
    texts: Sequence[str] = (),
    tokenizer_json: str | None = None,
    token_order: Sequence[str] = (),
    text_like: Mapping[str, object] | None = None,
) -> Tower:
    """Return the tower that a section describes, frontend included, with the weights that it names.

    Args:
        embed_dim: width of a projection inside the tower, for those that can have one.
        smaller, texts, tokenizer_json, token_order, text_like: see ``build_model``.

    Raises:
        ModelError: weights or code that aren't there, or don't fit.
    """
    if (outside := _tower_from_outside(modality, tower)) is not None:
        return outside
    if isinstance(tower, ImageTower):
        return _image_tower(tower, embed_dim=embed_dim, smaller=smaller)
    if isinstance(tower, AudioTower):
        return _audio_tower(tower, embed_dim=embed_dim)
    if isinstance(tower, TensorTower):
        return _tensor_tower(modality, tower)
    config, tokenizer, rows = text_tower_config(
        tower, texts=texts, tokenizer_json=tokenizer_json, token_order=token_order, text_like=text_like
    )
    return _text_tower(tower, config, tokenizer, rows, embed_dim=embed_dim, smaller=smaller)


def _tower_part(
    modality: str,
    kind: str,
    config: Mapping[str, object],
    seen: TensorSpec,
    *,
    embed_dim: int | None = None,
    module: nn.Module | None = None,
) -> Part:
    """A tower, of the table where no module is given; asked what it makes of zeros: (batch, W), or (batch, N, W)."""
    config = {**config, **({"embed_dim": embed_dim} if embed_dim else {})}
    module = (module or module_from_config(kind, config)).eval()
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
    """Return those options of a tower's section that the constructor of its kind names.

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


def _image_frontend(tower: ImageTower) -> tuple[Part, ImageInput]:
    frontend = frontend_part(
        {
            "size": tower.input_size,
            "fit": tower.fit,
            "resample": tower.resample,
            "mean": list(tower.mean),
            "std": list(tower.std),
        }
    )
    return frontend, ImageInput()


def _image_tower(tower: ImageTower, *, embed_dim: int | None, smaller: bool) -> Tower:
    frontend, raw = _image_frontend(tower)
    made = _behind(frontend, tower, own="efficientnet-lite", embed_dim=embed_dim)
    if tower.weights is not None:
        assert isinstance(made.module, EfficientNetLite)
        pretrained.load_image_weights_(made.module, tower.weights, smaller=smaller)
    return Tower("image", (frontend, made), raw)


def _audio_frontend(tower: AudioTower) -> tuple[Part, AudioInput]:
    hop = tower.sample_rate // 100  # 10 ms
    sizes = {"mels": tower.mels, "sample_rate": tower.sample_rate, "fft": 5 * hop // 2, "hop": hop}
    samples = round(tower.longest_s * 100) * hop
    return audio_frontend_part("whisper-frontend", {**sizes, "samples": samples}), AudioInput(tower.sample_rate)


def _audio_tower(tower: AudioTower, *, embed_dim: int | None) -> Tower:
    frontend, raw = _audio_frontend(tower)
    return Tower("audio", (frontend, _behind(frontend, tower, own="audio-cnn", embed_dim=embed_dim)), raw)


def _behind(frontend: Part, tower: ImageTower | AudioTower, *, own: str, embed_dim: int | None) -> Part:
    """Return the tower that sees what a frontend makes; only ``own`` can have its projection inside."""
    assert frontend.modality is not None
    seen = frontend.signature.outputs[0]
    if tower.kind != own:
        return _tower_part(frontend.modality, tower.kind, _options(tower.kind, tower), seen)
    return _tower_part(frontend.modality, own, conv_tower_config(tower), seen, embed_dim=embed_dim)


def _tensor_tower(modality: str, tower: TensorTower) -> Tower:
    made = _tower_part(modality, tower.kind, _options(tower.kind, tower), _tensor_spec(modality, tower))
    return Tower(modality, (made,), TensorInput(modality))


def _tensor_spec(modality: str, tower: TensorTower) -> TensorSpec:
    return TensorSpec(modality, "float32", ("batch", *tower.shape))


def _tower_from_outside(modality: str, tower: AnyTower) -> Tower | None:
    """A tower of the user's own code or of Hugging Face's, frontend included; None where the tower is one of ours."""
    weights = tower.weights
    if weights is None:
        return None
    if weights.startswith("python:"):
        return _tower_from_code(modality, tower, weights)
    if isinstance(tower, TensorTower):
        raise ModelError(f"{modality}.weights: got '{weights}', expected python:module:factory")
    if not (weights.startswith("hf:") or isinstance(tower, AudioTower)):
        return None
    if isinstance(tower, TextTower) and pretrained.is_bert(weights):
        return None
    from edgemm.models.huggingface import encoder_from_hub  # transformers takes seconds to import

    if isinstance(tower, AudioTower):
        with tempfile.TemporaryDirectory() as folder:
            name = str(pretrained.whisper_folder(weights, Path(folder)))
            made = encoder_from_hub(
                name, modality=modality, output=tower.output, longest_s=tower.longest_s,
                or_its_own="longest_s" not in tower.model_fields_set,
            )  # fmt: skip
    else:
        tokens = tower.max_tokens if isinstance(tower, TextTower) else None
        made = encoder_from_hub(weights.removeprefix("hf:"), modality=modality, output=tower.output, max_tokens=tokens)
    return _tower_of(modality, made)


def _tower_of(modality: str, made: Encoder) -> Tower:
    parts = (made.tower,) if made.frontend is None else (made.frontend, made.tower)
    return Tower(modality, parts, made.raw, made.tokenizer_json)


def _tower_from_code(modality: str, tower: AnyTower, weights: str) -> Tower:
    """Return what the user's factory makes: whole, or a module behind the frontend that the recipe describes."""
    from edgemm.models.outside import tower_from_factory  # and with it transformers, which takes seconds to import

    made = tower_from_factory(weights, modality=modality)
    if not isinstance(made, nn.Module):
        seen = made.tower.signature.inputs[0]
        if isinstance(tower, TensorTower) and seen.shape[1:] != tower.shape:
            raise ModelError(f"{modality}.shape: got {list(tower.shape)}, and '{weights}' takes {list(seen.shape[1:])}")
        return _tower_of(modality, made)
    frontends: tuple[Part, ...] = ()
    raw: RawInput = TensorInput(modality)
    if isinstance(tower, TensorTower):
        seen = _tensor_spec(modality, tower)
    else:
        assert not isinstance(tower, TextTower), "it comes whole, with its tokenizer"
        frontend, raw = _image_frontend(tower) if isinstance(tower, ImageTower) else _audio_frontend(tower)
        frontends, seen = (frontend,), frontend.signature.outputs[0]
    config = {"factory": weights.removeprefix("python:")}
    return Tower(modality, (*frontends, _tower_part(modality, "python", config, seen, module=made)), raw)


def _text_tower(
    tower: TextTower,
    config: Mapping[str, object],
    tokenizer: str,
    rows: list[int] | None,
    *,
    embed_dim: int | None,
    smaller: bool,
) -> Tower:
    made = _text_part(config, embed_dim=embed_dim)
    if tower.weights is not None:
        assert isinstance(made.module, TextTransformer)
        pretrained.load_text_weights_(made.module, tower.weights, rows=rows, smaller=smaller)
    return Tower("text", (made,), TextInput("tokenizer.json", tower.max_tokens), tokenizer)


def weightless(section: ModelSection) -> tuple[ModelSection, str | None]:
    """The section without pretrained weights but of their sizes, and the tokenizer they come with: for a dry run.

    Raises:
        ModelError: text weights that aren't there.
    """
    changed: dict[str, object] = {}
    tokenizer = None
    for name, tower in (("image", section.image), ("audio", section.audio)):
        if tower is not None and not (tower.weights or "").startswith(("hf:", "python:")):  # no sizes of ours
            changed[name] = tower.model_copy(update={"weights": None})
    weights = section.text.weights if section.text else None
    if section.text and weights and not weights.startswith("python:") and pretrained.is_bert(weights):
        known, tokenizer = pretrained.text_description(weights, max_tokens=section.text.max_tokens)
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
    token_order: Sequence[str] = (),
    text_like: Mapping[str, object] | None = None,
) -> tuple[dict[str, object], str, list[int] | None]:
    """``TextTransformer``'s keyword arguments, the tokenizer, and the rows kept of a trimmed word table.

    Raises:
        ModelError: neither weights nor a tokenizer, or a trimmed vocabulary without texts.
    """
    known: Mapping[str, Any] = text_like or {}
    if tower.weights is not None:  # its rows are ordered by its own tokenizer
        known, tokenizer_json = pretrained.text_description(tower.weights, max_tokens=tower.max_tokens)
    if tokenizer_json is None:
        raise ModelError(
            "text tower: no tokenizer; name weights that have one ('package:minilm-l6', 'folder:PATH', 'hf:NAME')"
        )
    rows: list[int] | None = None
    if tower.vocabulary == "trimmed":
        if not texts:
            raise ModelError('text tower: vocabulary = "trimmed" needs texts, and the data has none')
        whole = with_limits(tokenizer_json, tower.max_tokens)  # names the padding token, which stays
        tokenizer_json, rows = trim_vocabulary(whole, texts, extra_words=tower.extra_words, order=token_order)
        hold_trimmed(whole, tokenizer_json, rows, [*texts[:200], *odd_texts(added_tokens(whole))])
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
        **{key: known[key] for key in ("pooling", "norm_eps") if key in known},
    }
    return config, tokenizer_json, rows
