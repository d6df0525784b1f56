"""Hugging Face models as edgemm's own: whole ones, and single encoders as towers.

transformers is touched here, and for tokenizers in ``owner_tokenizer``, and only when asked for: importing it takes
seconds.
Weights come from safetensors alone, and attention is the plain one, which exports with every mask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgemm.models.checkpoint import checkpoint_config, weight_files, weight_names
from edgemm.models.hub import snapshot
from edgemm.models.huggingface_inputs import frontend_of, text_input_of
from edgemm.models.huggingface_towers import (
    ARCHITECTURES,
    CLASSIFIERS,
    DUAL_ENCODERS,
    ENCODERS,
    MATCHING,
    HfTower,
    kind_of,
)
from edgemm.models.model import Model, Part
from edgemm.models.parts import BATCH, text_specs
from edgemm.models.sentence import Sentence, SentenceHead, encoder_folder, sentence_of
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import json_value, one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.manifest import Role
from edgemm.runtime.outputs import Classes, Embedding, recognised
from edgemm.runtime.readers import RawInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

AUDIO_BATCH = DimRange(1, 1, 8)
"""Seconds of sound are thousands of positions: a batch of 32 would take gigabytes."""

_BOOKKEEPING = ("transformers_version", "architectures", "dtype", "torch_dtype", "_name_or_path")


@dataclass(frozen=True)
class Encoder:
    """A single encoder, as what a model needs for one modality.

    Args:
        frontend: raw value to the tower's input; None for text.
        tower: named by its modality, with the output ``<modality>_features``.
        raw: how the raw form becomes a value.
        tokenizer_json: for text.
    """

    frontend: Part | None
    tower: Part
    raw: RawInput
    tokenizer_json: str | None


def hf_tower(
    *, architecture: str, config: Mapping[str, object], output: str, sentence: Mapping[str, Any] | None = None
) -> HfTower:
    """Return a part with random weights, from the JSON of its Hugging Face config (kind ``hf``).

    Args:
        architecture: a name in ``ARCHITECTURES``.
        config: of the whole model that the tower is part of.
        output: one that the architecture has.
        sentence: of a text tower, ``SentenceHead``'s arguments, for a pooling other than the architecture's.

    Raises:
        ModelError: an architecture or an output that there isn't.
    """
    if architecture not in ARCHITECTURES:
        raise ModelError(f"part kind 'hf': architecture '{architecture}'; expected one of {', '.join(ARCHITECTURES)}")
    known = ARCHITECTURES[architecture]
    if output not in known.outputs:
        raise ModelError(f"part kind 'hf': output '{output}' of {architecture}; expected {' or '.join(known.outputs)}")
    cls = getattr(_transformers(), known.model)
    try:  # some configs take keys out of what they are given
        inner = cls._from_config(cls.config_class(**deepcopy(dict(config))), attn_implementation="eager")
    except Exception as error:  # transformers raises anything on a config that isn't its own
        reason = next(iter(str(error).splitlines()), "")
        raise ModelError(
            f"part kind 'hf': config of {architecture} doesn't fit {known.model}: {type(error).__name__}: {reason}"
        ) from error
    return HfTower(inner, known, output, None if sentence is None else SentenceHead(**sentence)).eval()


def model_from_hub(name: str, *, family: str | None = None, answers: Sequence[str] = ()) -> Model:
    """Return the model that a folder or a name on the hub holds, with its frontends and its tokenizer.

    Dual encoders end in two of ``image_embedding``, ``text_embedding`` and ``audio_embedding``, of length 1;
    classifiers in ``logits``, with the checkpoint's own labels; single encoders in ``<modality>_features``.

    Args:
        name: folder, or ``owner/name``.
        family: what is wanted of a dual encoder that also matches (BLIP): ``"fusion-classifier"`` says whether a text
            fits an image; any other, or None, embeds each. Models of one kind are what they are.
        answers: to choose from, for a model that writes answers word by word (BLIP for questions).

    Raises:
        ModelError: a model type that isn't supported, a file that is missing, or weights that don't fit.
    """
    folder = encoder_folder(snapshot(name))
    config = checkpoint_config(folder, name=f"hf:{name}")
    kind = kind_of(config, family=family)
    if "BlipForConditionalGeneration" in (config.get("architectures") or ()):
        raise ModelError(
            f"hf:{name}: BlipForConditionalGeneration writes captions; expected BlipForImageTextRetrieval, or "
            "BlipForQuestionAnswering for questions with a list of answers"
        )
    if kind in CLASSIFIERS:
        return _classifier(_Checkpoint(name, folder, kind), answers)
    if kind in DUAL_ENCODERS:
        return _dual_encoder(_Checkpoint(name, folder, kind))
    if kind not in ENCODERS:
        raise _unsupported(name, kind, [*DUAL_ENCODERS, *CLASSIFIERS, *ENCODERS])
    modality = ENCODERS[kind].inputs[0]
    encoder = encoder_from_hub(name, modality=modality, output="pooled", whole=True)
    parts = [part for part in (encoder.frontend, encoder.tower) if part is not None]
    model = Model(
        f"{modality}-encoder",
        parts,
        inputs={modality: encoder.raw},
        outputs=recognised(encoder.tower.signature.outputs),
    )
    model.tokenizer_json = encoder.tokenizer_json
    return model.eval()


def encoder_from_hub(
    name: str,
    *,
    modality: str,
    output: str,
    max_tokens: int | None = None,
    longest_s: float | None = None,
    or_its_own: bool = False,
    whole: bool = False,
) -> Encoder:
    """Return a single encoder as a tower.

    Args:
        name: folder, or ``owner/name``.
        modality: ``"image"``, ``"text"`` or ``"audio"``.
        output: ``"pooled"`` (B, W): the model's own pooling for images and AST; of words the pooling that the folder
            states, else the mean; the mean over time for the others; ``"tokens"`` (B, N, W).
        max_tokens: of a text; default where its owner cuts it.
        longest_s: seconds of sound; default what the encoder takes, and 30 where it takes any. Whisper then uses the
            first of its positions; towers of one fixed length take no other.
        or_its_own: a tower of one fixed length takes that, whatever ``longest_s`` says.
        whole: with the normalisation that a sentence-transformers folder puts last. A tower of a recipe goes without:
            what it makes is projected and normalised there.

    Raises:
        ModelError: a model type that isn't supported, a file that is missing, or weights that don't fit.
    """
    root = snapshot(name)
    folder = encoder_folder(root)
    kind = str(checkpoint_config(folder, name=f"hf:{name}").get("model_type"))
    supported = [k for k, known in ENCODERS.items() if known.inputs == (modality,)]
    if kind not in supported:
        raise _unsupported(name, kind, supported, what=f"as {modality} tower ")
    if output not in ("pooled", "tokens"):
        raise ModelError(f"hf:{name}: output '{output}'; expected pooled or tokens")
    checkpoint = _Checkpoint(name, folder, kind)
    value = f"{modality}_features"
    if modality == "text":
        sentence = sentence_of(root, name=f"hf:{name}")
        raw, tokenizer = text_input_of(sentence, checkpoint.config, max_tokens, name=f"hf:{name}", full_length=False)
        if not whole:
            sentence = sentence.without_norm
        tower = _tower(checkpoint, kind, "text", output, None, value, tokens=raw.max_tokens, sentence=sentence)
        return Encoder(None, tower, raw, tokenizer)
    frontend, raw_input = checkpoint.frontend(modality, longest_s=longest_s, or_its_own=or_its_own)
    return Encoder(frontend, _tower(checkpoint, kind, modality, output, frontend, value), raw_input, None)


# --- whole models ----------------------------------------------------------------------------------------------------


def _dual_encoder(checkpoint: _Checkpoint) -> Model:
    parts: list[Part] = []
    inputs: dict[str, RawInput] = {}
    tokenizer: str | None = None
    kind = checkpoint.kind
    for modality, known in DUAL_ENCODERS[kind].items():
        frontend, tokens = None, 0
        if modality == "text":
            text = checkpoint.config["text_config"]
            inputs[modality], tokenizer = raw, _ = text_input_of(
                Sentence(checkpoint.folder), text, None, name=f"hf:{checkpoint.name}", full_length=not known.mask
            )
            tokens = raw.max_tokens
        else:
            frontend, inputs[modality] = checkpoint.frontend(modality)
            parts.append(frontend)
        value = f"{modality}_embedding"
        parts.append(_tower(checkpoint, f"{kind}-{modality}", modality, "embedding", frontend, value, tokens=tokens))
    model = Model("dual-encoder", parts, inputs=inputs, outputs={f"{m}_embedding": Embedding() for m in inputs})
    model.tokenizer_json = tokenizer
    return model.eval()


def _classifier(checkpoint: _Checkpoint, answers: Sequence[str]) -> Model:
    """Return a part that looks at pixels and words together, or at the tokens of an image tower before it."""
    kind, config = checkpoint.kind, checkpoint.config
    frontend, image = checkpoint.frontend("image")
    parts, labels = [frontend], MATCHING
    if "tokens" in CLASSIFIERS[kind]:
        config = config["text_config"]
        if not config["is_decoder"]:
            raise ModelError(
                f"hf:{checkpoint.name}: text_config.is_decoder is false, so its text encoder can't look at an image; "
                'expected a checkpoint for image-text matching, or family = "dual-encoder"'
            )
        parts.append(_tower(checkpoint, f"{kind}-tokens", "image", "tokens", frontend, "image_features"))
    text, tokenizer = text_input_of(
        Sentence(checkpoint.folder), config, None, name=f"hf:{checkpoint.name}", full_length=False
    )
    if kind == "vilt":
        names = checkpoint.whole.config.id2label
        labels = tuple(str(names[i]) for i in range(len(names)))
    elif kind == "blip-answers":
        labels = tuple(answers)
        checkpoint.config["answers"] = _written(labels, tokenizer, config, where=f"hf:{checkpoint.name}")
    fusion = _part(
        checkpoint, f"{kind}-logits", "logits", name="fusion", role="fusion", modality=None, value="logits",
        inputs=[*parts[-1].signature.outputs, *text_specs()],
        dims={"batch": BATCH, "tokens": _tokens(text.max_tokens)},
    )  # fmt: skip
    model = Model(
        "fusion-classifier",
        [*parts, fusion],
        inputs={"image": image, "text": text},
        outputs={"logits": Classes(tuple(labels))},
    )
    model.tokenizer_json = tokenizer
    return model.eval()


def _written(answers: Sequence[str], tokenizer_json: str, config: Mapping[str, Any], *, where: str) -> list[list[int]]:
    """Ids of each answer between the decoder's first and last, padded to one length."""
    if not answers:
        raise ModelError(
            f"{where}: writes its answer word by word, and chooses from a list of them: the labels of a recipe's data; "
            "there is none"
        )
    tokenizer = tokenizer_from_json(tokenizer_json)
    tokenizer.no_padding()
    said = [tokenizer.encode(answer, add_special_tokens=False).ids for answer in answers]
    longest = max(map(len, said))
    first, last, pad = (config[f"{name}_token_id"] for name in ("bos", "sep", "pad"))
    return [[first, *ids, last, *[pad] * (longest - len(ids))] for ids in said]


