"""Keys: the same for the same work, different for anything that changes the output."""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

import edgemm
from edgemm.data import open_dataset
from edgemm.pipeline import keys, stages
from edgemm.pipeline.facts import portable
from edgemm.pipeline.keys import canonical_json, content_key, files_digest, library_versions, source_files
from edgemm.pipeline.node import Node, run_nodes
from edgemm.pipeline.runs import running
from edgemm.pipeline.store import Store
from edgemm.recipe import FUSIONS, TOWERS, DistillConfig, Encoder, Joining, Loss, TeacherSection, load_recipe
from edgemm.runtime.errors import ModelError
from edgemm.stage import Silent
from tests.pipeline.small import RECIPE, write_data

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
    node = Node(**{**given, **changes.pop("node", {})}, work=lambda inputs, out, context: None)
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
        key(node={"sources": ("compress",)}),
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
def nodes(tmp_path_factory) -> list[Node]:
    """Every stage run there is."""
    folder = tmp_path_factory.mktemp("nodes")
    write_data(folder / "data", each=1)
    (folder / "recipe.toml").write_text(RECIPE + GPU_TARGET)
    recipe = load_recipe(folder / "recipe.toml", [])
    return stages.corridor_nodes(recipe, open_dataset(recipe.data, cache=folder / "cache"))


def test_every_module_and_template_is_known_by_its_bytes():
    found = source_files()
    assert {"recipe/models.py", "graph/passes/clean.py", "report/template.html"} <= set(found)
    for path, sha256 in found.items():
        assert hashlib.sha256((PACKAGE / path).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize(
    ("changed", "made_anew"),
    [
        ("compress/losses.py", {"teach", "distill", "prune"}),
        ("models/text.py", {"teach", "distill", "prune", "capture"}),
        ("graph/qdq.py", {"capture", "quantize", "build"}),
        ("runtime/bundle.py", {"capture", "quantize", "build", "draft", "measure", "pack", "report"}),
        ("measure/metrics.py", {"measure", "report"}),
        ("report/template.html", {"report"}),
        ("pipeline/pack.py", {"draft", "pack"}),
        ("pipeline/doctor.py", set()),
    ],
)
def test_changed_code_changes_the_keys_of_the_stages_that_run_it(nodes, monkeypatch, changed, made_anew):
    before = [content_key(node.facts({})) for node in nodes]
    files = {**source_files(), changed: "0" * 64}
    monkeypatch.setattr(keys, "source_files", lambda: files)
    after = [content_key(node.facts({})) for node in nodes]
    assert {n.name.partition(":")[0] for n, a, b in zip(nodes, before, after, strict=True) if a != b} == made_anew


def test_what_a_stage_imports_is_among_its_sources(nodes):
    """Follows the imports of every work function through the package: a key that forgets code serves stale results."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("edgemm", exclude_type_checking_imports=True, cache_dir=None)
    assert {node.stage for node in nodes} > {"teach", "prune", "build", "measure", "pack"}
    for node in nodes:
        entered = {name for name in _imported_by(node.work) if name in graph.modules}
        assert entered, node.name
        needed = entered.union(*(graph.find_upstream_modules(name) for name in entered)) - {"edgemm"}
        paths = {_path_of(name) for name in needed}
        forgotten = {p for p in paths if not any(p == s or p.startswith(f"{s}/") for s in node.sources)}
        assert not forgotten, f"{node.name} runs {sorted(forgotten)}"


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
        made = stages.corridor_nodes(recipe, open_dataset(recipe.data, cache=tmp_path / "cache"))
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
    nodes = [Node("teach", "teach", {}, {}, lambda *_: None, own_code=own) for own in ((), (("a:A", "1"),))]
    assert content_key(nodes[0].code()) != content_key(nodes[1].code())


def _imported_by(work) -> set[str]:
    """Modules that a function takes names from, by imports of its own and of the module around it."""
    inside = ast.parse(textwrap.dedent(inspect.getsource(work)))
    names = {node.id for node in ast.walk(inside) if isinstance(node, ast.Name)}
    around = ast.parse(inspect.getsource(inspect.getmodule(work))).body
    found = set()
    for tree, every in ((inside, True), *((statement, False) for statement in around)):
        for node in ast.walk(tree) if every else [tree]:
            if isinstance(node, ast.ImportFrom):
                taken = {alias.name for alias in node.names if every or alias.name in names}
                found |= {f"{node.module}.{name}" for name in taken} | ({node.module} if taken else set())
    return found


def _path_of(module: str) -> str:
    path = module.removeprefix("edgemm.").replace(".", "/")
    return f"{path}/__init__.py" if (PACKAGE / path).is_dir() else f"{path}.py"


def test_rows_that_other_code_cached_are_not_found(tmp_path, monkeypatch):
    caches = []

    def work(inputs, out, context):
        caches.append(context.cache)
        (out / "done").touch()

    def run(name: str) -> None:
        node = Node(name, "teach", {}, {"name": name}, work, sources=("compress",))
        with running(store, "toy", recipe="toy", overrides=()) as noted:
            run_nodes([node], store=store, run=noted, progress=Silent())

    store = Store(tmp_path)
    run("teach")
    run("distill")
    changed = {**source_files(), "compress/feeds.py": "0" * 64}
    monkeypatch.setattr(keys, "source_files", lambda: changed)
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

        nodes = [Node(n, n, {}, {"epochs": epochs}, work, own_code=[("mine:make", "1")]) for n in ("teach", "distill")]
        with running(store, "toy", recipe="toy", overrides=()) as noted:
            made = run_nodes(nodes, store=store, run=noted, progress=Silent(), again=again)
        return (made["distill"].artifact.path / "made").read_text()

    store = Store(tmp_path)
    assert run(1) == "old"
    helper[0] = "new"  # what no key knows
    assert run(1) == "old"
    assert run(1, again=("distill",)) == "new"
    helper[0] = "newer"
    assert run(1, again=("teach", "distill")) == "newer"
    assert run(2) == "newer"


def test_a_misspelt_source_is_a_bug_that_shows():
    with pytest.raises(AssertionError, match="the package has no 'compres'"):
        key(node={"sources": ("compres",)})
