"""The recipe: defaults, overrides, paths, messages, schema, and the reference made from it."""

from __future__ import annotations

import inspect
import json
import pkgutil
from pathlib import Path

import pytest

from edgemm.recipe import (
    FUSIONS,
    TOWERS,
    DistillConfig,
    Encoder,
    Joining,
    Recipe,
    docs_from_schema,
    load_recipe,
    nearest,
    path_fields,
    recipe_schema,
)
from edgemm.recipe.contradictions import _READ_BY_FUSIONS
from edgemm.runtime.errors import RecipeError

SECTIONS = "[teacher.image]\n[teacher.text]\n[student.image]\n[student.text]\n"
SMALLEST = f'name = "small"\nfamily = "dual-encoder"\n{SECTIONS}[data]\nkind = "table"\n'
ROOT = Path(__file__).parents[2]


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(SMALLEST)
    return path


def test_the_smallest_recipe_has_defaults_for_the_rest(recipe):
    loaded = load_recipe(recipe)
    assert loaded.stages[0] == "teach"
    assert loaded.targets[0].engine == "onnxruntime"


def test_a_recipe_survives_json(recipe):
    loaded = load_recipe(recipe)
    assert Recipe.model_validate_json(loaded.model_dump_json()) == loaded


def test_set_takes_toml_values_and_bare_words(recipe):
    loaded = load_recipe(
        recipe, ["seed=7", "name=other", "prune.ratios={image=0.5}", "data.evaluate=['a','b']", "targets=[{name='x'}]"]
    )
    assert (loaded.seed, loaded.name) == (7, "other")
    assert loaded.prune.ratios == {"image": 0.5}
    assert loaded.data.evaluate == ("a", "b")
    assert loaded.targets[0].name == "x"


def test_set_reaches_into_a_list_of_targets(recipe):
    recipe.write_text(SMALLEST + '[[targets]]\nname = "a"\n[[targets]]\nname = "b"\n')
    assert load_recipe(recipe, ["targets.1.threads=3"]).targets[1].threads == 3
    with pytest.raises(RecipeError, match="is no index of a list of 2"):
        load_recipe(recipe, ["targets.2.threads=3"])


def test_paths_are_relative_to_the_file_and_those_of_set_to_the_working_folder(recipe):
    weights = SMALLEST.replace("[teacher.text]\n", '[teacher.text]\nweights = "folder:text"\n')
    recipe.write_text(weights + 'root = "data"\n')
    loaded = load_recipe(recipe)
    assert loaded.data.root == str(recipe.parent / "data")
    assert loaded.teacher.text.weights == f"folder:{recipe.parent / 'text'}"
    assert load_recipe(recipe, ["data.root=here"]).data.root == "here"
    assert load_recipe(recipe, ["teacher.text.weights=package:minilm-l6"]).teacher.text.weights == "package:minilm-l6"


def test_a_folder_behind_hf_is_relative_to_the_file_and_a_name_on_the_hub_stays_one(recipe):
    (recipe.parent / "mine" / "bert").mkdir(parents=True)
    recipe.write_text(
        SMALLEST.replace("[teacher.text]\n", '[teacher.text]\nweights = "hf:mine/bert"\n').replace(
            "[student.text]\n", '[student.text]\nweights = "hf:acme/bert"\n'
        )
    )
    loaded = load_recipe(recipe)
    assert loaded.teacher.text.weights == f"hf:{recipe.parent / 'mine' / 'bert'}"
    assert loaded.student.text.weights == "hf:acme/bert"


