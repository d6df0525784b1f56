"""Hugging Face models: real architectures, small and with random weights, saved as their owners would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from edgemm.graph.bundle import quantize_bundle
from edgemm.graph.capture import capture_model
from edgemm.models.huggingface import Encoder, encoder_from_hub, hf_tower, model_from_hub
from edgemm.models.model import Model
from edgemm.models.outside import teacher_from_source
from edgemm.models.store import load_model, save_model
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.runtime import Bundle
from edgemm.runtime.errors import ModelError
from edgemm.runtime.manifest import TargetEntry
from edgemm.runtime.outputs import Classes, Embedding, recognised
from edgemm.stage import Context
from tests.models.hf_folders import (
    IMAGES,
    SQUARE,
    TEXT,
    TEXT_ENCODERS,
    VISION,
    altclip,
    ast,
    blip,
    blip_for_questions,
    chinese_clip,
    clap,
    clip,
    hubert,
    saved,
    vilt,
    vilt_for_matching,
    vision_text,
    wav2vec2,
    whisper,
)
from tests.models.tiny_tokenizer import encode

TEXTS = ["a cat", "cat", "a cat a cat"]


def pictures() -> np.ndarray:
    """(2, 40, 60, 3): smooth, as photographs are."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)) for _ in range(2)]
    return np.stack([np.asarray(image.resize((60, 40), Image.Resampling.BICUBIC)) for image in small])


def sound(rate: int, seconds: float = 0.4) -> np.ndarray:
    """(1, samples) float32: two tones and noise."""
    t = np.arange(int(rate * seconds)) / rate
    noise = np.random.default_rng(0).normal(size=t.size)
    return (0.4 * np.sin(2700 * t) + 0.2 * np.sin(9000 * t * t) + 0.02 * noise).astype(np.float32)[None]


def ids_of(tokenizer_json: str | None) -> dict[str, torch.Tensor]:
    assert tokenizer_json is not None
    ids, mask = encode(tokenizer_from_json(tokenizer_json), TEXTS)
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def as_model(encoder: Encoder) -> Model:
    parts = [part for part in (encoder.frontend, encoder.tower) if part is not None]
    model = Model(
        "encoder", parts, inputs={str(encoder.tower.modality): encoder.raw},
        outputs=recognised(encoder.tower.signature.outputs),
    )  # fmt: skip
    model.tokenizer_json = encoder.tokenizer_json
    return model.eval()


