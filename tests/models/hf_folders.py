"""Hugging Face folders: real architectures, small and with random weights, saved as their owners would."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.models.tiny_tokenizer import save_tokenizer

VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 18, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1,
}  # fmt: skip
# bilinear (2): the exporter takes five times as long over the sizes of CLIP's own bicubic crop
CROP = {"resample": 2, "size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
SPEECH = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64, "conv_dim": (16, 16),
    "conv_kernel": (10, 8), "conv_stride": (40, 8), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 8,
}  # fmt: skip
HTSAT = {
    "spec_size": 64, "num_mel_bins": 16, "hidden_size": 32, "patch_embeds_hidden_size": 16, "depths": [2, 1],
    "num_attention_heads": [2, 4], "num_hidden_layers": 2, "window_size": 4, "projection_dim": 24,
}  # fmt: skip


def saved(folder: Path, model: Any, processor: Any = None) -> Any:
    """What an owner would upload; returns the model as it will be compared."""
    torch.manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        with torch.no_grad():
            if name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.dtype == torch.float32 and value.dim() < 2 and "position" not in name:
                value.add_(0.1 * torch.randn_like(value))  # fresh biases are zero, and would hide a lost one
    model.eval().save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def clip(folder: Path) -> Any:
    model = transformers.CLIPModel(transformers.CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24))
    return saved(folder, model, transformers.CLIPImageProcessor(**CROP))


def altclip(folder: Path) -> Any:
    text = {**TEXT, "project_dim": 24, "type_vocab_size": 1}
    model = transformers.AltCLIPModel(
        transformers.AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=24)
    )
    return saved(folder, model, transformers.CLIPImageProcessor(**CROP))


def chinese_clip(folder: Path) -> Any:
    model = transformers.ChineseCLIPModel(
        transformers.ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)
    )
    return saved(folder, model, transformers.ChineseCLIPImageProcessor(**{**CROP, "size": {"height": 40, "width": 40}}))


def siglip(folder: Path) -> Any:
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))
    return saved(folder, model, transformers.SiglipImageProcessor(**SQUARE))


def vision_text(folder: Path) -> Any:
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**VISION), transformers.BertConfig(**TEXT), projection_dim=24
    )
    model = transformers.VisionTextDualEncoderModel(config)
    return saved(folder, model, transformers.ViTImageProcessor(**SQUARE))


def blip(folder: Path, **more: Any) -> Any:
    seen = {"initializer_range": 0.2}  # of BLIP's own, 1e-10, all images are one
    text = {**TEXT, **seen, "encoder_hidden_size": 32, "sep_token_id": 3, **more}
    config = transformers.BlipConfig(text_config=text, vision_config={**VISION, **seen}, image_text_hidden_size=24)
    torch.manual_seed(0)
    return saved(folder, transformers.BlipForImageTextRetrieval(config), transformers.BlipImageProcessor(**SQUARE))


def blip_for_questions(folder: Path) -> Any:
    seen = {"initializer_range": 0.2}
    text = {**TEXT, **seen, "encoder_hidden_size": 32, "sep_token_id": 3}
    config = transformers.BlipConfig(text_config=text, vision_config={**VISION, **seen})
    return saved(folder, transformers.BlipForQuestionAnswering(config), transformers.BlipImageProcessor(**SQUARE))


def clap(folder: Path, fusion: bool) -> Any:
    config = transformers.ClapConfig(
        text_config={**TEXT, "projection_dim": 24}, audio_config={**HTSAT, "enable_fusion": fusion,
        "fusion_num_hidden_layers": 1, "aff_block_r": 4}, projection_dim=24,
    )  # fmt: skip
    extractor = transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=100, max_length_s=2, fft_window_size=256, frequency_min=50,
        frequency_max=4000, truncation="fusion" if fusion else "rand_trunc", padding="repeatpad",
    )  # fmt: skip
    return saved(folder, transformers.ClapModel(config), extractor)


def vilt(folder: Path, *, labels: Sequence[str] = ("no", "yes", "two")) -> Any:
    config = transformers.ViltConfig(
        **{**TEXT, **VISION, "max_position_embeddings": 12}, id2label=dict(enumerate(labels)), type_vocab_size=2
    )
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    return saved(folder, transformers.ViltForQuestionAnswering(config), processor)


def vilt_for_matching(folder: Path) -> Any:
    config = transformers.ViltConfig(**{**TEXT, **VISION, "max_position_embeddings": 12}, type_vocab_size=2)
    processor = transformers.ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8)
    return saved(folder, transformers.ViltForImageAndTextRetrieval(config), processor)


def image_encoder(model: str, config: Any, processor: Any) -> Callable[[Path], Any]:
    return lambda folder: saved(folder, getattr(transformers, model)(config()), processor())


IMAGES: Mapping[str, Callable[[Path], Any]] = {
    "vit": image_encoder(
        "ViTModel", lambda: transformers.ViTConfig(**VISION), lambda: transformers.ViTImageProcessor(**SQUARE)
    ),
    "resnet": image_encoder(
        "ResNetModel",
        lambda: transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[1, 1]),
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "mobilenet_v2": image_encoder(
        "MobileNetV2Model",
        lambda: transformers.MobileNetV2Config(depth_multiplier=0.25, image_size=32),
        lambda: transformers.MobileNetV2ImageProcessor(**CROP),
    ),
    "mobilevit": image_encoder(
        "MobileViTModel",
        lambda: transformers.MobileViTConfig(
            image_size=32, hidden_sizes=[16, 16, 16], neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32], num_hidden_layers=1
        ),
        lambda: transformers.MobileViTImageProcessor(**CROP),
    ),
    "convnext": image_encoder(
        "ConvNextModel",
        lambda: transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32),
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "convnextv2": image_encoder(
        "ConvNextV2Model",
        lambda: transformers.ConvNextV2Config(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32),
        lambda: transformers.ConvNextImageProcessor(size={"shortest_edge": 32}),
    ),
    "efficientnet": image_encoder(
        "EfficientNetModel",
        lambda: transformers.EfficientNetConfig(
            image_size=32, width_coefficient=0.25, depth_coefficient=0.1, hidden_dim=320
        ),
        lambda: transformers.EfficientNetImageProcessor(**SQUARE),
    ),
}


TEXT_ENCODERS: Mapping[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertModel(transformers.BertConfig(**TEXT)),
    "roberta": lambda: transformers.RobertaModel(transformers.RobertaConfig(**TEXT)),
    "xlm-roberta": lambda: transformers.XLMRobertaModel(transformers.XLMRobertaConfig(**TEXT)),
    "mpnet": lambda: transformers.MPNetModel(transformers.MPNetConfig(**TEXT)),
    "albert": lambda: transformers.AlbertModel(transformers.AlbertConfig(**TEXT, embedding_size=16)),
    "distilbert": lambda: transformers.DistilBertModel(
        transformers.DistilBertConfig(
            vocab_size=16, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=18, pad_token_id=1
        )
    ),
}


def ast(folder: Path) -> Any:
    config = transformers.ASTConfig(
        **{k: v for k, v in VISION.items() if k != "image_size"}, max_length=64, num_mel_bins=32
    )
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=64)
    return saved(folder, transformers.ASTModel(config), extractor)


def wav2vec2(folder: Path) -> Any:
    extractor = transformers.Wav2Vec2FeatureExtractor()
    return saved(folder, transformers.Wav2Vec2Model(transformers.Wav2Vec2Config(**SPEECH)), extractor)


def hubert(folder: Path) -> Any:
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    return saved(folder, transformers.HubertModel(transformers.HubertConfig(**SPEECH)), extractor)


def whisper(folder: Path) -> Any:
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4,
        encoder_ffn_dim=64, decoder_ffn_dim=64, num_mel_bins=16, max_source_positions=50, vocab_size=8,
        pad_token_id=1, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, max_target_positions=8,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return saved(folder, transformers.WhisperModel(config), extractor)