def test_every_field_that_names_a_place_is_known(recipe):
    weights = SMALLEST.replace("[student.image]\n", '[student.image]\nweights = "file:a.pth"\n')
    recipe.write_text(weights + 'root = "data"\nfiles = { more = "more-*.csv" }\n')
    places = dict(path_fields(load_recipe(recipe, ["data.kind=python:mine:read"])))
    assert places == {
        ("data", "kind"): "python:mine:read",
        ("data", "root"): str(recipe.parent / "data"),
        ("data", "files", "more"): str(recipe.parent / "more-*.csv"),
        ("student", "image", "weights"): f"file:{recipe.parent / 'a.pth'}",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (['family="embedder"'], r"names 2 towers \(image, text\), an embedder has 1 tower"),
        (["student.tensors={sensor={shape=[4]}}"], r"student\.tensors\.sensor: not among data\.tensors"),
        (["data.tensors=['imu.acc']"], r"data\.tensors: got 'imu\.acc', .* say data\.columns\.imu_acc = \"imu\.acc\""),
        (["data.tensors=['sensor']", "student.tensors={sensor={shape=[4]}}"], r"expected the same modalities"),
        (["distill.modality_dropout=0.2"], r"distill\.modality_dropout: needs a fusion-classifier with student"),
        (['data.pairs="p.csv"'], r"data\.pairs: for an embedder, which is measured by verification; a dual-encoder is"),
        (['data.pairs="p.csv"', 'data.kind="datasets"'], r"data\.pairs: for data of kind 'table' or 'folder', got"),
        (
            ['data.kind="tabel"'],
            r"data\.kind: expected one of table, .*, python:module:function, got 'tabel'; did you",
        ),
        (['data.kind="python:readers"'], r"data\.kind: .*expected python:module:function, got \"python:readers\""),
        (["data.options={x=nan}"], r"data\.options: .*expected finite numbers"),
        (['task="regression"'], r"task: 'regression' is for a fusion-classifier"),
        (
            ['family="fusion-classifier"', 'student.fusion.mode="cross-attention"', 'student.fusion.query="txt"'],
            r"student\.fusion\.query: 'txt' is no tower of it; did you mean 'text'",
        ),
        (
            ['student.image.weights="file:a.pth"', 'student.image.kind="mine"'],
            r"student\.image: a tower of kind 'mine' loads no weights; leave out kind or weights",
        ),
        (
            ['teacher.image.weights="python:mine:make"', "teacher.image.stem=8"],
            r"teacher\.image\.\w+: the tower is what python:mine:make makes, which nothing else changes; leave it out",
        ),
        (
            ['teacher.image.weights="python:mine"'],
            r"teacher\.image\.weights: got 'python:mine', expected python:module:fac",
        ),
        (["prune.ratios={image_projection=0.1}"], r"prune\.ratios\.image_projection: no part of the student"),
    ],
)
def test_towers_that_contradict_the_family_are_refused(recipe, changes, message, monkeypatch):
    monkeypatch.setitem(TOWERS["image"], "mine", Encoder("mine:Mine", "a tower of one's own"))
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, changes)


@pytest.mark.parametrize(
    ("scale", "message"),
    [("depth=2.0", r"student\.image\.depth: blocks says that"), ("width=2.0", r"student\.image\.width: channels says")],
)
def test_a_scale_of_what_is_given_is_refused(recipe, scale, message):
    given = ["student.image.blocks=[1,1]", "student.image.channels=[8,16]", "student.image.expand=[1,6]"]
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [*given, f"student.image.{scale}"])


FUSED = ['family="fusion-classifier"', "distill.task=0", "distill.kd=0"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([*FUSED, "distill.feature=0"], r"distill: no loss of a fusion-classifier has a weight; give one a weight"),
        ([*FUSED, "distill.mixed=2"], r"distill\.mixed: .* give distill\.kd a weight, or set it to 0"),
        ([*FUSED, "prune.ratios={head=0.5}"], r"prune\.ratios\.head: no loss of \[distill\] teaches it"),
        (["distill.affinity=0", "distill.interactive=0", "distill.feature=0"], r"distill: no loss of a dual-encoder"),
        ([*FUSED[:1], "distill.extra_texts=9", "distill.feature=0"], r"distill\.extra_texts: nothing compares"),
    ],
)
def test_losses_that_teach_nothing_are_refused(recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, changes)
    load_recipe(recipe, [*FUSED, "prune.ratios={text=0.5}"])  # the towers learn features, the head is the teacher's


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["distill.gram=1"], r"distill\.gram: for a fusion-classifier; a dual-encoder doesn't read it, leave it out"),
        (["distill.kd=0.8"], r"distill\.kd: for a fusion-classifier; a dual-encoder"),
        (["distill.mixed=2"], r"distill\.mixed: for a fusion-classifier; a dual-encoder"),
        (["teach.balance=weights"], r"teach\.balance: for a fusion-classifier; a dual-encoder"),
        (["teach.margin=0.5"], r"teach\.margin: for an embedder; a dual-encoder"),
        ([*FUSED[:1], "distill.hidden=1"], r"distill\.hidden: for a dual-encoder or an embedder; a fusion-classifier"),
        (
            [*FUSED[:1], "task=multi-label", "teach.label_smoothing=0.1"],
            r"label_smoothing: for the task 'single-label'",
        ),
        (
            [*FUSED[:1], "student.fusion.mode=sum", "student.fusion.concat=true"],
            r"student\.fusion\.concat: for mode hada",
        ),
        ([*FUSED[:1], "teacher.fusion.layers=4"], r"fusion\.layers: for mode early; 'hadamard' doesn't read it"),
        (
            [*FUSED[:1], "teacher.fusion.mode=late", "teacher.fusion.heads=2"],
            r"fusion\.heads: for mode cross-attention or early; 'late' doesn't",
        ),
        (
            [*FUSED[:1], "teacher={image={}}", "student={image={}}", "distill.mixed=1"],
            r"distill\.mixed: the student has no text tower",
        ),
    ],
)
def test_an_option_that_nothing_reads_is_refused(recipe, changes, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, changes)


