"""Foreign checkpoints' folders: what opens, and one line for what doesn't."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from edgemm.models.checkpoint import read_weights, weight_files
from edgemm.models.huggingface import encoder_from_hub, model_from_hub
from edgemm.models.text import TextTransformer
from edgemm.models.towers import tower_of
from edgemm.recipe import TextTower
from edgemm.runtime.errors import ModelError
from tests.models.hf_folders import clip, image_encoder, saved, wav2vec2
from tests.models.test_owner_tokenizer import WORDS
from tests.models.test_sentence import encoder

Change = Callable[[Path], Any]


def features(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """What the folder makes of one text, as edgemm's own tower and as transformers' model: (1, 16) each."""
    ids, mask = torch.tensor([[2, 9, 5, 7, 3]]), torch.ones(1, 5, dtype=torch.int64)
    own = tower_of("text", TextTower(weights=f"hf:{folder}", max_tokens=8)).parts[-1].module
    assert isinstance(own, TextTransformer)
    theirs = model_from_hub(str(folder)).part("text").module
    with torch.no_grad():
        return own(ids, mask), theirs(ids, mask)


def expected(model: Any) -> torch.Tensor:
    with torch.no_grad():
        state: torch.Tensor = model(torch.tensor([[2, 9, 5, 7, 3]]))[0]
    return state.mean(1)


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    state = change(load_file(folder / "model.safetensors"))
    save_file({key: value.contiguous() for key, value in state.items()}, folder / "model.safetensors", {"format": "pt"})


def in_shards(folder: Path) -> None:
    """Two files and their index, as save_pretrained writes a large model."""
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(sorted(state))}
    for file in set(where.values()):
        save_file({k: v for k, v in state.items() if where[k] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def of_old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Under the names of the first BERT."""
    names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    found = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(new, old)
        found[f"bert.{key}"] = value
    return {**found, "cls.predictions.bias": torch.zeros(3)}


OPENS: Mapping[str, Change] = {
    "as it is": lambda folder: None,
    "in shards": in_shards,
    "gamma and beta": lambda folder: rewritten(folder, of_old),
    "half of them in shards": lambda folder: (
        rewritten(folder, lambda s: {k: v.half() for k, v in s.items()}),
        in_shards(folder),
    ),
    "bfloat16": lambda folder: rewritten(folder, lambda s: {k: v.bfloat16() for k, v in s.items()}),
    "float64": lambda folder: rewritten(folder, lambda s: {k: v.double() for k, v in s.items()}),
    "with positions": lambda folder: rewritten(
        folder, lambda s: {**s, "embeddings.position_ids": torch.arange(16)[None]}
    ),
}
_PRECISION = {"bfloat16": 0.05, "half of them in shards": 0.01}  # of the stored weights; all else is float32


@pytest.mark.parametrize("kind", OPENS)
def test_a_bert_opens_both_ways(kind: str, tmp_path: Path) -> None:
    model = encoder(tmp_path)
    OPENS[kind](tmp_path)
    for made in features(tmp_path):
        torch.testing.assert_close(made, expected(model), atol=_PRECISION.get(kind, 1e-5), rtol=1e-3)


@pytest.mark.parametrize("prefix", ["bert.", "model.bert.", "model.", "module.", "0.auto_model."])
def test_an_encoder_inside_another_model_is_found(prefix: str, tmp_path: Path) -> None:
    model = encoder(tmp_path)
    rewritten(tmp_path, lambda s: {f"{prefix}{k}": v for k, v in s.items()} | {"classifier.weight": torch.zeros(2, 16)})
    for made in features(tmp_path):
        torch.testing.assert_close(made, expected(model), atol=1e-5, rtol=1e-4)


