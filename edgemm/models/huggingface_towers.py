"""What edgemm takes of each Hugging Face architecture: its class, what of it a tower leaves out, and how one is called.

Only names and calls stand here; transformers itself is imported by ``edgemm.models.huggingface``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.models.heads import unit

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class Architecture:
    """One tower, or one whole classifier.

    Args:
        model: name of the class in transformers.
        outputs: name of an output -> function of the model and the tensors of ``inputs``.
        inputs: modalities, in the order in which their tensors are given.
        drop: attributes of the model that no output reads.
        mask: the text tower takes ``attention_mask`` beside ``input_ids``.
        without_pooler: architecture that stands in where the checkpoint has no weights of ``pooler``.
    """

    model: str
    outputs: Mapping[str, Call]
    inputs: tuple[str, ...]
    drop: tuple[str, ...] = ()
    mask: bool = True
    without_pooler: str | None = None


class HfTower(nn.Module):
    """A Hugging Face model, or what a tower needs of it, with one tensor out.

    Args:
        inner: the model; what ``architecture`` drops is taken out of it.
        architecture: see the table.
        output: a name in ``architecture.outputs``.
        head: makes one vector of a text's tokens and their mask, in place of the architecture's own pooling.
    """

    def __init__(
        self, inner: nn.Module, architecture: Architecture, output: str, head: nn.Module | None = None
    ) -> None:
        super().__init__()
        for name in architecture.drop:
            if hasattr(inner, name):
                setattr(inner, name, None)
        if "masked_spec_embed" in architecture.drop:
            config: Any = inner.config
            config.apply_spec_augment = False  # in training it would put that over frames
        self.inner, self.call = inner, architecture.outputs["tokens" if head is not None else output]
        self.head = head

    def forward(self, *values: Tensor) -> Tensor:
        """Return the tower's inputs, (B, ...), to (B, D), or (B, N, D) where the output is ``tokens``."""
        made = self.call(self.inner, *values)
        if self.head is None:
            return made
        vector: Tensor = self.head(made, values[-1])
        return vector


# --- calls -----------------------------------------------------------------------------------------------------------


def _embedding(method: str, *names: str) -> Call:
    def call(model: Any, *values: Tensor) -> Tensor:
        return unit(getattr(model, method)(**dict(zip(names, values, strict=True))))

    return call


def _pooler(*names: str) -> Call:
    """(B, W) of the model's own pooling; convolutional towers end in (B, W, 1, 1)."""

    def call(model: Any, *values: Tensor) -> Tensor:
        pooled: Tensor = model(**dict(zip(names, values, strict=True))).pooler_output
        return pooled.flatten(1)

    return call


def _tokens(*names: str) -> Call:
    """(B, N, W); (B, W, H, W') of convolutional towers is read row by row."""

    def call(model: Any, *values: Tensor) -> Tensor:
        hidden: Tensor = model(**dict(zip(names, values, strict=True))).last_hidden_state
        return hidden.flatten(2).transpose(1, 2) if hidden.dim() == 4 else hidden

    return call


def _first(tokens: Call) -> Call:
    return lambda model, *values: tokens(model, *values)[:, 0]


def _mean(tokens: Call) -> Call:
    return lambda model, *values: tokens(model, *values).mean(1)


