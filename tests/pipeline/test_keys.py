"""Keys: the same for the same work, different for anything that changes the output."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

import edgemm
from edgemm.compress import training_rows
from edgemm.data import open_dataset
from edgemm.pipeline import code_digest, stages
from edgemm.pipeline import planned_stage as planned_stage_module
from edgemm.pipeline.hashing import canonical_json, content_key, files_digest, library_versions
from edgemm.pipeline.key_inputs import portable
from edgemm.pipeline.planned_stage import PlannedStage, run_stages
from edgemm.pipeline.runs import running
from edgemm.pipeline.store import Store
from edgemm.recipe import FUSIONS, TOWERS, DistillConfig, Encoder, Joining, Loss, TeacherSection, load_recipe
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.errors import ModelError
from edgemm.runtime.readers import READERS
from edgemm.stage import Silent
from tests.pipeline.shapes_recipe import RECIPE, write_data, write_recipe

PACKAGE = Path(edgemm.__file__).parent
GPU_TARGET = """
[[targets]]
name = "gpu"
engine = "tensorrt-rtx"
precision = "float16"
compute_capability = "8.6"
"""


def key(**changes):
    given = {"name": "distill", "stage": "distill", "inputs": {"teacher": "teach"}, "config": {"seed": 0, "lr": 0.1}}
    node = PlannedStage(**{**given, **changes.pop("node", {})}, work=lambda inputs, out, context: None)
    return content_key(node.facts(changes.pop("digests", {"teacher": "a" * 64})))


def test_a_key_is_stable():
    # Frozen on purpose: a change of how keys are made throws everybody's store away.
    assert content_key({"b": 1, "a": ["é", 0.5, None]}) == (
        "d28242c02a4f519c442e654428047c8dbb47e0f6ddf6a71dc87d4b7d111dd266"
    )


def test_the_order_of_keys_changes_nothing():
    assert canonical_json({"a": 1, "b": {"d": 1, "c": 2}}) == canonical_json({"b": {"c": 2, "d": 1}, "a": 1})


def test_everything_that_changes_the_output_changes_the_key():
    keys = [
        key(),
        key(node={"config": {"seed": 1, "lr": 0.1}}),
        key(node={"config": {"seed": 0, "lr": 0.2}}),
        key(node={"libraries": ("numpy",)}),
        key(node={"name": "prune"}),
        key(digests={"teacher": "b" * 64}),
        key(digests={"student": "a" * 64}),
    ]
    assert len(set(keys)) == len(keys)


def test_what_changes_no_output_changes_no_key():
    assert key() == key(node={"makes": "a student"}) == key(node={"collective": True})


def test_a_hub_name_counts_as_its_snapshot_the_first_time_as_well(monkeypatch, tmp_path):
    import huggingface_hub

    cached = []

    def download(name, *, local_files_only=False, **_):
        if local_files_only and not cached:
            raise FileNotFoundError("not cached")
        cached.append(name)
        return str(tmp_path / "snapshots" / "aaa")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    section = TeacherSection(source="hf:someone/clip")
    assert [portable(section)["source"] for _ in range(2)] == ["hf:someone/clip@aaa"] * 2


def test_a_hub_name_that_can_not_be_had_stops_before_anything_is_keyed(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="hf:someone/clip: not in the local cache, and HF_HUB_OFFLINE forbids"):
        portable(TeacherSection(source="hf:someone/clip"))


def test_a_library_that_is_not_installed_is_a_fact_too():
    assert library_versions(["no-such-distribution"]) == {"no-such-distribution": None}


def test_a_digest_depends_on_paths_and_contents_but_not_on_their_order():
    assert files_digest({"a": "1", "b": "2"}) == files_digest({"b": "2", "a": "1"})
    assert files_digest({"a": "1", "b": "2"}) != files_digest({"a": "2", "b": "1"})


# --- the code that does the work -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nodes(tmp_path_factory) -> list[PlannedStage]:
    """Every stage run there is."""
    folder = tmp_path_factory.mktemp("nodes")
    write_data(folder / "data", each=1)
    (folder / "recipe.toml").write_text(RECIPE + GPU_TARGET)
    recipe = load_recipe(folder / "recipe.toml", [])
    return stages.planned_stages(recipe, open_dataset(recipe.data, cache=folder / "cache"))


CHANGED = [
    ("edgemm.compress.losses", "F.kl_div(", "F.kl_div(1 * ", {"teach", "distill", "prune"}),
    ("edgemm.compress.prune", "objective.eval()", "objective.train()", {"prune"}),
    ("edgemm.compress.distill", 'title="distill"', 'title="distil"', {"distill"}),
    ("edgemm.models.text", "class TextTransformer", "class Text(int): ...\n\n\nclass TextTransformer", set()),
    ("edgemm.graph.capture", "max(2, r.min,", "max(3, r.min,", {"capture"}),
    ("edgemm.graph.qdq", "range(", "range(0 + ", {"quantize"}),
    ("edgemm.graph.build", "raise ", "raise Exception from ", {"build"}),
    ("edgemm.runtime.bundle", "SMALLEST_SCALE = 1e-3", "SMALLEST_SCALE = 1e-4", {"draft", "measure", "quantize"}),
    ("edgemm.measure.metrics", "return ", "return 1 * ", {"measure", "pack", "report"}),
    ("edgemm.pipeline.pack", 'f"{zip_name or manifest.name}.zip"', '"x.zip"', {"pack"}),
    ("edgemm.measure.golden", '"int8": 5e-2', '"int8": 6e-2', {"draft"}),
    ("report/template.html", "<", "<!-- --><", {"report"}),
    ("report/tables.html", "{%", "<!-- -->{%", {"report"}),
    ("edgemm.pipeline.store", "def make(", "def make_it(", set()),
    ("edgemm.pipeline.doctor", "return ", "return 1 * ", set()),
]


@pytest.fixture
def after_change(nodes, monkeypatch):
    """The stages whose keys a changed text of a module or template changes."""

    def changed(module: str, change) -> set[str]:
        before = [content_key(node.facts({})) for node in nodes]
        text, source, parsed = code_digest.source_of(module), code_digest.source_of, code_digest._parsed
        assert change(text) != text
        with monkeypatch.context() as patch:
            patch.setattr(code_digest, "source_of", lambda name: change(text) if name == module else source(name))
            if "/" not in module:
                again = parsed.__wrapped__(module)  # the others are parsed once for all tests
                patch.setattr(code_digest, "_parsed", lambda name: again if name == module else parsed(name))
            forget()
            after = [content_key(node.facts({})) for node in nodes]
        forget()
        return {n.name.partition(":")[0] for n, a, b in zip(nodes, before, after, strict=True) if a != b}

    return changed


def forget() -> None:
    for known in (code_digest._reached, code_digest._named_by, code_digest._sha256):
        known.cache_clear()


@pytest.mark.parametrize(("module", "before", "after", "made_anew"), CHANGED)
def test_a_changed_expression_makes_anew_exactly_the_stages_that_run_it(after_change, module, before, after, made_anew):
    assert after_change(module, lambda text: text.replace(before, after, 1)) == made_anew


def test_a_changed_comment_or_docstring_makes_nothing_anew_in_any_file(nodes, monkeypatch):
    before = [content_key(node.facts({})) for node in nodes]
    original = code_digest.source_of

    def commented(name: str) -> str:
        text = original(name)
        if "/" in name:
            return text
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and ast.get_docstring(node) is not None:
                node.body[0] = ast.Expr(ast.Constant("Another docstring."))
        return ast.unparse(tree) + "\n# another comment, and none of those that were there\n"

    with monkeypatch.context() as patch:
        patch.setattr(code_digest, "source_of", commented)
        patch.setattr(code_digest, "_parsed", cache(code_digest._parsed.__wrapped__))
        forget()
        after = [content_key(node.facts({})) for node in nodes]
    forget()
    assert after == before


@pytest.mark.corridor
def test_nothing_runs_that_is_not_counted(tmp_path):
    """Takes a small recipe through every stage and notes what of edgemm is called: a key must hold all of it."""
    recipe = load_recipe(write_recipe(tmp_path), ["measure.seconds=0.05", "teach.epochs=1", "distill.epochs=1"])
    called: dict[str, set[tuple[str, int]]] = {}

    def noting(node: PlannedStage) -> PlannedStage:
        def work(inputs, out, context):
            found = called.setdefault(node.name, set())

            def note(frame, event, argument):
                ran = frame.f_code
                # bodies of classes and modules run when they are imported
                if event == "call" and ran.co_flags & inspect.CO_OPTIMIZED:
                    found.add((ran.co_filename, ran.co_firstlineno))

            threading.setprofile(note)
            sys.setprofile(note)
            try:
                node.work(inputs, out, context)
            finally:
                sys.setprofile(None)
                threading.setprofile(None)

        return replace(node, work=work)

    planned = stages.planned_stages(recipe, open_dataset(recipe.data, cache=tmp_path / "cache"))
    once = {node.work.func: node for node in planned}.values()  # what is captured three times is noted once: it is slow
    with running(Store(tmp_path / "store"), "toy", recipe="toy", overrides=()) as noted:
        ahead = [noting(node) if node in once else node for node in planned]
        run_stages(ahead, store=Store(tmp_path / "store"), run=noted, progress=Silent())
    for node in once:
        counted = code_digest.places_run(node.work)
        ran = {place for file, line in called[node.name] if (place := _definition_at(file, line)) is not None}
        assert len(ran) > 10, node.name
        assert sorted(ran - counted) == [], node.name


def _definition_at(filename: str, line: int) -> code_digest.Place | None:
    """The definition at the top of one of edgemm's modules that a line lies in; None for what else there is."""
    file = Path(filename)
    if not file.is_relative_to(PACKAGE):
        return None
    module = "edgemm." + file.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".").removesuffix(
        ".__init__"
    )
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
        if first <= line <= statement.end_lineno and (names := list(code_digest._defined_by(statement))):
            return module, names[0]
    return None


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of one's own, and what makes the nodes of a recipe whose student has a fusion and a tower from it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(FUSIONS, "maximum", Joining("my_fusion:Maximum", "the side that says most"))
    monkeypatch.setitem(TOWERS["image"], "mine", Encoder("my_tower:Mine", "a tower of one's own"))
    for name in ("my_fusion", "my_tower", "my_loss", "my_factory"):
        (tmp_path / f"{name}.py").write_text("")
    write_data(tmp_path / "data", each=1)
    (tmp_path / "recipe.toml").write_text(RECIPE)

    def keys_of(*changes: str, **sections) -> dict[str, str]:
        recipe = load_recipe(tmp_path / "recipe.toml", list(changes)).model_copy(update=sections)
        made = stages.planned_stages(recipe, open_dataset(recipe.data, cache=tmp_path / "cache"))
        return {node.name: content_key(node.facts({})) for node in made}

    return tmp_path, keys_of


