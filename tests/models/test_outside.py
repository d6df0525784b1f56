"""Teachers from outside: real architectures with random weights, saved to disk as their owners would."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgemm.models.builders import build_model
from edgemm.models.model import Model, Part
from edgemm.models.outside import teacher_from_source
from edgemm.models.store import load_model, save_model
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.recipe import ImageTower, TeacherSection, TextTower
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes
from edgemm.runtime.readers import TensorInput
from edgemm.runtime.signature import DimRange, Signature, TensorSpec
from tests.models.tiny_tokenizer import encode, save_tokenizer

VISION = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
TEXT = {
    "vocab_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 16, "bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 1,
}  # fmt: skip
TEXTS = ["a cat", "cat"]


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, Any]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    model = CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=24)).eval()
    folder = tmp_path / "clip"
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    save_tokenizer(folder)
    return folder, model


def values(model: Model) -> dict[str, torch.Tensor]:
    image = np.random.default_rng(0).integers(0, 256, (2, 40, 60, 3), dtype=np.uint8)
    assert model.tokenizer_json is not None
    ids, mask = encode(tokenizer_from_json(model.tokenizer_json), TEXTS)
    given = {"image": image, "input_ids": ids, "attention_mask": mask}
    return {name: torch.from_numpy(value) for name, value in given.items()}


def test_the_parts_of_a_clip_are_the_clip(clip: tuple[Path, Any]) -> None:
    folder, whole = clip
    model = teacher_from_source(f"hf:{folder}", family="dual-encoder")
    with torch.no_grad():
        made = model(values(model))
        expected = whole(
            pixel_values=made["pixels"], input_ids=made["input_ids"], attention_mask=made["attention_mask"]
        )
    torch.testing.assert_close(made["image_embedding"], expected.image_embeds)
    torch.testing.assert_close(made["text_embedding"], expected.text_embeds)


def test_a_clip_saves_and_loads_as_one_of_ours(clip: tuple[Path, Any], tmp_path: Path) -> None:
    model = teacher_from_source(f"hf:{clip[0]}")
    save_model(model, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    assert loaded.chain == model.chain
    with torch.no_grad():
        a, b = model(values(model)), loaded(values(loaded))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_siglip_reads_full_length_texts_without_a_mask(tmp_path: Path) -> None:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    whole = SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)).eval()
    whole.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = teacher_from_source(f"hf:{tmp_path}")
    with torch.no_grad():
        made = model(values(model))
        expected = whole(pixel_values=made["pixels"], input_ids=made["input_ids"])
    assert made["input_ids"].shape == (2, 16)
    torch.testing.assert_close(made["image_embedding"], expected.image_embeds)
    torch.testing.assert_close(made["text_embedding"], expected.text_embeds)


def test_single_encoders_come_as_one_tower(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    vit = ViTModel(ViTConfig(**VISION)).eval()
    vit.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    model = teacher_from_source(f"hf:{tmp_path / 'vit'}")
    with torch.no_grad():
        made = model({"image": torch.zeros(1, 40, 40, 3, dtype=torch.uint8)})
        torch.testing.assert_close(made["image_features"], vit(pixel_values=made["pixels"]).pooler_output)

    fields = {k: v for k, v in TEXT.items() if not k.endswith("token_id")}
    bert = BertModel(BertConfig(**fields, pad_token_id=1)).eval()
    bert.save_pretrained(tmp_path / "bert")
    save_tokenizer(tmp_path / "bert")
    model = teacher_from_source(f"hf:{tmp_path / 'bert'}")
    assert model.tokenizer_json is not None
    ids, mask = map(torch.from_numpy, encode(tokenizer_from_json(model.tokenizer_json), TEXTS))
    with torch.no_grad():
        hidden = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        expected = (hidden * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)
        made = model({"input_ids": ids, "attention_mask": mask})
    torch.testing.assert_close(made["text_features"], expected, atol=1e-5, rtol=1e-4)


def test_a_text_tower_takes_a_bert_by_its_hugging_face_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    from tests.pipeline.shapes_recipe import write_text_weights

    folder = write_text_weights(tmp_path / "bert")
    asked: list[str] = []

    def cached(name: str, **_: object) -> str:
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    made = []
    for weights in ("hf:someone/bert", f"hf:{folder}", f"folder:{folder}"):
        section = TeacherSection(
            image=ImageTower(input_size=32, stem=8, blocks=(1,), channels=(8,), features=16),
            text=TextTower(weights=weights, max_tokens=8),
        )
        made.append(build_model(section, family="dual-encoder", texts=["a red bar"], seed=0))
    assert set(asked) == {"someone/bert"}
    states = [model.part("text").module.state_dict() for model in made]
    assert all(torch.equal(value, state[name]) for state in states[1:] for name, value in states[0].items())
    assert made[0].tokenizer_json == made[2].tokenizer_json


def test_an_unreachable_name_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    def unreachable(*_: object, **__: object) -> str:
        raise ConnectionError("no route to the hub\nand more lines")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ModelError, match=r"hf:nobody/nothing: neither a folder.*no route to the hub\); give") as caught:
        teacher_from_source("hf:nobody/nothing")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"not in the local cache, and HF_HUB_OFFLINE forbids"):
        teacher_from_source("hf:nobody/nothing")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"model_type": "t5"}', r"model type 't5' is not supported; expected one of clip, "),
        ("config.json", "{", r"config.json: not JSON"),
        ("tokenizer.json", None, r"no tokenizer in .*; save it there with AutoTokenizer"),
        ("preprocessor_config.json", None, r"preprocessor_config.json: can't be read"),
        ("model.safetensors", "x", r"model.safetensors: damaged, or fetched by half .*; 1 bytes are there"),
    ],
)
def test_an_incomplete_folder_names_the_file(clip: tuple[Path, Any], file: str, text: str | None, message: str) -> None:
    if text is None:
        (clip[0] / file).unlink()
    else:
        (clip[0] / file).write_text(text)
    with pytest.raises(ModelError, match=message):
        teacher_from_source(f"hf:{clip[0]}")


def test_a_blip_embeds_or_matches_as_the_family_says(tmp_path: Path) -> None:
    from tests.models.hf_folders import blip

    blip(tmp_path)
    source = f"hf:{tmp_path}"
    assert [*teacher_from_source(source).outputs] == ["image_embedding", "text_embedding"]
    assert teacher_from_source(source, family="dual-encoder").family == "dual-encoder"
    model = teacher_from_source(source, family="fusion-classifier", labels=("match", "no match"), task="single-label")
    assert model.outputs == {"logits": Classes(("no match", "match"))}
    with pytest.raises(ModelError, match=r"2 classes are not .* 2; 'fits' is .*; expected 'no match', 'match'; label"):
        teacher_from_source(source, family="fusion-classifier", labels=("fits", "no match"))
    with pytest.raises(ModelError, match=r"is of family 'dual-encoder', the recipe says 'embedder'"):
        teacher_from_source(source, family="embedder")


def test_a_source_that_is_none_is_told_with_the_kinds() -> None:
    with pytest.raises(ModelError, match=r"got 'clip', expected hf:NAME_OR_FOLDER, folder:PATH or python:"):
        teacher_from_source("clip")
    with pytest.raises(ModelError, match=r"no such folder"):
        teacher_from_source("hf:/no/such/folder")


# --- python ----------------------------------------------------------------------------------------------------------

FACTORY = """
import torch
from edgemm.runtime.signature import DimRange, Signature, TensorSpec

