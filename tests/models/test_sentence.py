"""Sentence embeddings of folders as sentence-transformers writes them, held to its formulas text by text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from edgemm.graph.capture import capture_model
from edgemm.models import pretrained
from edgemm.models.builders import build_model
from edgemm.models.huggingface import encoder_from_hub, model_from_hub
from edgemm.models.inherit import build_student
from edgemm.models.owner_tokenizer import OwnerTokenizer
from edgemm.models.sentence import POOLINGS, pooled, sentence_of
from edgemm.models.store import load_model, save_model
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.models.towers import tower_of
from edgemm.recipe import StudentSection, TeacherSection, TextTower
from edgemm.runtime import Bundle
from edgemm.runtime.errors import ModelError
from edgemm.stage import Context
from tests.models.test_owner_tokenizer import WORDS, word_piece

TEXTS = ["a red cup", "a blue bowl on a table", "cups"]
NAMES = {
    "Transformer": "",
    "Pooling": "_Pooling",
    "Dense": "_Dense",
    "Normalize": "_Normalize",
    "LayerNorm": "_LayerNorm",
}


def encoder(folder: Path, **config: Any) -> Any:
    """A tiny BERT with random weights."""
    torch.manual_seed(0)
    made = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.3, **config,
    )  # fmt: skip
    model = transformers.BertModel(made, add_pooling_layer=False).eval()
    model.save_pretrained(folder)
    word_piece(folder)
    model.config.save_pretrained(folder)
    return model


def modules(folder: Path, *kinds: str) -> list[Path]:
    """Write ``modules.json``; the folders of those after the encoder."""
    places = [folder / f"{i}{NAMES[kind]}" if i else folder for i, kind in enumerate(("Transformer", *kinds))]
    listed = [
        {
            "idx": i,
            "name": str(i),
            "path": "" if i == 0 else places[i].name,
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(("Transformer", *kinds))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    for place in places[1:]:
        place.mkdir()
    return places[1:]


def write(place: Path, **config: Any) -> None:
    (place / "config.json").write_text(json.dumps(config))


def pooling(place: Path, *switches: str) -> None:
    write(place, word_embedding_dimension=16, **{f"pooling_mode_{switch}": True for switch in switches})


def hidden_of(model: Any, text: str) -> torch.Tensor:
    """(tokens, 16) of one text, without padding."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.name)
    with torch.no_grad():
        state: torch.Tensor = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=16))[0][0]
    return state


def by_hand(hidden: torch.Tensor, mode: str) -> torch.Tensor:
    """The formula of one pooling, of one text's (tokens, 16)."""
    count = len(hidden)
    places = torch.arange(1.0, count + 1)
    return {
        "cls": hidden[0],
        "max": hidden.max(0).values,
        "mean": hidden.sum(0) / count,
        "mean_sqrt_len_tokens": hidden.sum(0) / count**0.5,
        "weightedmean": (hidden * places[:, None]).sum(0) / places.sum(),
        "lasttoken": hidden[-1],
    }[mode]