def test_two_encoders_in_one_file_are_told(tmp_path: Path) -> None:
    encoder(tmp_path)
    rewritten(tmp_path, lambda s: {f"{side}.{k}": v.clone() for k, v in s.items() for side in ("query", "passage")})
    with pytest.raises(ModelError, match=r"there are 2 encoders \(passage., query.\), expected one BERT"):
        tower_of("text", TextTower(weights=f"hf:{tmp_path}", max_tokens=8))
    with pytest.raises(ModelError, match=r"is missing from the checkpoint \(\d+ such\)"):
        model_from_hub(str(tmp_path))


def test_weight_norm_under_its_old_names_opens(tmp_path: Path) -> None:
    wav2vec2(tmp_path)
    before = encoder_from_hub(str(tmp_path), modality="audio", output="pooled").tower.module
    names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}

    def old(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for key, value in state.items():
            for new, name in names.items():
                key = key.replace(new, name)
            found[key] = value
        assert any(key.endswith("weight_g") for key in found)
        return found

    rewritten(tmp_path, old)
    after = encoder_from_hub(str(tmp_path), modality="audio", output="pooled").tower.module
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(before(wave), after(wave))


def deeper(folder: Path, key: str) -> None:
    """As transformers 5 saves a processor."""
    config = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "processor_config.json").write_text(json.dumps({key: config, "processor_class": "AnyProcessor"}))


def test_a_processor_config_alone_is_the_same_frontend(tmp_path: Path) -> None:
    clip(tmp_path / "clip")
    wav2vec2(tmp_path / "audio")
    taken = {}
    for when in ("before", "after"):
        taken[when] = [
            model_from_hub(str(tmp_path / "clip")).chain[0].config,
            encoder_from_hub(str(tmp_path / "audio"), modality="audio", output="pooled").frontend.config,  # type: ignore[union-attr]
        ]
        for name, key in (("clip", "image_processor"), ("audio", "feature_extractor")):
            if when == "before":
                deeper(tmp_path / name, key)
                (tmp_path / name / "preprocessor_config.json").unlink()
    assert taken["before"] == taken["after"]


def test_two_processors_that_disagree_are_told(tmp_path: Path) -> None:
    clip(tmp_path)
    deeper(tmp_path, "image_processor")
    model_from_hub(str(tmp_path))
    config = json.loads((tmp_path / "processor_config.json").read_text())
    config["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    (tmp_path / "processor_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=r"preprocessor_config.json and processor_config.json disagree on image_mean: \["
    ):
        model_from_hub(str(tmp_path))


def test_a_processor_of_the_old_name_is_an_image_processor(tmp_path: Path) -> None:
    clip(tmp_path)
    before = model_from_hub(str(tmp_path)).chain[0].config
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    del config["image_processor_type"]
    config["feature_extractor_type"] = "CLIPFeatureExtractor"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    assert model_from_hub(str(tmp_path)).chain[0].config == before


@pytest.mark.parametrize("std", [[0.5, 0, 0.5], [0.5, float("nan"), 0.5], [0.5, 1e999, 0.5]])
def test_a_processor_that_divides_by_nothing_is_told(std: list[float], tmp_path: Path) -> None:
    clip(tmp_path)
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "image_std": std}))
    with pytest.raises(ModelError, match=r"can't compile image_mean and image_std = .*; expected finite numbers"):
        model_from_hub(str(tmp_path))


def test_processors_of_something_else_are_told(tmp_path: Path) -> None:
    clip(tmp_path)
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "video_preprocessor_config.json")
    with pytest.raises(ModelError, match=r"has a processor of videos alone"):
        model_from_hub(str(tmp_path))
    (tmp_path / "processor_config.json").write_text('{"feature_extractor": {}}')
    with pytest.raises(
        ModelError, match=r"processor_config.json: names no image_processor, and preprocessor_config.json"
    ):
        model_from_hub(str(tmp_path))


# --- one line for what does not open ---------------------------------------------------------------------------------


def alone(*files: str) -> Change:
    """These files and nothing else."""

    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            (folder / file).write_text("{}")

    return change


def without_weights(*files: str) -> Change:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        for file in files:
            (folder / file).write_bytes(b"x")

    return change