class Sensor(torch.nn.Module):
    signature = Signature(
        (TensorSpec("readings", "float32", ("batch", 3)),), (TensorSpec("state", "float32", ("batch", 2)),),
        {"batch": DimRange(1, 1, 8)},
    )
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
    def forward(self, readings):
        return self.linear(readings)

def make():
    return Sensor()

def number():
    return 3

def fails():
    raise RuntimeError("no weights")

def bare():
    return torch.nn.Linear(1, 1)
"""
FAILING = "raise ValueError('no data here')"
WRAPPER = """
from edgemm.models.outside import teacher_from_source

def make():
    return teacher_from_source('python:sensor_factory:make')
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "sensor_factory.py").write_text(FACTORY)
    (tmp_path / "failing_factory.py").write_text(FAILING)
    (tmp_path / "wrapper.py").write_text(WRAPPER)
    monkeypatch.syspath_prepend(str(tmp_path))  # after the last file: Python may have read the folder by the next one
    sys.modules.pop("sensor_factory", None)
    return "sensor_factory"


def test_a_factory_makes_a_model_of_one_part_that_saves_and_loads(factory: str, tmp_path: Path) -> None:
    model = teacher_from_source(f"python:{factory}:make")
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", factories=[f"{factory}:make"])
    given = {"readings": torch.ones(2, 3)}
    assert torch.equal(model(given)["state"], loaded(given)["state"])