def run(model: Model, given: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return model({name: torch.as_tensor(value) for name, value in given.items()})


def check_round_trip(model: Model, given: Mapping[str, Any], folder: Path) -> None:
    """Saved and loaded, it computes the same bit for bit."""
    save_model(model, folder)
    loaded = load_model(folder)
    assert loaded.chain == model.chain
    before, after = run(model, given), run(loaded, given)
    assert all(torch.equal(before[name], after[name]) for name in model.outputs)


def check_the_corridor(model: Model, given: Mapping[str, Any], raw: Mapping[str, Any], folder: Path) -> None:
    """Captured it is the same, and in int8 near it, from raw inputs through the runtime.

    Args:
        given: raw values, batch first.
        raw: the first of them as ``predict`` takes it.
    """
    context = Context(scratch=folder / "scratch")
    capture_model(model, [given], folder / "float32", name="small", context=context)
    quantize_bundle(
        folder / "float32", [{n: np.asarray(v) for n, v in given.items()}], folder / "int8",
        targets=[TargetEntry("cpu-int8", "onnxruntime", "int8", {})], context=context,
    )  # fmt: skip
    expected = run(model, given)
    for name, cosine in (("float32", 0.99999), ("int8", 0.98)):
        got = Bundle.open(folder / name).predict(**raw).outputs
        for output in model.outputs:
            want, have = expected[output][:1].numpy().ravel(), np.asarray(got[output]).ravel()
            near = want @ have / np.linalg.norm(want) / np.linalg.norm(have)
            assert near > cosine, (name, output, near)


# --- dual encoders and classifiers -----------------------------------------------------------------------------------


def blip_similarity(whole: Any, **given: torch.Tensor) -> torch.Tensor:
    return whole(**given, use_itm_head=False).itm_score


def clip_similarity(whole: Any, **given: torch.Tensor) -> torch.Tensor:
    return whole(**given).logits_per_image / whole.logit_scale.exp()


@pytest.mark.parametrize(
    ("make", "similarity"),
    [
        (clip, clip_similarity),
        (altclip, clip_similarity),
        (chinese_clip, clip_similarity),
        (vision_text, clip_similarity),
        (blip, blip_similarity),
    ],
)
def test_a_dual_encoders_cosines_are_those_of_transformers(
    make: Callable[[Path], Any], similarity: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    whole = make(tmp_path)
    model = model_from_hub(str(tmp_path))
    assert model.family == "dual-encoder"
    given = {"image": pictures(), **ids_of(model.tokenizer_json)}
    made = run(model, {"image": given["image"]}) | run(model, ids_of(model.tokenizer_json))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    pixels = processor(list(pictures()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = similarity(whole, pixel_values=made["pixels"], **ids_of(model.tokenizer_json))
        theirs = similarity(whole, pixel_values=pixels, **ids_of(model.tokenizer_json))
    cosines = made["image_embedding"] @ made["text_embedding"].T
    torch.testing.assert_close(cosines, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(cosines, theirs, atol=0.01, rtol=0)  # Pillow rounds to 1/255
    assert made["image_embedding"].shape == (2, 24)
    check_round_trip(
        model,
        {"image": pictures()[:1], **{n: v[:1] for n, v in ids_of(model.tokenizer_json).items()}},
        tmp_path / "ours",
    )


@pytest.mark.parametrize("fusion", [False, True])
def test_clap_hears_and_reads_as_transformers_does(fusion: bool, tmp_path: Path) -> None:
    whole = clap(tmp_path, fusion)
    model = model_from_hub(str(tmp_path))
    assert model.outputs == {"audio_embedding": Embedding(), "text_embedding": Embedding()}
    wave, words = sound(8000), ids_of(model.tokenizer_json)
    made = run(model, {"waveform": wave}) | run(model, words)
    extractor = transformers.ClapFeatureExtractor.from_pretrained(tmp_path)
    heard = extractor([wave[0]], sampling_rate=8000, return_tensors="pt")
    with torch.no_grad():
        expected = whole(input_features=heard["input_features"], is_longer=torch.zeros(1, 1, dtype=torch.bool), **words)
    torch.testing.assert_close(made["audio_embedding"], expected.audio_embeds, atol=1e-4, rtol=0)
    torch.testing.assert_close(made["text_embedding"], expected.text_embeds, atol=1e-5, rtol=0)
    check_round_trip(model, {"waveform": wave, **{n: v[:1] for n, v in words.items()}}, tmp_path / "ours")


@pytest.mark.slow
def test_vilt_answers_as_transformers_does(tmp_path: Path) -> None:
    whole = vilt(tmp_path)
    model = model_from_hub(str(tmp_path))
    assert (model.family, model.outputs) == ("fusion-classifier", {"logits": Classes(("no", "yes", "two"))})
    words = ids_of(model.tokenizer_json)
    square = np.stack([pictures()[0, :32, :32], pictures()[1, :32, :32], pictures()[0, 8:, 20:52]])
    made = run(model, {"image": square, **words})
    seen = transformers.ViltImageProcessor.from_pretrained(tmp_path)(list(square), return_tensors="pt")
    with torch.no_grad():
        expected = whole(pixel_values=seen["pixel_values"], pixel_mask=seen["pixel_mask"], **words).logits
    torch.testing.assert_close(made["logits"], expected, atol=1e-4, rtol=1e-4)
    check_round_trip(model, {"image": square, **words}, tmp_path / "ours")
    words = {n: v[:1] for n, v in words.items()}
    check_the_corridor(model, {"image": square[:1], **words}, {"image": square[0], "text": TEXTS[0]}, tmp_path / "out")


def matched(whole: Any, pixels: torch.Tensor, words: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What transformers says of every picture with the text of its place: (B, 2)."""
    with torch.no_grad():
        score: torch.Tensor = whole(pixel_values=pixels, **words, use_itm_head=True).itm_score
    return score


def test_blip_matches_as_transformers_does(tmp_path: Path) -> None:
    whole = blip(tmp_path)
    model = model_from_hub(str(tmp_path), family="fusion-classifier")
    assert (model.family, model.outputs) == ("fusion-classifier", {"logits": Classes(("no match", "match"))})
    assert [(part.name, part.role) for part in model.chain] == [
        ("image_frontend", "frontend"), ("image", "tower"), ("fusion", "fusion"),
    ]  # fmt: skip
    assert model.part("image").signature.outputs[0].shape == ("batch", 17, 32)
    words = ids_of(model.tokenizer_json)
    images = np.concatenate([pictures(), pictures()[:1, ::-1]])
    made = run(model, {"image": images, **words})
    expected = matched(whole, made["pixels"], words)
    torch.testing.assert_close(made["logits"], expected, atol=1e-5, rtol=1e-5)
    other = matched(whole, made["pixels"].flip(0), words)  # the same texts with other images
    assert (expected - other)[::2].abs().min() > 1e-4  # each more than what they may be off
    theirs = transformers.BlipImageProcessor.from_pretrained(tmp_path)(list(images), return_tensors="pt")
    torch.testing.assert_close(
        made["logits"],
        matched(whole, theirs["pixel_values"], words),
        atol=0.01,
        rtol=0,  # Pillow rounds to 1/255
    )
    check_round_trip(model, {"image": images, **words}, tmp_path / "ours")


@pytest.mark.slow
def test_a_blip_that_matches_goes_all_the_way(tmp_path: Path) -> None:
    whole = blip(tmp_path)
    model = model_from_hub(str(tmp_path), family="fusion-classifier")
    words, image = {n: v[:1, :4] for n, v in ids_of(model.tokenizer_json).items()}, pictures()[:1]
    raw = {"image": pictures()[0], "text": TEXTS[0]}
    check_the_corridor(model, {"image": image, **words}, raw, tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out" / "float32")
    assert [part.name for part in bundle.parts] == ["image_frontend", "image", "fusion"]
    pixels = run(model, {"image": pictures()[:1]})["pixels"].repeat(3, 1, 1, 1)
    got = bundle.predict(image=[pictures()[0]] * 3, text=TEXTS)
    expected = matched(whole, pixels, ids_of(model.tokenizer_json))
    np.testing.assert_allclose(got.outputs["logits"], expected, atol=1e-4)
    assert got.matches is not None
    for matches, row in zip(got.matches, expected.softmax(1), strict=True):
        assert dict(matches) == pytest.approx(dict(zip(("no match", "match"), row.tolist(), strict=True)), abs=1e-4)


def test_each_side_of_a_blip_has_the_weights_that_it_reads(tmp_path: Path) -> None:
    blip(tmp_path)
    apart, joint = (model_from_hub(str(tmp_path), family=family) for family in (None, "fusion-classifier"))
    names = {
        f"{model.family} {part.name}": {name.split(".")[1] for name in part.module.state_dict()}
        for model in (apart, joint)
        for part in model.chain[1:]
        if part.role != "frontend"
    }
    assert names == {
        "dual-encoder image": {"vision_model", "vision_proj"},
        "dual-encoder text": {"text_encoder", "text_proj"},
        "fusion-classifier image": {"vision_model"},
        "fusion-classifier fusion": {"text_encoder", "itm_head"},
    }
    assert not any("crossattention" in name for name in apart.part("text").module.state_dict())


def test_a_blip_without_cross_attention_can_not_match(tmp_path: Path) -> None:
    blip(tmp_path, is_decoder=False)
    message = r"text_config.is_decoder is false, so .* can't look at an image; expected .* family = \"dual-encoder\"$"
    with pytest.raises(ModelError, match=message):
        model_from_hub(str(tmp_path), family="fusion-classifier")


def test_a_blip_that_writes_captions_is_told_apart(tmp_path: Path) -> None:
    blip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["architectures"] = ["BlipForConditionalGeneration"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"BlipForConditionalGeneration writes captions; expected"):
        model_from_hub(str(tmp_path))


ANSWERS = ("a cat", "cat", "cat a cat")


@pytest.mark.slow
def test_blip_ranks_a_list_of_answers_by_what_transformers_makes_of_each(tmp_path: Path) -> None:
    whole = blip_for_questions(tmp_path)
    model = teacher_from_source(f"hf:{tmp_path}", family="fusion-classifier", labels=ANSWERS, task="single-label")
    assert (model.family, model.outputs) == ("fusion-classifier", {"logits": Classes(ANSWERS)})
    words = ids_of(model.tokenizer_json)
    images = np.concatenate([pictures(), pictures()[:1, ::-1]])
    made = run(model, {"image": images, **words})
    tokenizer = tokenizer_from_json(model.tokenizer_json or "")
    tokenizer.no_padding()
    for row, pixels in enumerate(made["pixels"]):  # of one question at a time: transformers attends to padding
        question = words["input_ids"][row : row + 1, : int(words["attention_mask"][row].sum())]
        with torch.no_grad():
            seen = whole.vision_model(pixels[None]).last_hidden_state
            read = whole.text_encoder(question, encoder_hidden_states=seen).last_hidden_state
            for place, answer in enumerate(ANSWERS):
                said = torch.tensor([[2, *tokenizer.encode(answer, add_special_tokens=False).ids, 3]])
                loss = whole.text_decoder(said, encoder_hidden_states=read, labels=said, reduction="sum").loss
                assert float(made["logits"][row, place]) == pytest.approx(-float(loss), abs=1e-4)
    check_round_trip(model, {"image": images, **words}, tmp_path / "ours")
    words, image = {n: v[:1] for n, v in words.items()}, pictures()[:1]
    check_the_corridor(model, {"image": image, **words}, {"image": image[0], "text": TEXTS[0]}, tmp_path / "out")


def test_a_blip_for_questions_needs_a_list_of_answers(tmp_path: Path) -> None:
    blip_for_questions(tmp_path)
    with pytest.raises(ModelError, match=r"chooses from a list of them: the labels of a recipe's data; there is none"):
        teacher_from_source(f"hf:{tmp_path}")


def test_vilt_matches_by_the_sigmoid_of_its_score(tmp_path: Path) -> None:
    whole = vilt_for_matching(tmp_path)
    processor = transformers.ViltImageProcessor.from_pretrained(tmp_path)
    model = model_from_hub(str(tmp_path))
    assert (model.family, model.outputs) == ("fusion-classifier", {"logits": Classes(("no match", "match"))})
    words, square = ids_of(model.tokenizer_json), np.stack([pictures()[0, :32, :32]] * 3)
    made = run(model, {"image": square, **words})
    seen = processor(list(square), return_tensors="pt")
    with torch.no_grad():
        score = whole(pixel_values=seen["pixel_values"], pixel_mask=seen["pixel_mask"], **words).logits
    torch.testing.assert_close(made["logits"].softmax(1)[:, 1:], score.sigmoid(), atol=1e-4, rtol=1e-4)
    words = {n: v[:1] for n, v in words.items()}
    check_the_corridor(model, {"image": square[:1], **words}, {"image": square[0], "text": TEXTS[0]}, tmp_path / "out")


# --- single encoders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_encoder_sees_as_transformers_does(kind: str, tmp_path: Path) -> None:
    whole = IMAGES[kind](tmp_path)
    encoder = encoder_from_hub(str(tmp_path), modality="image", output="pooled")
    assert (encoder.tower.name, encoder.tower.signature.output_names) == ("image", ("image_features",))
    model = as_model(encoder)
    made = run(model, {"image": pictures()})
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, use_fast=False)
    theirs = processor(list(pictures()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(made["pixels"], theirs, atol=2 / 255 / 0.22, rtol=0)  # Pillow rounds to 1/255, twice
    tokens = encoder_from_hub(str(tmp_path), modality="image", output="tokens").tower
    with torch.no_grad():
        expected = whole(pixel_values=made["pixels"])
        hidden = tokens.module(made["pixels"])
    torch.testing.assert_close(made["image_features"], expected.pooler_output.flatten(1), atol=1e-5, rtol=1e-4)
    last = expected.last_hidden_state
    last = last.flatten(2).transpose(1, 2) if last.dim() == 4 else last
    torch.testing.assert_close(hidden, last, atol=1e-5, rtol=1e-4)
    assert tokens.signature.outputs[0].shape == ("batch", *last.shape[1:])
    check_round_trip(model, {"image": pictures()}, tmp_path / "ours")


def test_a_classifiers_checkpoint_without_a_pooler_gives_its_first_token(tmp_path: Path) -> None:
    config = transformers.ViTConfig(**VISION, num_labels=3)
    whole = saved(tmp_path, transformers.ViTForImageClassification(config), transformers.ViTImageProcessor(**SQUARE))
    model = as_model(encoder_from_hub(str(tmp_path), modality="image", output="pooled"))
    made = run(model, {"image": pictures()})
    with torch.no_grad():
        logits = whole.classifier(made["image_features"])
        torch.testing.assert_close(logits, whole(pixel_values=made["pixels"]).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", TEXT_ENCODERS)
def test_a_text_encoder_is_the_mean_of_what_transformers_makes(kind: str, tmp_path: Path) -> None:
    whole = saved(tmp_path, TEXT_ENCODERS[kind]())
    encoder = encoder_from_hub(str(tmp_path), modality="text", output="pooled")
    assert encoder.raw.kind == "text"
    assert encoder.raw.max_tokens == (16 if kind in ("roberta", "xlm-roberta", "mpnet") else 18)
    model = as_model(encoder)
    words = ids_of(encoder.tokenizer_json)
    made = run(model, words)
    with torch.no_grad():
        hidden = whole(**words).last_hidden_state
        tokens = encoder_from_hub(str(tmp_path), modality="text", output="tokens", max_tokens=6).tower
        mask = words["attention_mask"][:, :, None]  # tokens of padding are zero, by which a fusion knows them
        torch.testing.assert_close(tokens.module(*words.values()), hidden * mask, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made["text_features"], (hidden * mask).sum(1) / mask.sum(1), atol=1e-5, rtol=1e-4)
    assert tokens.signature.outputs[0].shape == ("batch", "tokens", 32)
    assert tokens.signature.dims["tokens"].max == 6
    check_round_trip(model, words, tmp_path / "ours")


@pytest.mark.parametrize("make", [ast, wav2vec2, hubert, whisper])
def test_an_audio_encoder_hears_as_transformers_does(make: Callable[[Path], Any], tmp_path: Path) -> None:
    whole = make(tmp_path)
    encoder = encoder_from_hub(str(tmp_path), modality="audio", output="pooled")
    model, wave = as_model(encoder), sound(16000)
    made = run(model, {"waveform": wave})
    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    heard = extractor([wave[0]], sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        result = (whole.encoder if make is whisper else whole)(next(iter(heard.values())))
    pooled = result.pooler_output if make is ast else result.last_hidden_state.mean(1)
    torch.testing.assert_close(made["audio_features"], pooled, atol=1e-4, rtol=1e-4)
    tokens = encoder_from_hub(str(tmp_path), modality="audio", output="tokens").tower
    with torch.no_grad():
        hidden = tokens.module(next(iter(heard.values())))
    torch.testing.assert_close(hidden, result.last_hidden_state, atol=1e-4, rtol=1e-4)
    check_round_trip(model, {"waveform": wave}, tmp_path / "ours")


def test_whisper_takes_shorter_sounds_with_its_first_positions(tmp_path: Path) -> None:
    whole = whisper(tmp_path)
    encoder = encoder_from_hub(str(tmp_path), modality="audio", output="tokens", longest_s=0.5)
    made = run(as_model(encoder), {"waveform": sound(16000)})
    assert made["log_mel"].shape == (1, 16, 50)
    with torch.no_grad():
        whole.encoder.config.max_source_positions = 25  # transformers checks its input's length against it
        whole.encoder.embed_positions = torch.nn.Embedding.from_pretrained(whole.encoder.embed_positions.weight[:25])
        expected = whole.encoder(made["log_mel"]).last_hidden_state
    torch.testing.assert_close(made["audio_features"], expected, atol=1e-5, rtol=1e-4)
    check_round_trip(as_model(encoder), {"waveform": sound(16000)}, tmp_path / "ours")


# --- through the corridor --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "mobilenet_v2", "mobilevit", "convnextv2", "efficientnet"])
def test_an_image_encoder_goes_all_the_way(kind: str, tmp_path: Path) -> None:
    IMAGES[kind](tmp_path)
    model = as_model(encoder_from_hub(str(tmp_path), modality="image", output="pooled"))
    check_the_corridor(model, {"image": pictures()[:1]}, {"image": pictures()[0]}, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["roberta", "distilbert", "mpnet"])
def test_a_text_encoder_goes_all_the_way(kind: str, tmp_path: Path) -> None:
    saved(tmp_path, TEXT_ENCODERS[kind]())
    model = as_model(encoder_from_hub(str(tmp_path), modality="text", output="tokens"))
    words = {n: v[:1, :4] for n, v in ids_of(model.tokenizer_json).items()}
    check_the_corridor(model, words, {"text": TEXTS[0]}, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("make", [ast, wav2vec2, whisper])
def test_an_audio_encoder_goes_all_the_way(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path)
    model = as_model(encoder_from_hub(str(tmp_path), modality="audio", output="tokens", **LONGEST.get(make, {})))
    wave = sound(16000)
    check_the_corridor(model, {"waveform": wave}, {"audio": wave[0]}, tmp_path / "out")


LONGEST: Mapping[Any, dict[str, float]] = {wav2vec2: {"longest_s": 0.5}}


@pytest.mark.slow
@pytest.mark.parametrize("make", [altclip, vision_text, blip])
def test_an_image_text_dual_encoder_goes_all_the_way(make: Callable[[Path], Any], tmp_path: Path) -> None:
    make(tmp_path)
    model = model_from_hub(str(tmp_path))
    words = {n: v[:1, :4] for n, v in ids_of(model.tokenizer_json).items()}
    raw = {"image": pictures()[0], "text": TEXTS[0]}
    check_the_corridor(model, {"image": pictures()[:1], **words}, raw, tmp_path / "out")


@pytest.mark.slow
def test_a_clap_goes_all_the_way(tmp_path: Path) -> None:
    clap(tmp_path, fusion=True)
    model = model_from_hub(str(tmp_path))
    words, wave = {n: v[:1, :4] for n, v in ids_of(model.tokenizer_json).items()}, sound(8000)
    raw = {"audio": wave[0], "text": TEXTS[0]}
    check_the_corridor(model, {"waveform": wave, **words}, raw, tmp_path / "out")


# --- errors ----------------------------------------------------------------------------------------------------------


def test_what_is_not_supported_is_told_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(ModelError, match=r"model type 't5' is not supported; expected one of clip, .*vilt, .*whisper$"):
        model_from_hub(str(tmp_path))
    with pytest.raises(ModelError, match=r"'t5' as audio tower is not supported; .* wav2vec2, hubert, whisper$"):
        encoder_from_hub(str(tmp_path), modality="audio", output="pooled")
    with pytest.raises(ModelError, match=r"architecture 't5'; expected one of clip-image, "):
        hf_tower(architecture="t5", config={}, output="pooled")
    with pytest.raises(ModelError, match=r"output 'logits' of vit; expected pooled or tokens"):
        hf_tower(architecture="vit", config={}, output="logits")


def test_weights_and_lengths_that_do_not_fit_are_told(tmp_path: Path) -> None:
    saved(tmp_path / "mlm", transformers.ViltModel(transformers.ViltConfig(**TEXT, image_size=32, patch_size=8)),
          transformers.ViltImageProcessor(size={"shortest_edge": 32}))  # fmt: skip
    with pytest.raises(ModelError, match=r"'classifier\S+' is missing from the checkpoint \(\d+ such\); expected the"):
        model_from_hub(str(tmp_path / "mlm"))
    ast(tmp_path / "ast")
    with pytest.raises(ModelError, match=r"takes sounds of one length; drop longest_s"):
        encoder_from_hub(str(tmp_path / "ast"), modality="audio", output="pooled", longest_s=1)


def test_a_processor_or_a_config_of_another_model_is_told(tmp_path: Path) -> None:
    IMAGES["vit"](tmp_path)
    transformers.ViTImageProcessor(size={"height": 48, "width": 48}).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"can't run on what .* makes, pixels \['batch', 3, 48, 48\]: Input image"):
        encoder_from_hub(str(tmp_path), modality="image", output="pooled")
    with pytest.raises(ModelError, match=r"config of vit doesn't fit ViTModel: ZeroDivisionError"):
        hf_tower(architecture="vit", config={"patch_size": 0}, output="pooled")