def configured(**fields: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def pointer(file: str) -> Change:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 90868376\n"
    return lambda folder: (folder / file).write_text(text)


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def shard_gone(folder: Path) -> None:
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def index_gone(folder: Path) -> None:
    in_shards(folder)
    (folder / "model.safetensors.index.json").unlink()


def index_outside(folder: Path) -> None:
    without_weights()(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret.safetensors"}}')


def in_int8(folder: Path) -> None:
    rewritten(folder, lambda s: {k: v.to(torch.int8) if v.dim() > 1 else v for k, v in s.items()})


REFUSED: Mapping[str, tuple[Change, str]] = {
    "an adapter": (
        lambda folder: (folder / "adapter_config.json").write_text(
            '{"peft_type": "LORA", "base_model_name_or_path": "a/bert"}'
        ),
        r"an adapter \(LORA for a/bert\), not a whole model; merge it first",
    ),
    "bitsandbytes": (
        configured(quantization_config={"load_in_8bit": True, "quant_method": "bitsandbytes"}),
        r"is quantized already \(quantization_config: bitsandbytes\); give the checkpoint in float",
    ),
    "AWQ": (configured(quantization_config={"quant_method": "awq", "bits": 4}), r"\(quantization_config: awq\)"),
    "MLX, 4 bits": (configured(quantization={"group_size": 64, "bits": 4}), r"\(quantization: MLX\)"),
    "compressed-tensors": (configured(compression_config={"format": "int"}), r"\(compression_config: unnamed\)"),
    "code of its own": (
        configured(auto_map={"AutoModel": "modeling.Mine"}),
        r"auto_map in config.json: modeling.Mine\), which is never run",
    ),
    "timm": (
        lambda folder: (folder / "config.json").write_text('{"architecture": "vit_tiny", "pretrained_cfg": {}}'),
        r"a timm model \(vit_tiny\); load it in a python: factory",
    ),
    "open_clip": (alone("open_clip_config.json"), r"an open_clip model; load it in a python: factory"),
    "diffusers": (alone("model_index.json", "unet/config.json"), r"a diffusers pipeline"),
    "GGUF": (alone("bert-q4_k_m.gguf"), r"GGUF weights of llama.cpp, which are quantized already"),
    "ONNX": (alone("model.onnx"), r"ONNX graphs; give the graph itself: edgemm quantize"),
    "OpenVINO": (without_weights("openvino_model.xml", "openvino_model.bin"), r"an OpenVINO model"),
    "Core ML": (alone("text.mlpackage"), r"a Core ML model"),
    "edgemm's own": (alone("model.json", "weights.safetensors"), r"a model that edgemm saved; name it as folder:PATH"),
    "a bundle": (alone("manifest.json"), r"a bundle of edgemm, not a checkpoint"),
    "TensorFlow": (without_weights("tf_model.h5"), r"weights of TensorFlow alone .* from_tf=True"),
    "Flax": (without_weights("flax_model.msgpack"), r"weights of Flax alone .* from_flax=True"),
    "another name": (without_weights("bert.fp16.safetensors"), r"there is bert.fp16.safetensors: rename it if it"),
    "no weights": (without_weights(), r"no model.safetensors in .*; is the model's folder complete\?"),
    "nothing": (alone(), r"config.json is missing in .*; is the model's folder complete\?"),
    "a missing shard": (shard_gone, r"names 2 files, and model-00002-of-00002.safetensors is missing \(1 of"),
    "no index": (index_gone, r"2 files such as model-00001-of-00002.safetensors, and no model.safetensors.index.json"),
    "an index to the outside": (index_outside, r"names '../../secret.safetensors', expected files of the same folder"),
    "a pointer": (pointer("model.safetensors"), r"model.safetensors: not the file, only Git LFS's pointer .* git lfs"),
    "a pointer for a config": (pointer("config.json"), r"config.json: not the file, only Git LFS's pointer"),
    "a pointer for a tokenizer": (pointer("tokenizer.json"), r"tokenizer.json: not the file, only Git LFS's pointer"),
    "sizes in words": (configured(hidden_size="wide"), r"weights can't be loaded|no usable invalid literal"),
    "an activation without a name": (configured(hidden_act=7), r"can't run on what its tokenizer makes, input_ids"),
    "architectures as a number": (configured(architectures=7), r"a name as model_type and a list of architectures"),
    "fetched by half": (cut, r"model.safetensors: damaged, or fetched by half"),
    "int8 weights": (in_int8, r"stored as int8|weights can't be loaded"),
    "another json": (lambda folder: (folder / "config.json").write_text("[]"), r"got list, expected an object"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_lies_there_instead_is_one_line_both_ways(kind: str, tmp_path: Path) -> None:
    change, message = REFUSED[kind]
    encoder(tmp_path)
    change(tmp_path)
    for take in (
        lambda: model_from_hub(str(tmp_path)),
        lambda: tower_of("text", TextTower(weights=f"hf:{tmp_path}", max_tokens=8)),
    ):
        with pytest.raises(ModelError, match=message) as raised:
            take()
        assert "\n" not in str(raised.value)


def test_a_model_one_folder_further_in_is_pointed_to(tmp_path: Path) -> None:
    encoder(tmp_path / "checkpoint-100")
    with pytest.raises(
        ModelError, match=r"no config.json, but there is one in checkpoint-100; give hf:.*checkpoint-100$"
    ):
        model_from_hub(str(tmp_path))


@pytest.mark.parametrize("shards", [1, 2])
def test_the_command_that_converts_pickled_weights_works_when_pasted(shards: int, tmp_path: Path) -> None:
    folder = tmp_path / "it's a folder"
    model = encoder(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(shards):
        name = "pytorch_model.bin" if shards == 1 else f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({k: v for i, (k, v) in enumerate(state.items()) if i % shards == number}, folder / name)
    if shards == 2:
        (folder / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"read from safetensors alone, since a .bin can run code; convert them, as"
    ) as raised:
        tower_of("text", TextTower(weights=f"hf:{folder}", max_tokens=8))
    command = re.sub(r"^.*?: (?=python -c)", "", str(raised.value))
    subprocess.run([sys.executable, "-W", "ignore", *shlex.split(command)[1:]], check=True)
    for made in features(folder):
        torch.testing.assert_close(made, expected(model), atol=1e-5, rtol=1e-4)


def test_tied_weights_that_a_checkpoint_leaves_out_are_not_missed(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16,
    )  # fmt: skip
    encoder(tmp_path)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    assert "cls.predictions.decoder.weight" not in read_weights(tmp_path, name="x")
    own, theirs = features(tmp_path)
    torch.testing.assert_close(own, theirs, atol=1e-5, rtol=1e-4)


def test_a_vision_encoder_in_shards_opens(tmp_path: Path) -> None:
    make = image_encoder(
        "ViTModel",
        lambda: transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
                                       image_size=16, patch_size=8),
        lambda: transformers.ViTImageProcessor(size={"height": 16, "width": 16}),
    )  # fmt: skip
    make(tmp_path)
    before = encoder_from_hub(str(tmp_path), modality="image", output="pooled").tower.module.state_dict()
    in_shards(tmp_path)
    assert [path.name for path in weight_files(tmp_path, name="x")] == [
        f"model-0000{i}-of-00002.safetensors" for i in (1, 2)
    ]
    after = encoder_from_hub(str(tmp_path), modality="image", output="pooled").tower.module.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_a_roberta_takes_more_tokens_than_its_owner_cuts_at_where_a_recipe_says_so(tmp_path: Path) -> None:
    saved(tmp_path, transformers.BertModel(transformers.BertConfig(
        vocab_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=18)))  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "model_max_length": 7}'
    )
    of = {
        n: encoder_from_hub(str(tmp_path), modality="text", output="pooled", max_tokens=n).raw for n in (None, 12, 99)
    }
    assert {n: raw.max_tokens for n, raw in of.items()} == {None: 7, 12: 12, 99: 18}  # type: ignore[union-attr]
