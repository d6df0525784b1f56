"""What edgemm takes of each Hugging Face architecture: its class, what of it a tower leaves out, and how one is called.

Only names and calls stand here; transformers itself is imported by ``edgemm.models.huggingface``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """

    def __init__(self, inner: nn.Module, architecture: Architecture, output: str) -> None:
        super().__init__()
        for name in architecture.drop:
            if hasattr(inner, name):
                setattr(inner, name, None)
        self.inner, self.call = inner, architecture.outputs[output]

    def forward(self, *values: Tensor) -> Tensor:
        """The tower's inputs, (B, ...), to (B, D), or (B, N, D) where the output is ``tokens``."""
        return self.call(self.inner, *values)


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


def _whisper(model: Any, log_mel: Tensor) -> Tensor:
    hidden: Tensor = model.encoder(log_mel).last_hidden_state
    return hidden


def _clap_audio(model: Any, log_mel: Tensor) -> Tensor:
    # The towers with fusion read all four views only of sounds longer than they take, and the frontend cuts those
    return unit(model.get_audio_features(input_features=log_mel[:, :1]))


def _first_projected(tower: str, projection: str, *names: str) -> Call:
    """The first token, projected, of models without a call of their own for it, or with a faulty one."""
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


def _blip_matching(model: Any, tokens: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """(B, 2): no match, match. Every token of the image, (B, N, W), is there to be looked at."""
    seen = torch.ones((1, tokens.shape[1]), device=tokens.device)  # of one size, so that it is folded in a graph
    read = model.text_encoder(ids, mask, encoder_hidden_states=tokens, encoder_attention_mask=seen)
    logits: Tensor = model.itm_head(read.last_hidden_state[:, 0])
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

CLASSIFIERS: Mapping[str, Architecture] = {
    "vilt": Architecture("ViltForQuestionAnswering", {"logits": _vilt}, ("image", "text")),
}


MATCHERS: Mapping[str, Mapping[str, Architecture]] = {
    # model_type of a dual encoder -> what its second head is made of: an image's tokens, and the text that looks at it
    "blip": {
        "tokens": Architecture(
            "BlipForImageTextRetrieval",
            {"tokens": lambda model, pixels: model.vision_model(pixels).last_hidden_state},
            ("image",),
            ("vision_proj", *_PARTS_OF["text"], *_ALWAYS_OUT),
        ),
        "matching": Architecture(
            "BlipForImageTextRetrieval",
            {"logits": _blip_matching},
            ("image", "text"),
            (*_PARTS_OF["image"], "text_proj"),
        ),
    },
}
MATCHING: tuple[str, ...] = ("no match", "match")
"""What a matcher's two logits say, in their order."""


def _image(model: str, *, pooler: bool = True, without_pooler: str | None = None) -> Architecture:
    tokens = _tokens("pixel_values")
    outputs = {"pooled": _pooler("pixel_values") if pooler else _first(tokens), "tokens": tokens}
    drop = () if pooler else ("pooler",)
    return Architecture(model, outputs, ("image",), drop, without_pooler=without_pooler)


def _text(model: str) -> Architecture:
    tokens = _tokens(*_WORDS)
    return Architecture(model, {"pooled": _masked_mean(tokens), "tokens": tokens}, ("text",), ("pooler",))


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
        for table in (DUAL_ENCODERS, MATCHERS)
        for kind, parts in table.items()
        for name, part in parts.items()
    },
    **CLASSIFIERS,
    **ENCODERS,
    "vit-first": _image("ViTModel", pooler=False),
}

POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "mpnet", "clap_text_model", "altclip_text_model")
"""Model types whose first token stands at position ``pad_token_id + 1``, so they take that many tokens fewer."""