def _masked_mean(tokens: Call) -> Call:
    def call(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
        weights = mask[:, :, None].float()
        return (tokens(model, ids, mask) * weights).sum(1) / weights.sum(1).clamp(min=1e-9)

    return call


def _without_padding(tokens: Call) -> Call:
    """Tokens of padding are zero, by which a fusion knows them."""
    return lambda model, ids, mask: tokens(model, ids, mask) * mask[:, :, None].float()


def _whisper(model: Any, log_mel: Tensor) -> Tensor:
    hidden: Tensor = model.encoder(log_mel).last_hidden_state
    return hidden


def _clap_audio(model: Any, log_mel: Tensor) -> Tensor:
    # The towers with fusion read all four views only of sounds longer than they take, and the frontend cuts those
    return unit(model.get_audio_features(input_features=log_mel[:, :1]))


def _first_projected(tower: str, projection: str, *names: str) -> Call:
    """Return the first token, projected, of models without a call of their own for it, or with a faulty one."""
    tokens = _tokens(*names)
    return lambda model, *values: unit(getattr(model, projection)(tokens(getattr(model, tower), *values)[:, 0]))


def _vilt(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """ViLT on images of one size. Its own way there takes patches in random order, for images of many sizes."""
    made = model.vilt.embeddings
    x = made.patch_embeddings(pixels)  # (B, W, rows, columns)
    batch, width, rows, columns = x.shape
    side = model.config.image_size // model.config.patch_size
    places = made.position_embeddings[:, 1:].transpose(1, 2).reshape(1, width, side, side)
    if (rows, columns) != (side, side):
        places = F.interpolate(places, size=(rows, columns), mode="bilinear", align_corners=True)
    x = (x + places).flatten(2).transpose(1, 2)  # (B, N, W)
    first = (made.cls_token + made.position_embeddings[:, :1]).expand(batch, -1, -1)
    x = torch.cat((first, x), dim=1)
    seen = torch.ones(x.shape[:2], dtype=torch.int64, device=x.device)
    logits: Tensor = model(input_ids=ids, attention_mask=mask, image_embeds=x, pixel_mask=seen).logits
    return logits


def _vilt_matching(model: Any, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, 2): 0, and the score that ranks texts of an image; their softmax says "match" by the score's sigmoid."""
    return F.pad(_vilt(model, pixels, ids, mask), (1, 0))


def _blip_matching(model: Any, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, 2): no match, match. Every token of the image, (B, N, W), is there to be looked at."""
    seen = torch.ones((1, tokens.shape[1]), device=tokens.device)  # of one size, so that it is folded in a graph
    read = model.text_encoder(ids, mask, encoder_hidden_states=tokens, encoder_attention_mask=seen)
    logits: Tensor = model.itm_head(read.last_hidden_state[:, 0])
    return logits


@contextlib.contextmanager
def _masked_crossing(module: nn.Module) -> Iterator[None]:
    """Let BLIP's cross-attention see the mask that it is given: transformers 4.57 drops it, and attends to padding."""

    def passed_on(layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:  # noqa: ARG001
        mask = kwargs.get("encoder_attention_mask")
        return args, {**kwargs, "encoder_attention_mask": kwargs["attention_mask"] if mask is None else mask}

    crossing = [m.self for name, m in module.named_modules() if name.endswith("crossattention")]
    hooks = [layer.register_forward_pre_hook(passed_on, with_kwargs=True) for layer in crossing]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blip_answers(model: Any, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, K): log-probability of each of the K answers in the config, written word by word.

    Source: Li et al. 2022, "BLIP", where the decoder ranks a list of answers.
    """
    seen = torch.ones((1, tokens.shape[1]), device=tokens.device)
    read = model.text_encoder(ids, mask, encoder_hidden_states=tokens, encoder_attention_mask=seen).last_hidden_state
    answers = torch.tensor(model.config.answers, device=tokens.device)  # (K, 1 + T), padded
    count = len(answers)

    def of_all(value: Tensor) -> Tensor:
        """(B, ...) to (B * K, ...): each once for every answer."""
        return value[:, None].expand(-1, count, *value.shape[1:]).flatten(0, 1)

    said = answers.expand(ids.shape[0], -1, -1).flatten(0, 1)
    written = said[:, 1:] != model.config.text_config.pad_token_id
    with _masked_crossing(model.text_decoder):
        words = model.text_decoder(
            said[:, :-1], written.long(), encoder_hidden_states=of_all(read), encoder_attention_mask=of_all(mask),
            use_cache=False,
        ).logits.log_softmax(2)  # fmt: skip
    each = words.gather(2, said[:, 1:, None]).squeeze(2)
    logits: Tensor = (each * written).sum(1).reshape(-1, count)
    return logits


# --- the table -------------------------------------------------------------------------------------------------------

_PARTS_OF = {
    # modality -> attributes of the dual encoders that only its tower reads
    "image": ("vision_model", "visual_projection", "vision_proj"),
    "text": ("text_model", "text_projection", "text_encoder", "text_proj"),
    "audio": ("audio_model", "audio_projection"),
}
_ALWAYS_OUT = (
    "logit_scale", "logit_bias", "logit_scale_a", "logit_scale_t", "itm_head", "pooler", "masked_spec_embed",
)  # fmt: skip


def _tower_of(model: str, modality: str, call: Call, *, mask: bool = True) -> Architecture:
    others = tuple(name for other, names in _PARTS_OF.items() if other != modality for name in names)
    return Architecture(model, {"embedding": call}, (modality,), others + _ALWAYS_OUT, mask)


_WORDS = ("input_ids", "attention_mask")
_TEXT_FEATURES = _embedding("get_text_features", *_WORDS)
_IMAGE_FEATURES = _embedding("get_image_features", "pixel_values")

DUAL_ENCODERS: Mapping[str, Mapping[str, Architecture]] = {
    # model_type -> modality -> tower
    **{
        kind: {
            "image": _tower_of(model, "image", _IMAGE_FEATURES),
            "text": _tower_of(model, "text", _TEXT_FEATURES),
        }
        for kind, model in (
            ("clip", "CLIPModel"),
            ("altclip", "AltCLIPModel"),
            ("vision-text-dual-encoder", "VisionTextDualEncoderModel"),
        )
    },
    "chinese_clip": {  # transformers 4.57 looks for a pooler that its text tower hasn't
        "image": _tower_of("ChineseCLIPModel", "image", _IMAGE_FEATURES),
        "text": _tower_of("ChineseCLIPModel", "text", _first_projected("text_model", "text_projection", *_WORDS)),
    },
    # SigLIP was trained on texts padded to their full length, without a mask
    "siglip": {
        "image": _tower_of("SiglipModel", "image", _IMAGE_FEATURES),
        "text": _tower_of("SiglipModel", "text", _embedding("get_text_features", "input_ids"), mask=False),
    },
    "clap": {
        "audio": _tower_of("ClapModel", "audio", _clap_audio),
        "text": _tower_of("ClapModel", "text", _TEXT_FEATURES),
    },
    "blip": {
        "image": _tower_of(
            "BlipForImageTextRetrieval", "image", _first_projected("vision_model", "vision_proj", "pixel_values")
        ),
        "text": _tower_of("BlipForImageTextRetrieval", "text", _first_projected("text_encoder", "text_proj", *_WORDS)),
    },
}


def _joint(model: str, call: Call, *, drop: tuple[str, ...] = ()) -> Architecture:
    return Architecture(model, {"logits": call}, ("image", "text"), drop)


def _blip_tokens(model: str) -> Architecture:
    drop = ("vision_proj", "text_decoder", *_PARTS_OF["text"], *_ALWAYS_OUT)
    return Architecture(
        model, {"tokens": lambda model, pixels: model.vision_model(pixels).last_hidden_state}, ("image",), drop
    )


CLASSIFIERS: Mapping[str, Mapping[str, Architecture]] = {
    # kind of model -> what looks at image and text together, and before it, of those that read an image's tokens, those
    "vilt": {"logits": _joint("ViltForQuestionAnswering", _vilt)},
    "vilt-matching": {"logits": _joint("ViltForImageAndTextRetrieval", _vilt_matching)},
    "blip-matching": {
        "tokens": _blip_tokens("BlipForImageTextRetrieval"),
        "logits": _joint("BlipForImageTextRetrieval", _blip_matching, drop=(*_PARTS_OF["image"], "text_proj")),
    },
    "blip-answers": {
        "tokens": _blip_tokens("BlipForQuestionAnswering"),
        "logits": _joint("BlipForQuestionAnswering", _blip_answers, drop=_PARTS_OF["image"]),
    },
}
MATCHING: tuple[str, ...] = ("no match", "match")
"""What the two logits of a matching model say, in their order."""


def kind_of(config: Mapping[str, Any], *, family: str | None) -> str:
    """Which line of the tables a checkpoint's config means: its model_type, or which of that type's heads it has.

    Args:
        family: what is wanted of a BLIP for retrieval, which embeds and, as a ``"fusion-classifier"``, matches.
    """
    kind, architectures = str(config.get("model_type")), config.get("architectures") or ()
    if "ViltForImageAndTextRetrieval" in architectures:
        return "vilt-matching"
    if "BlipForQuestionAnswering" in architectures:
        return "blip-answers"
    return "blip-matching" if kind == "blip" and family == "fusion-classifier" else kind


def _image(model: str, *, pooler: bool = True, without_pooler: str | None = None) -> Architecture:
    tokens = _tokens("pixel_values")
    outputs = {"pooled": _pooler("pixel_values") if pooler else _first(tokens), "tokens": tokens}
    drop = () if pooler else ("pooler",)
    return Architecture(model, outputs, ("image",), drop, without_pooler=without_pooler)


def _text(model: str) -> Architecture:
    tokens = _tokens(*_WORDS)
    outputs = {"pooled": _masked_mean(tokens), "tokens": _without_padding(tokens)}
    return Architecture(model, outputs, ("text",), ("pooler",))


def _audio(model: str, tokens: Call, *, pooled: Call | None = None, drop: tuple[str, ...] = ()) -> Architecture:
    return Architecture(model, {"pooled": pooled or _mean(tokens), "tokens": tokens}, ("audio",), drop)


ENCODERS: Mapping[str, Architecture] = {
    # model_type -> encoder
    "vit": _image("ViTModel", without_pooler="vit-first"),  # checkpoints of classifiers have no pooler
    "resnet": _image("ResNetModel"),
    "mobilenet_v2": _image("MobileNetV2Model"),
    "mobilevit": _image("MobileViTModel"),
    "convnext": _image("ConvNextModel"),
    "convnextv2": _image("ConvNextV2Model"),
    "efficientnet": _image("EfficientNetModel"),
    "bert": _text("BertModel"),
    "roberta": _text("RobertaModel"),
    "xlm-roberta": _text("XLMRobertaModel"),
    "distilbert": _text("DistilBertModel"),
    "mpnet": _text("MPNetModel"),
    "albert": _text("AlbertModel"),
    "audio-spectrogram-transformer": _audio("ASTModel", _tokens("input_values"), pooled=_pooler("input_values")),
    "wav2vec2": _audio("Wav2Vec2Model", _tokens("input_values"), drop=("masked_spec_embed",)),
    "hubert": _audio("HubertModel", _tokens("input_values"), drop=("masked_spec_embed",)),
    "whisper": _audio("WhisperModel", _whisper, drop=("decoder",)),
}

ARCHITECTURES: Mapping[str, Architecture] = {
    # what a part of kind "hf" may say it is
    **{
        f"{kind}-{name}": part
        for table in (DUAL_ENCODERS, CLASSIFIERS)
        for kind, parts in table.items()
        for name, part in parts.items()
    },
    **ENCODERS,
    "vit-first": _image("ViTModel", pooler=False),
}

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet", "clap_text_model", "altclip_text_model")
"""Model types whose first token stands at position ``pad_token_id + 1``, so they take that many tokens fewer."""