def test_code_that_only_the_folder_names_is_not_imported(factory: str, tmp_path: Path) -> None:
    save_model(teacher_from_source(f"python:{factory}:make"), tmp_path / "m")
    del sys.modules[factory]
    told = r"part 'model' names Python code, 'sensor_factory:make', which is run only where .* and you named"
    with pytest.raises(ModelError, match=rf"{told} none; .* --factory MODULE:FACTORY to capture"):
        load_model(tmp_path / "m")
    with pytest.raises(ModelError, match=rf"{told} other:make"):
        load_model(tmp_path / "m", factories=["other:make"])
    with pytest.raises(ModelError, match=rf"{told} {factory}:makes"):
        load_model(tmp_path / "m", factories=f"{factory}:makes")  # of which the other's name is a piece
    with pytest.raises(ModelError, match=rf"{told} none"):
        teacher_from_source(f"folder:{tmp_path / 'm'}")
    assert factory not in sys.modules


def test_a_factory_that_wraps_another_ones_parts_is_the_one_that_is_named(factory: str, tmp_path: Path) -> None:
    sys.modules.pop("wrapper", None)
    model = teacher_from_source("python:wrapper:make")
    save_model(model, tmp_path / "m")
    loaded = load_model(tmp_path / "m", factories=["wrapper:make"])
    given = {"readings": torch.ones(2, 3)}
    assert torch.equal(model(given)["state"], loaded(given)["state"])


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("nothing", r"has no 'nothing'"),
        ("number", r"returned int, expected an nn.Module"),
        ("fails", r"the factory failed with RuntimeError: no weights"),
        ("bare", r"expected an edgemm Model, or an nn.Module with an attribute 'signature'"),
    ],
)
def test_a_factory_that_does_not_serve_is_told(factory: str, attribute: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        teacher_from_source(f"python:{factory}:{attribute}")
    with pytest.raises(ModelError, match=r"can't import 'failing_factory' \(no data here\)"):
        teacher_from_source("python:failing_factory:make")
    with pytest.raises(ModelError, match=r"can't import 'no_such_module'"):
        teacher_from_source("python:no_such_module:make")


def test_family_and_classes_have_to_be_the_recipes(tmp_path: Path) -> None:
    logits = Signature(
        (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("logits", "float32", ("batch", 2)),),
        {"batch": DimRange(1, 1, 8)},
    )  # fmt: skip
    config = {"width": 2, "classes": 2}
    from edgemm.models.heads import MlpHead

    part = Part("head", "head", None, "mlp-head", config, logits, MlpHead(width=2, classes=2))
    inputs = {"x": TensorInput("x")}
    answers = {"logits": Classes(("no", "yes"))}
    save_model(Model("fusion-classifier", [part], inputs=inputs, outputs=answers), tmp_path)
    source = f"folder:{tmp_path}"
    assert teacher_from_source(source, family="fusion-classifier", labels=("no", "yes")).outputs == answers
    with pytest.raises(ModelError, match=r"is of family 'fusion-classifier', the recipe says 'dual-encoder'"):
        teacher_from_source(source, family="dual-encoder")
    with pytest.raises(ModelError, match=r"its 2 classes are not the data's 2; 'maybe' is in only one"):
        teacher_from_source(source, labels=("maybe", "yes"))