class OwnLosses(DistillConfig):
    mine: Annotated[float, Loss("my_loss:mine", "embeddings")] = Field(0.0, ge=0)


STUDENTS = {"distill", "capture:student", "prune", "capture:pruned"}


@pytest.mark.parametrize(
    ("module", "changes", "made_anew"),
    [
        ("my_fusion", ["student.fusion.mode=maximum"], STUDENTS),
        ("my_tower", ["student.image.kind=mine"], STUDENTS),
        ("my_loss", [], STUDENTS),
        ("my_factory", ["teacher.source=python:my_factory:make"], {"teach", "capture:teacher", "pack", *STUDENTS}),
        ("my_tower", [], set()),
    ],
)
def test_a_changed_module_of_ones_own_changes_the_keys_of_the_stages_that_run_it(own, module, changes, made_anew):
    folder, keys_of = own
    sections = {"distill": OwnLosses(mine=1.0)} if module == "my_loss" else {}
    before = keys_of(*changes, **sections)
    (folder / f"{module}.py").write_text("# changed\n")
    after = keys_of(*changes, **sections)
    assert {name for name in before if before[name] != after[name]} == made_anew


def test_a_changed_engine_or_modality_of_ones_own_changes_the_keys_of_the_stages_that_run_it(own, monkeypatch):
    folder, keys_of = own
    for name, text in (
        ("my_engine", ""),
        ("my_points", "from edgemm.runtime.readers import ImageInput\nclass Points(ImageInput): pass\n"),
    ):
        (folder / f"{name}.py").write_text(text)
    plain = keys_of()
    monkeypatch.setitem(ENGINES, "onnxruntime", ENGINES["onnxruntime"]._replace(session="my_engine:Session"))
    before = keys_of()
    (folder / "my_engine.py").write_text("# changed\n")
    ran = {"quantize", "quantize:teacher", "draft", "measure"}
    assert {name for name in plain if plain[name] != before[name]} >= ran
    assert {name for name, key in keys_of().items() if before[name] != key} == ran
    monkeypatch.setitem(READERS, "points", importlib.import_module("my_points").Points)
    before = keys_of()
    (folder / "my_points.py").write_text("# changed\n")
    assert {name for name, key in keys_of().items() if before[name] != key} >= {"teach", "capture:teacher", *ran}