# --- parts -----------------------------------------------------------------------------------------------------------


def _tower(
    checkpoint: _Checkpoint,
    architecture: str,
    modality: str,
    output: str,
    frontend: Part | None,
    value: str,
    *,
    tokens: int = 0,
    sentence: Sentence | None = None,
) -> Part:
    dims = {"batch": AUDIO_BATCH if modality == "audio" else BATCH}
    if frontend is None:
        mask = ARCHITECTURES[architecture].mask
        inputs = text_specs() if mask else text_specs()[:1]
        dims["tokens"] = _tokens(tokens) if mask else DimRange(tokens, tokens, tokens)
    else:
        inputs = list(frontend.signature.outputs)
        dims |= {d: r for d, r in frontend.signature.dims.items() if d == "samples" and d in inputs[0].shape}
    return _part(
        checkpoint, architecture, output, name=modality, role="tower", modality=modality, value=value,
        inputs=inputs, dims=dims, sentence=sentence if output == "pooled" else None,
    )  # fmt: skip


def _part(
    checkpoint: _Checkpoint,
    architecture: str,
    output: str,
    *,
    name: str,
    role: Role,
    modality: str | None,
    value: str,
    inputs: list[TensorSpec],
    dims: Mapping[str, DimRange],
    sentence: Sentence | None = None,
) -> Part:
    """Return a part with the checkpoint's weights; the shape of its output is found by running it."""
    config = checkpoint.config
    if checkpoint.kind == "whisper":
        config = {**config, "max_source_positions": int(inputs[0].shape[-1]) // 2}
    if checkpoint.kind == "clap" and modality == "audio":
        config = {**config, "audio_config": {**config["audio_config"], "enable_fusion": False}}
    if architecture == "blip-text":  # embedding a text it looks at no image
        config = {**config, "text_config": {**config["text_config"], "is_decoder": False}}
    known = ARCHITECTURES[architecture]
    if known.without_pooler and any(key.startswith("pooler.") for key in checkpoint.missing):
        architecture = known.without_pooler
    arguments: dict[str, object] = {"architecture": architecture, "config": config, "output": output}
    if sentence is not None and (sentence.pooling, sentence.layers) != (("mean",), ()):
        arguments["sentence"] = {"pooling": list(sentence.pooling), "layers": list(sentence.layers)}
    tower = hf_tower(**arguments)  # type: ignore[arg-type]
    checkpoint.load_(tower)
    if sentence is not None:
        sentence.load_(tower.head, where=f"hf:{checkpoint.name}")
    try:
        shape: list[int | str] = ["batch", *_output_shape(tower, inputs, dims)]
    except Exception as error:  # the model's own code raises anything on a config that isn't its own
        made = "its tokenizer" if modality == "text" else "its preprocessor_config.json"
        raise ModelError(
            f"hf:{checkpoint.name}: the {architecture} can't run on what {made} makes, "
            f"{', '.join(f'{spec.name} {list(spec.shape)}' for spec in inputs)}: {one_line(error)}"
        ) from error
    dims = dict(dims)
    if len(shape) == 3 and "tokens" in dims:
        shape[1] = "tokens"
    elif len(shape) == 3 and "samples" in dims:
        ends = [
            _output_shape(tower, inputs, {**dims, "samples": DimRange(n, n, n)})[0]
            for n in (dims["samples"].min, dims["samples"].max)
        ]
        shape[1], dims["frames"] = "frames", DimRange(ends[0], ends[1], ends[1])
    spec = TensorSpec(value, "float32", tuple(shape))
    return Part(name, role, modality, "hf", arguments, Signature(tuple(inputs), (spec,), dims), tower)


def _output_shape(tower: HfTower, inputs: list[TensorSpec], dims: Mapping[str, DimRange]) -> list[int]:
    """Without the batch, of one sample at the smallest sizes."""
    shapes = [[d if isinstance(d, int) else dims[d].min for d in spec.shape] for spec in inputs]
    sample = [
        torch.ones(shape, dtype=torch.int64 if spec.dtype == "int64" else torch.float32)
        for spec, shape in zip(inputs, shapes, strict=True)
    ]
    with torch.no_grad():
        return list(tower(*sample).shape[1:])


def _tokens(longest: int) -> DimRange:
    return DimRange(1, min(16, longest), longest)


# --- the checkpoint --------------------------------------------------------------------------------------------------


class _Checkpoint:
    """A folder's model as transformers loads it, with what it lacked.

    Args:
        name: for messages.
        kind: in the tables.
    """

    def __init__(self, name: str, folder: Path, kind: str) -> None:
        self.name, self.folder, self.kind = name, folder, kind
        known = ENCODERS.get(kind) or next(iter((CLASSIFIERS.get(kind) or DUAL_ENCODERS[kind]).values()))
        files = weight_files(folder, name=f"hf:{name}")
        transformers = _transformers()
        level = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()  # what is missing is said below, where it matters
        try:
            self.whole, told = _loaded(transformers, known.model, folder)
            if prefix := _foreign_prefix(told["missing_keys"], weight_names(files)):
                self.whole, told = _loaded(transformers, known.model, folder, {f"^{re.escape(prefix)}": ""})
        except Exception as error:  # of a config that isn't the model's own transformers raises anything
            raise ModelError(f"hf:{name}: weights can't be loaded ({one_line(error)})") from error
        finally:
            transformers.logging.set_verbosity(level)
        self.missing = frozenset[str](told["missing_keys"])
        self.config: dict[str, Any] = _plain(json_value(self.whole.config.to_json_string(use_diff=False)))

    def frontend(
        self, modality: str, *, longest_s: float | None = None, or_its_own: bool = False
    ) -> tuple[Part, RawInput]:
        """See ``frontend_of``."""
        return frontend_of(
            self.folder, kind=self.kind, config=self.config, modality=modality, longest_s=longest_s,
            or_its_own=or_its_own,
        )  # fmt: skip

    def load_(self, tower: HfTower) -> None:
        """Copy the weights that ``tower`` has. Raises ModelError where the checkpoint lacks one."""
        source, wanted = self.whole.state_dict(), tower.inner.state_dict()
        if missing := sorted(key for key in wanted if key not in source or key in self.missing):
            raise ModelError(
                f"hf:{self.name}: '{missing[0]}' is missing from the checkpoint ({len(missing)} such); "
                f"expected the weights of {type(tower.inner).__name__}"
            )
        # Whisper for shorter sounds has fewer positions
        found: dict[str, Tensor] = {
            key: source[key][: len(value)] if key.endswith("embed_positions.weight") else source[key]
            for key, value in wanted.items()
        }
        tower.inner.load_state_dict(found)


def _loaded(
    transformers: Any, model: str, folder: Path, key_mapping: Mapping[str, str] | None = None
) -> tuple[Any, Mapping[str, Any]]:
    found: tuple[Any, Mapping[str, Any]] = getattr(transformers, model).from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, attn_implementation="eager",
        output_loading_info=True, key_mapping=key_mapping,
    )  # fmt: skip
    return found


def _foreign_prefix(missing: Iterable[str], names: set[str]) -> str:
    """What another library puts before all of a model's names; empty where nothing, or more than one thing, does."""
    found = {other.removesuffix(key) for key in missing for other in names if other.endswith(f".{key}")}
    return found.pop() if len(found) == 1 else ""


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    """Without what transformers notes for itself."""
    return {
        key: _plain(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _BOOKKEEPING
    }


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"transformers can't be imported ({error}); {pip_install('transformers')}") from error
    return transformers


def _unsupported(name: str, kind: str, supported: list[str], *, what: str = "") -> ModelError:
    return ModelError(f"hf:{name}: model type '{kind}' {what}is not supported; expected one of {', '.join(supported)}")
