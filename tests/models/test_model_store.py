"""load(save(m)) == m, students that start from their teacher, and checkpoints that don't fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from edgemm.models.builders import build_model
from edgemm.models.efficientnet import EfficientNetLite
from edgemm.models.inherit import build_student, token_order
from edgemm.models.model import Model
from edgemm.models.smaller import important, inherit_image_, strided
from edgemm.models.store import load_model, save_model
from edgemm.models.text import TextTransformer
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.recipe import Fusion, ImageTower, StudentSection, TeacherSection, TextTower
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Classes
from tests.models.tiny_tokenizer import encode
from tests.pipeline.shapes_recipe import REVERSED, write_text_weights

TEXTS = ["a grinning face", "a cat", "is the heart enlarged?"]
SMALL_IMAGE = ImageTower(input_size=32, blocks=(1, 2, 1), channels=(8, 16, 24), features=32)


@pytest.fixture(scope="module")
def teacher() -> Model:
    section = TeacherSection(image=SMALL_IMAGE, text=TextTower(weights="package:minilm-l6"), embed_dim=24)
    return build_model(section, family="dual-encoder", seed=0)


def small_student(**fields: object) -> StudentSection:
    text = TextTower(layers=2, width=64, heads=2, ffn=96, max_tokens=8, vocabulary="trimmed")
    image = ImageTower(input_size=32, blocks=(1, 1, 1), channels=(8, 8, 16), features=16)
    return StudentSection.model_validate({"image": image, "text": text, "embed_dim": 16, **fields})


def student(teacher: Model) -> Model:
    return build_student(small_student(), teacher, family="dual-encoder", texts=TEXTS, seed=1)


def values() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "image": torch.randint(0, 256, (2, 40, 30, 3), dtype=torch.uint8, generator=generator),
        "input_ids": torch.tensor([[1, 5, 9], [1, 7, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
    }


def assert_same(one: Model, other: Model) -> None:
    with torch.no_grad():
        a, b = one(values()), other(values())
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_loaded_model_is_the_saved_one(teacher: Model, tmp_path: Path) -> None:
    model = student(teacher)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.chain == model.chain
    assert loaded.inputs == model.inputs
    assert loaded.tokenizer_json == model.tokenizer_json
    assert_same(model, loaded)


def test_a_classifier_keeps_its_labels(tmp_path: Path) -> None:
    section = TeacherSection(
        image=SMALL_IMAGE.model_copy(update={"output": "tokens"}),
        text=TextTower(weights="package:minilm-l6", max_tokens=8),
        fusion=Fusion(mode="cross-attention", width=16, heads=2),
        head_hidden=8,
    )
    model = build_model(section, family="fusion-classifier", answer=Classes(("no", "yes")), seed=0)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.outputs == {"logits": Classes(("no", "yes"))}
    assert_same(model, loaded)


@pytest.mark.filterwarnings("ignore:Unwrapped parameters")  # the position table: its last dimension is the right one
def test_a_pruned_model_loads_with_its_new_shapes(teacher: Model, tmp_path: Path) -> None:
    import torch_pruning

    model = student(teacher)
    image, text = model.part("image").module, model.part("text").module
    assert isinstance(image, EfficientNetLite)
    assert isinstance(text, TextTransformer)
    before = sum(p.numel() for p in model.parameters())
    torch_pruning.pruner.MetaPruner(
        image,
        torch.zeros(1, 3, 32, 32),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[image.projection],
    ).step()
    graph = torch_pruning.DependencyGraph().build_dependency(
        text, (torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64))
    )
    up = text.layers[0].up
    graph.get_pruning_group(up, torch_pruning.prune_linear_out_channels, list(range(40))).prune()
    assert sum(p.numel() for p in model.parameters()) < before
    model.eval()
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert_same(model, loaded)
    convolutions = [m for m in loaded.part("image").module.modules() if isinstance(m, torch.nn.Conv2d)]
    assert any(c.groups > 1 for c in convolutions)
    assert all(c.weight.shape[1] * c.groups == c.in_channels for c in convolutions)
    save_model(loaded, tmp_path / "again")
    assert_same(loaded, load_model(tmp_path / "again"))


def test_one_seed_makes_one_model_and_leaves_the_generator_alone(teacher: Model) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, other = student(teacher), student(teacher)
    assert torch.equal(torch.rand(1), expected)
    assert_same(one, other)


def test_a_student_as_large_as_its_teacher_inherits_all_of_it(teacher: Model) -> None:
    section = StudentSection(image=SMALL_IMAGE, text=TextTower(), projection="part", embed_dim=24)
    said: list[str] = []
    copy = build_student(section, teacher, family="dual-encoder", seed=9, say=said.append)
    assert [line for line in said if line.startswith(("image: all ", "text: all "))] == said[:1] + said[2:3], said
    with torch.no_grad():
        a, b = teacher(values()), copy(values())
    assert torch.equal(a["image_features"], b["image_features"])
    assert torch.equal(a["text_features"], b["text_features"])


def test_what_a_wider_tower_could_not_inherit_is_said(teacher: Model) -> None:
    wider = {**SMALL_IMAGE.model_dump(), "channels": [c * 8 for c in SMALL_IMAGE.channels or ()], "stem": 64}
    section = StudentSection.model_validate({"image": wider, "text": {"layers": 1}, "embed_dim": 24})
    said: list[str] = []
    build_student(section, teacher, family="dual-encoder", seed=9, say=said.append)
    assert re.fullmatch(
        r"image: (none of its \d+ layers fits the teacher's; it starts from random weights"
        r"|\d+ of \d+ layers start from the teacher's, the rest from random weights)",
        said[0],
    )
    said.clear()
    section = section.model_copy(update={"inherit": "none"})
    build_student(section, teacher, family="dual-encoder", seed=9, say=said.append)
    assert said == []


def test_a_trimmed_student_looks_its_words_up_under_new_ids(teacher: Model) -> None:
    section = StudentSection(image=SMALL_IMAGE, text=TextTower(vocabulary="trimmed"), projection="part", embed_dim=24)
    trimmed = build_student(section, teacher, family="dual-encoder", texts=TEXTS, seed=9)

    made = []
    for model in (teacher, trimmed):
        assert model.tokenizer_json is not None
        ids, mask = encode(tokenizer_from_json(model.tokenizer_json), TEXTS)
        with torch.no_grad():
            made.append(model.part("text").module(torch.from_numpy(ids), torch.from_numpy(mask)))
    assert torch.equal(*made)
    words = trimmed.part("text").module.words
    assert isinstance(words, torch.nn.Embedding)
    assert words.num_embeddings < 3000


@pytest.mark.parametrize("vocabulary", ["full", "trimmed"])
def test_a_student_with_weights_of_its_own_reads_with_their_tokenizer(vocabulary: str, tmp_path: Path) -> None:
    folders = {
        "teacher": write_text_weights(tmp_path / "teacher", seed=1),
        "student": write_text_weights(tmp_path / "student", vocabulary={**REVERSED, "purple": len(REVERSED)}, seed=2),
    }
    sections = {
        name: {"image": SMALL_IMAGE, "text": {"weights": f"folder:{folder}", "max_tokens": 8}}
        for name, folder in folders.items()
    }
    sections["student"]["text"] |= {"vocabulary": vocabulary, "extra_words": 1}
    teacher = build_model(TeacherSection.model_validate(sections["teacher"]), family="dual-encoder", seed=0)
    student = build_student(
        StudentSection.model_validate(sections["student"]), teacher, family="dual-encoder", texts=["a red bar"], seed=0
    )
    for name, model in (("teacher", teacher), ("student", student)):
        assert model.tokenizer_json is not None
        tokenizer = tokenizer_from_json(model.tokenizer_json)
        encoding = tokenizer.encode("a red bar")
        assert encoding.tokens == ["[CLS]", "a", "red", "bar", "[SEP]"]
        theirs = tokenizer_from_json((folders[name] / "tokenizer.json").read_text()).get_vocab()
        table = load_file(folders[name] / "model.safetensors")["embeddings.word_embeddings.weight"]
        tower = model.part("text").module
        assert isinstance(tower, TextTransformer)
        rows = tower.words.weight[torch.tensor(encoding.ids)]
        assert torch.equal(rows, table[[theirs[token] for token in encoding.tokens]])
    # what is kept beside the texts' words is what the teacher's table puts nearest to them, by name
    known = set(tokenizer_from_json(student.tokenizer_json or "").get_vocab())
    nearest = next(t for t in token_order(teacher, ["a red bar"]) if t.isalpha() and t not in ("a", "red", "bar"))
    assert nearest in known
    assert ("purple" in known) == (vocabulary == "full")


def test_a_factorised_word_table_is_the_best_of_its_rank(teacher: Model) -> None:
    text = TextTower(vocabulary="trimmed", embedding_rank=384)
    section = StudentSection(image=SMALL_IMAGE, text=text, projection="part", embed_dim=24)
    model = build_student(section, teacher, family="dual-encoder", texts=TEXTS, seed=0)
    module = model.part("text").module
    assert isinstance(module, TextTransformer)
    assert module.widen is not None
    source = teacher.part("text").module
    assert isinstance(source, TextTransformer)
    table = module.widen(module.words.weight)
    # at full rank the product is the table itself, to float32 accuracy of the decomposition
    cls = torch.tensor([101])
    assert torch.cdist(source.words(cls), table).min() < 1e-3


def test_inheriting_none_starts_from_random_weights(teacher: Model) -> None:
    one = student(teacher)
    other = build_student(small_student(inherit="none"), teacher, family="dual-encoder", texts=TEXTS, seed=1)
    assert not torch.equal(one.part("text").module.words.weight, other.part("text").module.words.weight)  # type: ignore[union-attr, arg-type]


def test_layers_are_taken_by_even_stride() -> None:
    assert strided(3, 6) == [0, 2, 5]
    assert strided(2, 6) == [0, 5]
    assert strided(1, 6) == [0]
    assert strided(6, 6) == [0, 1, 2, 3, 4, 5]


def test_importance_is_the_norm_of_a_row() -> None:
    assert important(torch.tensor([[1.0, 0], [3, 0], [0, 2]]), 2).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no-folder", r"model.json: can't be read .*expected a folder saved by edgemm"),
        ("not-json", r"model.json: not JSON"),
        ("format", r"format 99, this edgemm reads 1"),
        ("field", r"not a model description \(KeyError: 'outputs'\)"),
        ("kind", r"part kind 'gpt' is unknown; expected one of image-frontend"),
        ("no-config", r"not a model description \(TypeError: config of part 'text' is no object\)"),
        ("config", r"part kind 'text-transformer': config .* doesn't fit"),
        ("truncated", r"weights.safetensors: can't be read"),
        ("missing", r"part 'text': 'norm.weight' is missing \(1 such\)"),
        ("extra", r"part 'text': unexpected 'more' "),
        ("foreign-part", r"'other/x' belongs to no part"),
        ("dimensions", r"'norm.weight': expected 1 dimensions of torch.float32, got 2"),
        ("dtype", r"'norm.weight': expected 1 dimensions of torch.float32, got 1 of torch.float16"),
        ("tokenizer", r"tokenizer.json is missing, and the model takes text"),
    ],
)
def test_a_corrupt_or_foreign_checkpoint_is_one_clear_line(
    teacher: Model, tmp_path: Path, damage: str, message: str
) -> None:
    save_model(student(teacher), tmp_path)
    text = (tmp_path / "model.json").read_text()
    weights = tmp_path / "weights.safetensors"
    state = load_file(weights)
    content = json.loads(text)
    part = next(p for p in content["parts"] if p["name"] == "text")
    if damage == "no-folder":
        (tmp_path / "model.json").unlink()
    elif damage == "not-json":
        (tmp_path / "model.json").write_text(text[:50])
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "tokenizer":
        (tmp_path / "tokenizer.json").unlink()
    elif damage in ("format", "field", "kind", "config", "no-config"):
        if damage == "format":
            content["format"] = 99
        elif damage == "field":
            del content["outputs"]
        elif damage == "kind":
            part["kind"] = "gpt"
        elif damage == "no-config":
            part["config"] = []
        else:
            part["config"]["colour"] = 1
        (tmp_path / "model.json").write_text(json.dumps(content))
    else:
        norm = state["text/norm.weight"]
        if damage == "missing":
            del state["text/norm.weight"]
        elif damage == "extra":
            state["text/more"] = torch.zeros(1)
        elif damage == "foreign-part":
            state["other/x"] = torch.zeros(1)
        elif damage == "dimensions":
            state["text/norm.weight"] = norm[None].clone()
        else:
            state["text/norm.weight"] = norm.half()
        save_file(state, weights)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "section", "message"),
    [
        ("triple-encoder", {}, r"family 'triple-encoder' is unknown; expected one of dual-encoder, fusion-classifier"),
        ("dual-encoder", {"text": {"max_tokens": 8}}, r"text tower: no tokenizer; name weights that have one"),
        ("fusion-classifier", {}, r"the data has no labels"),
        (
            "dual-encoder",
            {"image": {"output": "tokens"}},
            r'dual-encoder: the image tower needs output = "pooled"',
        ),
        ("dual-encoder", {"text": {"weights": "package:minilm-l6", "vocabulary": "trimmed"}}, r"needs texts"),
        (
            "dual-encoder",
            {"text": {"weights": "package:minilm-l6", "layers": 2}},
            r"do layers and embedding_rank match",
        ),
        (
            "dual-encoder",
            {"text": {"weights": "package:minilm-l6", "ffn": 64}},
            r"is \[1536\] in the checkpoint, \[64\] in the tower",
        ),
    ],
)
def test_a_section_that_contradicts_itself_is_told(family: str, section: dict[str, object], message: str) -> None:
    values = {"image": {}, "text": {"weights": "package:minilm-l6"}, **section}
    with pytest.raises(ModelError, match=message):
        build_model(TeacherSection.model_validate(values), family=family, seed=0)


@pytest.mark.parametrize("name", ["values", "type", "training", "imu.acc"])
def test_a_name_that_torch_keeps_for_itself_is_told(name: str) -> None:
    section = TeacherSection.model_validate({"tensors": {name: {"shape": [2]}}})
    with pytest.raises(ModelError, match=rf"part '{name}': torch takes no part of this name; rename it"):
        build_model(section, family="embedder", seed=0)


def test_a_student_smaller_than_its_own_weights_starts_from_what_matters_most_of_them(teacher: Model) -> None:
    image = ImageTower(weights="package:efficientnet-lite0", input_size=64, blocks=(1, 1, 2), channels=(16, 16, 40))
    text = TextTower(weights="package:minilm-l6", layers=2, ffn=512)
    section = StudentSection(image=image, text=text, embed_dim=16)
    wholes = TeacherSection(image=ImageTower(weights=image.weights), text=TextTower(weights=text.weights))
    student = build_student(section, teacher, family="dual-encoder", seed=0)
    whole = build_model(wholes, family="dual-encoder", seed=1)
    ours, theirs = (
        {f"{part.name}.{k}": v for part in model.chain for k, v in part.module.state_dict().items()}
        for model in (student, whole)
    )

    def same(name: str, of: str, units: torch.Tensor | None = None) -> None:
        torch.testing.assert_close(ours[name], theirs[of] if units is None else theirs[of][units])

    same("image.stem.0.weight", "image.stem.0.weight")
    same("text.words.weight", "text.words.weight")
    for layer, of in ((0, 0), (1, 5)):
        same(f"text.layers.{layer}.attention.query.weight", f"text.layers.{of}.attention.query.weight")
        up = f"text.layers.{of}.up.weight"
        same(f"text.layers.{layer}.up.weight", up, important(theirs[up], 512))


def test_a_student_larger_than_its_own_weights_is_told(teacher: Model) -> None:
    text = TextTower(weights="package:minilm-l6")
    for tower, message in (
        (
            {"image": ImageTower(weights="package:efficientnet-lite0", width=2.0), "text": text},
            r"channels 32, .* 16$",
        ),
        ({"image": ImageTower(weights="package:efficientnet-lite0", features=2048), "text": text}, r"2048, .* 1280$"),
        (
            {"image": ImageTower(weights="package:efficientnet-lite0", depth=2.0), "text": text},
            r"2: blocks 4, .* has 2$",
        ),
        (
            {"image": ImageTower(weights="package:efficientnet-lite0", expand=(6,) * 7), "text": text},
            r"stage 1: expand 6, and the checkpoint has 1$",
        ),
        ({"image": SMALL_IMAGE, "text": text.model_copy(update={"layers": 7})}, r"layers 7, and the checkpoint has 6"),
    ):
        with pytest.raises(ModelError, match=message):
            build_student(StudentSection(**tower), teacher, family="dual-encoder", seed=0)


def test_a_student_deeper_than_its_teacher_keeps_what_has_no_equal() -> None:
    small, deep = (EfficientNetLite(stem=8, blocks=(1, n), channels=(8, 16), expand=(1, 6)) for n in (1, 3))
    drawn = {name: value.clone() for name, value in deep.state_dict().items()}
    inherit_image_(deep, small)
    theirs = small.state_dict()
    for name, value in deep.state_dict().items():
        torch.testing.assert_close(value, theirs.get(name, drawn[name]))