def test_an_option_that_says_what_holds_anyway_is_not_refused(recipe, monkeypatch):
    load_recipe(recipe, ["distill.gram=0", "distill.kd=0.5", "teach.balance=none", "teach.margin=0.3"])
    load_recipe(recipe, [*FUSED[:1], "student.fusion.concat=false", "student.fusion.layers=2", "distill.affinity=0"])
    monkeypatch.setitem(FUSIONS, "maximum", Joining("mine:Maximum", "may read what it likes"))
    load_recipe(recipe, [*FUSED[:1], "student.fusion.mode=maximum", "student.fusion.layers=4"])


def test_what_each_fusion_reads_is_what_its_constructor_takes():
    for mode, joining in FUSIONS.items():
        taken = inspect.signature(pkgutil.resolve_name(joining.made_by)).parameters if joining.made_by else {}
        assert {
            option for option, modes in _READ_BY_FUSIONS.items() if mode in modes
        } == _READ_BY_FUSIONS.keys() & taken


def test_a_mistyped_word_of_a_longer_key_finds_it():
    assert nearest("siez", ["weights", "stem", "input_size"]) == "input_size"
    assert nearest("xyzzy", ["weights", "stem"]) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("teacher.fusion.mode=gatd", r"expected one of hadamard, concat, .*, late, got 'gatd'; did you mean 'gated'\?"),
        (
            "teacher.image.kind=efficient-net",
            r"expected one of efficientnet-lite, got .*; did you mean 'efficientnet",
        ),
        ("teacher.fusion.mode=3", r"teacher\.fusion\.mode: expected a text, got 3"),
    ],
)
def test_a_name_that_is_no_line_of_a_table_gets_the_nearest(recipe, change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe, [change])


def test_a_line_of_a_table_is_a_value_of_the_recipe_and_of_its_reference(recipe, monkeypatch):
    monkeypatch.setitem(FUSIONS, "maximum", Joining("mine:Maximum", "the side that says most"))
    monkeypatch.setitem(TOWERS["image"], "mine", Encoder("mine:Mine", "a tower of one's own"))
    loaded = load_recipe(recipe, ["student.fusion.mode=maximum", "student.image.kind=mine"])
    assert (loaded.student.fusion.mode, loaded.student.image.kind) == ("maximum", "mine")
    assert '`"late"` \\| `"maximum"` |' in docs_from_schema()
    assert "; maximum: the side that says most" in docs_from_schema()
    assert recipe_schema()["$defs"]["ImageTower"]["properties"]["kind"]["enum"] == ["efficientnet-lite", "mine"]


def test_a_key_of_a_subclass_of_distill_is_none_of_a_recipe(recipe):
    """As docs/families.md says of a loss from outside."""

    class Distillation(DistillConfig):
        relations: float = 0.0

    assert Distillation(relations=1).relations == 1
    with pytest.raises(RecipeError, match=r"distill\.relations: unknown key"):
        load_recipe(recipe, ["distill.relations=1"])


def test_two_targets_of_one_name_are_refused(recipe):
    recipe.write_text(SMALLEST + '[[targets]]\nname = "a"\n[[targets]]\nname = "a"\n')
    with pytest.raises(RecipeError, match=r"targets\.1\.name: 'a' is there twice"):
        load_recipe(recipe)


def test_infinity_is_no_number(recipe):
    with pytest.raises(RecipeError, match="finite"):
        load_recipe(recipe, ["teach.learning_rate=inf"])


def test_every_key_has_a_description():
    schema = recipe_schema()
    for section in (schema, *schema["$defs"].values()):
        assert section["description"]
        for name, field in section["properties"].items():
            assert field.get("description"), f"{section['title']}.{name}"


def test_the_schema_is_json_and_takes_no_unknown_key():
    schema = json.loads(json.dumps(recipe_schema()))
    assert schema["additionalProperties"] is False


def test_the_reference_names_every_section():
    text = docs_from_schema()
    for heading in ("## Top level", "## `[data]`", "## `[teacher.image]`", "## `[[targets]]`"):
        assert f"\n{heading}\n" in text


def test_the_committed_reference_is_current():
    committed = ROOT / "docs" / "recipe.md"
    assert committed.read_text(encoding="utf-8") == docs_from_schema(), "run: edgemm schema --markdown > docs/recipe.md"


@pytest.mark.parametrize("path", sorted((ROOT / "export" / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_the_recipes_that_ship_are_valid(path):
    assert load_recipe(path).name == path.stem