SWITCHES = {
    "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}  # fmt: skip


def embedded(name: str, texts: Sequence[str]) -> torch.Tensor:
    """What the taken-in model makes of texts that are padded to the longest."""
    model = model_from_hub(name)
    tokenizer = tokenizer_from_json(model.tokenizer_json or "")
    made = tokenizer.encode_batch(list(texts))
    values = {
        "input_ids": torch.tensor([e.ids for e in made]),
        "attention_mask": torch.tensor([e.attention_mask for e in made]),
    }
    with torch.no_grad():
        return model(values)["text_features"]


@pytest.mark.parametrize("modes", [*((mode,) for mode in POOLINGS), ("cls", "mean")], ids="+".join)
def test_a_folders_pooling_is_honoured(modes: tuple[str, ...], tmp_path: Path) -> None:
    model = encoder(tmp_path)
    model.name = str(tmp_path)
    (place,) = modules(tmp_path, "Pooling")
    pooling(place, *(SWITCHES[mode] for mode in modes))
    expected = torch.stack([torch.cat([by_hand(hidden_of(model, t), mode) for mode in modes]) for t in TEXTS])
    # float32 sums in another order
    torch.testing.assert_close(embedded(str(tmp_path), TEXTS), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", [mode for mode in POOLINGS if mode != "weightedmean"])  # which counts the padding
def test_padding_on_either_side_changes_no_pooling(mode: str, side: str) -> None:
    tokens = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    gap = torch.full((1, 2, 4), 1e3)  # what a tower makes of padding is anything
    padded = torch.cat([gap, tokens] if side == "left" else [tokens, gap], dim=1)
    mask = torch.tensor([[0, 0, 1, 1, 1]] if side == "left" else [[1, 1, 1, 0, 0]])
    expected = pooled(tokens, torch.ones(1, 3), [mode])
    torch.testing.assert_close(pooled(padded, mask, [mode]), expected)
    torch.testing.assert_close(expected[0], by_hand(tokens[0], mode))


def dense(place: Path, *, outputs: int, activation: str, bias: bool = True) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = {"linear.weight": torch.randn(outputs, 16, generator=generator)}
    if bias:
        state["linear.bias"] = torch.randn(outputs, generator=generator)
    save_file(state, place / "model.safetensors")
    write(place, in_features=16, out_features=outputs, bias=bias, activation_function=activation)
    return state


def test_dense_layers_and_normalisation_go_into_the_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "owner"
    model = encoder(folder)
    model.name = str(folder)
    first, second, third, _ = modules(folder, "Pooling", "Dense", "LayerNorm", "Normalize")
    write(first, embedding_dimension=16, pooling_mode="cls", include_prompt=True)
    state = dense(second, outputs=6, activation="torch.nn.modules.activation.Tanh")
    norm = {"norm.weight": torch.linspace(0.5, 2, 6), "norm.bias": torch.linspace(-1, 1, 6)}
    save_file(norm, third / "model.safetensors")
    write(third, dimension=6)
    first_tokens = torch.stack([hidden_of(model, text)[0] for text in TEXTS])
    expected = torch.tanh(first_tokens @ state["linear.weight"].T + state["linear.bias"])
    expected = (expected - expected.mean(1, keepdim=True)) / (expected.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = expected * norm["norm.weight"] + norm["norm.bias"]
    expected = expected / expected.norm(dim=1, keepdim=True)
    taken = model_from_hub(str(folder))
    save_model(taken, tmp_path / "saved")
    sample = {"input_ids": np.array([[2, 9, 5, 3]]), "attention_mask": np.ones((1, 4), np.int64)}
    context = Context(scratch=tmp_path / "scratch")
    capture_model(load_model(tmp_path / "saved"), [sample], tmp_path / "bundle", name="text", context=context)
    got = Bundle.open(tmp_path / "bundle").predict(text=TEXTS).outputs["text_features"]
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)


def test_a_tower_of_a_recipe_pools_as_its_folder_says(tmp_path: Path) -> None:
    model = encoder(tmp_path, layer_norm_eps=1e-3)
    model.name = str(tmp_path)
    place, _ = modules(tmp_path, "Pooling", "Normalize")
    pooling(place, "cls_token")
    tower = tower_of("text", TextTower(weights=f"hf:{tmp_path}", max_tokens=8))
    assert isinstance(tower.parts[-1].module, TextTransformer)
    made = tokenizer_from_json(tower.tokenizer_json or "").encode_batch(TEXTS)
    with torch.no_grad():
        got = tower.parts[-1].module(
            torch.tensor([e.ids for e in made]), torch.tensor([e.attention_mask for e in made])
        )
    expected = torch.stack([hidden_of(model, text)[0] for text in TEXTS])  # its projection normalises
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_a_bert_with_layers_behind_its_pooling_is_taken_as_transformers_has_it(tmp_path: Path) -> None:
    encoder(tmp_path)
    first, second = modules(tmp_path, "Pooling", "Dense")
    pooling(first, "mean_tokens")
    dense(second, outputs=6, activation="torch.nn.modules.linear.Identity", bias=False)
    assert not pretrained.is_bert(f"hf:{tmp_path}")
    assert tower_of("text", TextTower(weights=f"hf:{tmp_path}", max_tokens=8)).width == 6
    with pytest.raises(
        ModelError, match=r"has a dense layer behind its pooling, which this tower hasn't; name it as hf:"
    ):
        pretrained.text_description(f"folder:{tmp_path}", max_tokens=8)


def test_the_encoder_of_an_older_folder_lies_in_its_own(tmp_path: Path) -> None:
    model = encoder(tmp_path / "0_Transformer")
    model.name = str(tmp_path / "0_Transformer")
    listed = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling")]
    (tmp_path / "modules.json").write_text(
        json.dumps([{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in listed])
    )
    (tmp_path / "1_Pooling").mkdir()
    pooling(tmp_path / "1_Pooling", "max_tokens")
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 5, "do_lower_case": true}'
    )
    expected = torch.stack([hidden_of(model, t).max(0).values for t in ("a red cup",)])
    torch.testing.assert_close(embedded(str(tmp_path), ["A RED cup"]), expected, atol=1e-5, rtol=1e-4)
    assert model_from_hub(str(tmp_path)).inputs["text"].max_tokens == 5  # type: ignore[union-attr]
    with pytest.raises(ModelError, match=r"is the encoder of a sentence-transformers folder alone, .* give hf:"):
        encoder_from_hub(str(tmp_path / "0_Transformer"), modality="text", output="pooled")


POOLER = {"modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}}}
REFUSED: Mapping[str, tuple[tuple[str, ...], str, Any, str]] = {
    # what a folder has, the file with a setting, the setting, what is said of it
    "an unknown pooling": (("Pooling",), "1_Pooling/config.json", {"pooling_mode": "median"}, r"mode \['median'\]"),
    "an unknown field": (("Pooling",), "1_Pooling/config.json", {"attention": 1}, r"edgemm doesn't know 'attention'"),
    "an unknown module": (("Pooling", "Pooling"), "1_Pooling/config.json", {}, r"has a Pooling \(2_Pooling\)"),
    "a module of the folder's own": ((), "modules.json", [{"type": "mine.Transformer", "path": ""}], r"mine.T"),
    "a list of nothing": (("Pooling",), "modules.json", {"a": 1}, r"expected a list of modules with type and path"),
    "a way out": (
        ("Pooling",), "modules.json", [{"type": "sentence_transformers.models.Transformer", "path": "../.."}],
        r"names '../..', expected folders beside it",
    ),
    "a width in words": (("Pooling", "Dense"), "2_Dense/config.json", {"in_features": "wide"}, r"in_features 'wide'"),
    "no pooling": ((), "config_sentence_transformers.json", {}, r"modules.json names no Pooling"),
    "a prompt": (
        ("Pooling",), "config_sentence_transformers.json",
        {"prompts": {"query": "query: "}, "default_prompt_name": "query"}, r"puts 'query: ' before every text",
    ),
    "code of its own": (
        ("Pooling", "Dense"), "2_Dense/config.json",
        {"in_features": 16, "out_features": 2, "activation_function": "mine.Swish"}, r"function 'mine.Swish'",
    ),
    "another output": (
        ("Pooling",), "sentence_bert_config.json",
        POOLER, r"'pooler_output'",
    ),
    "a strange limit": (("Pooling",), "sentence_bert_config.json", {"max_seq_length": "long"}, r"_length 'long'"),
    "a strange argument": (
        ("Pooling",), "sentence_bert_config.json", {"tokenizer_args": {"vocab_file": "x"}}, r"tokenizer with vocab_file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_honoured_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    kinds, file, setting, message = REFUSED[kind]
    encoder(tmp_path)
    for place in modules(tmp_path, *kinds):
        write(place)
    (tmp_path / file).write_text(json.dumps(setting))
    with pytest.raises(ModelError, match=message):
        model_from_hub(str(tmp_path))


def test_a_pooling_that_nothing_joins_to_the_encoder_is_told(tmp_path: Path) -> None:
    encoder(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    pooling(tmp_path / "1_Pooling", "cls_token")
    with pytest.raises(ModelError, match=r"1_Pooling says cls, but modules.json, which puts it behind .* is missing"):
        model_from_hub(str(tmp_path))


def test_a_student_pools_as_the_teacher_that_it_inherits_from(tmp_path: Path) -> None:
    encoder(tmp_path, layer_norm_eps=1e-3)
    (place,) = modules(tmp_path, "Pooling")
    pooling(place, "max_tokens")
    image = {"input_size": 32, "blocks": [1], "channels": [8], "stem": 8, "features": 8}
    section = {"image": image, "text": {"weights": f"hf:{tmp_path}", "max_tokens": 8}, "embed_dim": 8}
    teacher = build_model(TeacherSection(**section), family="dual-encoder", seed=0)
    text = {"layers": 1, "width": 16, "heads": 2, "ffn": 32, "max_tokens": 8}
    student = build_student(StudentSection(**{**section, "text": text}), teacher, family="dual-encoder", seed=0)
    for model in (teacher, student):
        module = model.part("text").module
        assert isinstance(module, TextTransformer)
        assert (module.pooling, module.norm.eps) == ("max", 1e-3)


def test_json_nested_without_end_is_one_line_and_no_recursion_error(tmp_path: Path) -> None:
    for file in ("modules.json", "tokenizer_config.json"):
        (tmp_path / file).write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"modules\.json: can't be read"):
        sentence_of(tmp_path, name="text")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json can't be read"):
        OwnerTokenizer(tmp_path, name="text", rows=10)