def test_no_module_writes_what_the_search_for_code_does_not_follow():
    """Relative and starred imports, packages imported by their path, and tables filled from another module."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {a.asname or a.name for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert not node.level, path
                assert all(alias.name != "*" for alias in node.names), path
            elif isinstance(node, ast.Import):
                assert all(alias.asname or not alias.name.startswith("edgemm.") for alias in node.names), path
        for statement in tree.body:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            filled = [t.value.id for t in targets if isinstance(t, ast.Subscript) and isinstance(t.value, ast.Name)]
            assert not imported.intersection(filled), path


def test_a_loss_of_ones_own_without_a_weight_is_in_no_key(own):
    folder, keys_of = own
    before = keys_of(distill=OwnLosses())
    (folder / "my_loss.py").write_text("# changed\n")
    assert keys_of(distill=OwnLosses()) == before


def test_the_options_that_a_tower_of_ones_own_was_given_are_in_the_key(own):
    _, keys_of = own
    mine = keys_of("student.image.kind=mine")
    assert mine["distill"] != keys_of("student.image.kind=mine", "student.image.output=pooled")["distill"]


def test_a_line_that_names_no_module_stops_before_anything_is_keyed(own, monkeypatch):
    monkeypatch.setitem(FUSIONS, "maximum", Joining("no_such_module:Maximum", "the side that says most"))
    with pytest.raises(ModelError, match=r"fusion.mode 'maximum': 'no_such_module:Maximum': can't import 'no_such_mod"):
        own[1]("student.fusion.mode=maximum")


def test_the_teacher_is_quantized_alone_as_what_ships_is_but_for_layers_that_only_the_student_has(own):
    _, keys_of = own
    plain, kept, other = keys_of(), keys_of('quantize.keep_float=["x"]'), keys_of("quantize.method=minmax")
    assert plain["quantize"] != kept["quantize"]
    assert plain["quantize:teacher"] == kept["quantize:teacher"]
    assert plain["quantize:teacher"] != other["quantize:teacher"]
    assert "quantize:teacher" not in keys_of("targets.0.precision=float32")


def test_rows_of_another_module_of_ones_own_are_not_found():
    nodes = [PlannedStage("teach", "teach", {}, {}, lambda *_: None, own_code=own) for own in ((), (("a:A", "1"),))]
    assert content_key(nodes[0].code()) != content_key(nodes[1].code())


def test_rows_that_other_code_cached_are_not_found(tmp_path, monkeypatch):
    caches = []

    def work(inputs, out, context):
        caches.append(context.cache)
        (out / "done").touch()

    def run(name: str) -> None:
        node = PlannedStage(name, "teach", {}, {"name": name}, work, cached_with=(training_rows.made_up_texts,))
        with running(store, "toy", recipe="toy", overrides=()) as noted:
            run_stages([node], store=store, run=noted, progress=Silent())

    store = Store(tmp_path)
    run("teach")
    run("distill")
    monkeypatch.setattr(planned_stage_module, "code_digest", lambda function: "0" * 64)
    run("teach")
    assert caches[0] == caches[1] != caches[2]


def test_rows_of_what_was_made_again_are_not_found_later(tmp_path):
    helper = ["old"]

    def run(epochs: int, *, again: tuple[str, ...] = ()) -> str:
        def work(inputs, out, context):
            row = context.cache / "row"
            if not row.exists():  # as features are kept: by all that is known of what computes them
                row.parent.mkdir(parents=True, exist_ok=True)
                row.write_text(helper[0])
            (out / "made").write_text(row.read_text())

        nodes = [
            PlannedStage(n, n, {}, {"epochs": epochs}, work, own_code=[("mine:make", "1")])
            for n in ("teach", "distill")
        ]
        with running(store, "toy", recipe="toy", overrides=()) as noted:
            made = run_stages(nodes, store=store, run=noted, progress=Silent(), again=again)
        return (made["distill"].artifact.path / "made").read_text()

    store = Store(tmp_path)
    assert run(1) == "old"
    helper[0] = "new"  # what no key knows
    assert run(1) == "old"
    assert run(1, again=("distill",)) == "new"
    helper[0] = "newer"
    assert run(1, again=("teach", "distill")) == "newer"
    assert run(2) == "newer"
