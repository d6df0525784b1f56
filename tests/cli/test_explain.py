"""``edgemm explain`` on real small bundles: a classifier of pictures, texts and sounds, and a retriever."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgemm.__main__ import main
from edgemm.pipeline.explain import explain_bundles
from edgemm.report.explain import render_explanation
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError, InputError
from edgemm.stage import Silent
from tests.attending_bundle import attending_samples, write_attending, write_embedder
from tests.bundles import audio_and_sensor, dual_encoder, png
from tests.pipeline.shapes_recipe import RECIPE

pytestmark = pytest.mark.slow


class Reader(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def edgemm(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert left.value.code == 0


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Two bundles of one architecture, a recipe and its data."""
    folder = tmp_path_factory.mktemp("explain")
    write_attending(folder / "before")
    shutil.copytree(folder / "before", folder / "after")
    _spoil(folder / "after", "head")
    samples = attending_samples(folder / "data", 12)
    rows = [
        {"image": s.image.name, "text": s.text, "audio": s.audio.name, "label": s.label, "group": s.group,
         "split": "train" if i < 2 else "test"}
        for i, s in enumerate(samples)
    ]  # fmt: skip
    (folder / "data" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def _spoil(folder: Path, part: str) -> None:
    """Noise on a part's weights, as a rough compression would leave it."""
    path = folder / "graphs" / "float32" / f"{part}.onnx"
    model = onnx.load(path)
    rng = np.random.default_rng(0)
    for held in model.graph.initializer:
        weight = onnx.numpy_helper.to_array(held)
        if weight.dtype == np.float32:
            noisy = weight + rng.normal(0, 0.3, weight.shape).astype(np.float32)
            held.CopyFrom(onnx.numpy_helper.from_array(noisy, held.name))
    onnx.save(model, path)
    seal(folder, replace(open_archive(folder).manifest, files={}))


@pytest.fixture(scope="module")
def page(models) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        edgemm("explain", "before", "after", "--data", "recipe.toml", "-o", "out")
    return models / "out" / "explain.html"


def test_two_models_stand_side_by_side_on_the_terminal(models, monkeypatch, capsys):
    monkeypatch.chdir(models)
    edgemm("explain", "before", "after", "--data", "recipe.toml", "--split", "train", "-o", "printed")
    said = capsys.readouterr().out
    for absent in ("another sample's", "the mean"):
        assert f"train: accuracy, absent: {absent} (2 samples)" in said
    assert re.search(r"before, points +after, points +difference, points", said)
    for row in ("with everything", "image brings", "text brings", "audio brings", "with nothing"):
        assert f"\n{row} " in said
    assert "explain.html" in said


def test_the_page_shows_where_the_models_look_in_every_modality(page):
    found = read(page)
    heat = [i for i in found.of("img") if (i.get("alt") or "").startswith("where it looks")]
    assert len(heat) >= 2
    assert all(str(i["src"]).startswith("data:image/png;base64,") for i in heat)
    assert all(str(a["src"]).startswith("data:audio/wav;base64,") for a in found.of("audio"))
    assert found.of("audio")
    shaded = [s for s in found.of("span") if "color-mix" in (s.get("style") or "")]
    assert len(shaded) >= 10
    strips = [s for s in found.of("svg") if (s.get("aria-label") or "").startswith("Weights over 0.2 s")]
    assert len(strips) >= 2


def test_the_page_asks_nobody_for_anything_and_its_ids_are_unique(page):
    found = read(page)
    for _, attributes in found.found:
        for name in ("src", "href"):
            if name in attributes:
                assert str(attributes[name]).startswith(("data:", "#"))
    assert [tag for tag, _ in found.found].count("script") == 1  # the one that sorts tables, named by the page's policy
    ids = [attributes["id"] for _, attributes in found.found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_same_page_is_written_twice(models, page, monkeypatch):
    monkeypatch.chdir(models)
    edgemm("explain", "before", "after", "--data", "recipe.toml", "-o", "again")
    assert (models / "again" / "explain.html").read_bytes() == page.read_bytes()


def test_a_page_that_was_there_survives_an_error(models, page, monkeypatch, capsys):
    monkeypatch.chdir(models)
    before = page.read_bytes()
    with pytest.raises(SystemExit) as left:
        main(["explain", "before", "--data", "recipe.toml", "--split", "nowhere", "-o", "out"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "edgemm: error: no split 'nowhere' in the data; there are train, test\n"
    assert page.read_bytes() == before
    assert [p.name for p in page.parent.iterdir()] == ["explain.html"]


def test_a_stage_of_a_store_is_taken_by_its_name(models, tmp_path, monkeypatch):
    artifact = tmp_path / "0123abcd"
    shutil.copytree(models / "before", artifact / "content")
    (artifact / "artifact.json").write_text('{"stage": "capture:teacher"}')
    monkeypatch.chdir(models)
    edgemm("explain", str(artifact), "--data", "recipe.toml", "-o", str(tmp_path / "out"))
    assert "What teacher does" in "".join(read(tmp_path / "out" / "explain.html").words)


def test_samples_of_groups_that_may_not_be_shown_are_counted_and_not_shown(models, tmp_path):
    samples = attending_samples(tmp_path, 10)
    samples = [replace(s, text=f"{s.text} {i}") for i, s in enumerate(samples)]  # every text names its sample
    bundles = {"before": Bundle.open(models / "before"), "after": Bundle.open(models / "after")}
    found = explain_bundles(bundles, {"test": samples}, shown_groups=("shown",), progress=Silent())
    shown = {case.example.text for section in found.sections for case in section.cases}
    assert shown
    assert shown <= {s.text for s in samples if s.group == "shown"}
    assert len(found.contributions["test"]["after"].clusters) == 10


def test_only_the_second_models_own_errors_are_under_its_heading(models, tmp_path):
    samples = attending_samples(tmp_path, 16)
    bundles = {"before": Bundle.open(models / "before"), "after": Bundle.open(models / "after")}
    found = explain_bundles(bundles, {"test": samples}, shown_groups=(), progress=Silent())
    titles = [section.title for section in found.sections]
    assert titles == ["Where they look", "What only “after” gets wrong", "The worst errors of “after”"]
    for case in found.sections[1].cases:
        assert [answer.right for answer in case.example.answers] == [True, False]
    for case in found.sections[2].cases:
        assert not case.example.answers[1].right
    for section in found.sections:
        for case in section.cases:
            for answer in case.example.answers:
                assert answer.right == (answer.said == case.example.truth)


def test_a_retriever_shows_its_towers_and_what_it_finds(tmp_path):
    from edgemm.data.dataset import Sample

    texts = ["a cat", "red house", "blue sky", "a dog", "what is this", "red sky"]
    samples = []
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.png").write_bytes(png(i))
        group = "shown" if i % 2 else "hidden"
        samples.append(Sample(str(i), image=tmp_path / f"{i}.png", text=text, label=text, group=group))
    bundles = {}
    for seed, name in enumerate(("first", "second")):
        dual_encoder(tmp_path / name, seed=seed, targets=("cpu",))
        bundles[name] = Bundle.open(tmp_path / name)
    found = explain_bundles(bundles, {"test": samples}, shown_groups=("shown",), progress=Silent())
    (table,) = found.tables()
    assert len(table.rows) == 8
    assert {row[1][0] for row in table.rows} == {"first", "second"}
    assert found.notes[0] == "“first”: no attention found in its graphs, so no maps of where it looks."
    images = next(s for s in found.sections if s.title == "The worst errors of image→text")
    assert {case.example.truth for case in images.cases} <= set(texts[1::2])
    asked = next(s for s in found.sections if s.title == "The worst errors of text→image")
    assert asked.cases
    for case in asked.cases:
        for answer in case.example.answers:
            assert {hit.label for hit in answer.hits} == set(texts[1::2])
            assert answer.right == (answer.said == "rank 1")
        assert not case.example.answers[1].right


def test_a_classifier_beside_a_retriever_is_refused(models, tmp_path):
    dual_encoder(tmp_path / "retriever", targets=("cpu",))
    bundles = {"one": Bundle.open(models / "before"), "two": Bundle.open(tmp_path / "retriever")}
    with pytest.raises(InputError, match="'one' is a classifier, 'two' is a retriever; expected two bundles of one"):
        explain_bundles(bundles, {"test": []}, shown_groups=(), progress=Silent())


@pytest.fixture(scope="module")
def regressors(tmp_path_factory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("regressors")
    write_attending(folder / "before", task="regression")
    shutil.copytree(folder / "before", folder / "after")
    _spoil(folder / "after", "head")
    return {name: Bundle.open(folder / name) for name in ("before", "after")}


def test_a_regression_shows_errors_in_its_own_unit(regressors, tmp_path):
    samples = attending_samples(tmp_path, 30)
    found = explain_bundles(regressors, {"test": samples}, shown_groups=(), progress=Silent())
    titles = [f"test: {measure}, absent: {absent} (30 samples)" for absent in ("another sample's", "the mean")
              for measure in ("negative absolute error", "R²")]  # fmt: skip
    assert [table.title for table in found.tables()] == titles
    table = found.tables()[0]
    assert table.header == ("", "before", "after", "difference")
    assert [row[0][0] for row in table.rows] == [
        "with everything", "image brings", "text brings", "audio brings", "with nothing"
    ]  # fmt: skip
    predicted = {
        name: [float(b.predict(image=s.image, text=s.text, audio=s.audio).outputs["value"][0, 0]) for s in samples]
        for name, b in regressors.items()
    }
    errors = {name: np.abs(np.array(made) - [s.value for s in samples]) for name, made in predicted.items()}
    assert table.rows[0][1][0] == f"−{errors['before'].mean():.2f}"
    where, worst, grown = found.sections
    assert (where.title, worst.title, grown.title) == (
        "Where they look", "The worst errors of “after”", "Where “after” got worse"
    )  # fmt: skip
    order = np.argsort(-errors["after"], kind="stable")[:9]
    shown = [case.example for case in worst.cases]
    wrong = [i for i in order if errors["after"][i] > errors["after"].mean()]
    assert [example.truth for example in shown] == [f"{samples[i].value:g}" for i in wrong]
    for example in shown:
        i = int(float(example.truth) * 4)
        assert example.picture
        assert example.sound
        assert example.text == samples[i].text
        for answer in example.answers:
            assert float(answer.said) == pytest.approx(predicted[answer.variant][i], rel=5e-3, abs=5e-4)
            assert answer.right == (errors[answer.variant][i] <= errors[answer.variant].mean())
            assert answer.detail.startswith("error −" if predicted[answer.variant][i] < samples[i].value else "error +")
    growth = errors["after"] - errors["before"]
    told = [growth[int(float(case.example.truth) * 4)] for case in grown.cases]
    assert told == sorted(told, reverse=True)
    assert min(told, default=1) > 0


def test_a_regression_without_values_is_refused(regressors, tmp_path):
    samples = [replace(s, value=None) for s in attending_samples(tmp_path, 4)]
    with pytest.raises(DataError, match="split 'test': no sample has a value, which a regression is measured by"):
        explain_bundles(regressors, {"test": samples}, shown_groups=(), progress=Silent())


def test_an_embedder_shows_whom_it_takes_for_another(tmp_path):
    write_embedder(tmp_path / "before")
    shutil.copytree(tmp_path / "before", tmp_path / "after")
    _spoil(tmp_path / "after", "image")
    samples = [replace(s, label=f"person {i // 3}") for i, s in enumerate(attending_samples(tmp_path / "data", 21))]
    bundles = {name: Bundle.open(tmp_path / name) for name in ("before", "after")}
    found = explain_bundles(bundles, {"test": samples}, shown_groups=(), progress=Silent())
    assert found.notes == ["An embedder has one modality, so there is no contribution to split."]
    (table,) = found.tables()
    assert table.title == "test: what is found first"
    assert [row[1][0] for row in table.rows] == ["before", "after"]
    (section,) = found.sections
    assert section.title == "The worst errors of “after”"
    assert section.cases
    vectors = {
        name: np.concatenate([b.predict(image=s.image).outputs["embedding"] for s in samples])
        for name, b in bundles.items()
    }
    cosines = {name: (v := each / np.linalg.norm(each, axis=1, keepdims=True)) @ v.T for name, each in vectors.items()}
    labels = np.array([s.label for s in samples])
    margins = []
    for case in section.cases:
        assert case.example.picture
        assert all(seen.heat for seen in case.seen)
        answer = case.example.answers[1]
        assert not answer.right
        assert not answer.hits[0].right
        assert answer.hits[0].picture
        margins.append(float(answer.detail.partition("margin ")[2].replace("−", "-")))
    only = [case.example.answers[0].right for case in section.cases]
    assert only == sorted(only, reverse=True)
    for kind in (True, False):  # each half in the order of its margins
        half = [m for m, o in zip(margins, only, strict=True) if o is kind]
        assert half == sorted(half)
    # The lowest of all, by cosines of single predictions: nobody's nearest is farther from being its own.
    similar = cosines["after"] - 9 * np.eye(len(samples))
    same = labels[:, None] == labels
    lowest = (np.where(same, similar, -9).max(1) - np.where(same, -9, similar).max(1)).min()
    assert min(margins) == pytest.approx(lowest, rel=6e-3)
    assert "there is no contribution to split" in render_explanation(found)


BAD = {
    "no bundle": (("explain", "nothing", "--data", "recipe.toml", "-o", "new"), "nothing"),
    "a third bundle": (
        ("explain", "before", "after", "before", "--data", "recipe.toml", "-o", "new"),
        "before: a third bundle; explain shows one, or two side by side",
    ),
    "a file in the way": (
        ("explain", "before", "--data", "recipe.toml", "-o", "recipe.toml"),
        "recipe.toml: a file; name a folder with --out",
    ),
    "another family": (
        ("explain", "before", "sounds", "--data", "recipe.toml", "-o", "new"),
        "sounds: bundles of different families, ['dual_encoder', 'fusion-classifier']; give two of one model",
    ),
    "no labels": (("explain", "before", "--data", "unlabelled.toml", "-o", "new"), "contributions need labels"),
    "no sound": (
        ("explain", "before", "--data", "silent.toml", "-o", "new"),
        "bundle 'attending', split 'test', sample '3': no audio, and the bundle has no placeholder for it",
    ),
    "a broken record": (("explain", "stored", "--data", "recipe.toml", "-o", "new"), "not the record of a stage"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, models, tmp_path, monkeypatch, capsys):
    for name in ("before", "after", "data"):
        (tmp_path / name).symlink_to(models / name)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    audio_and_sensor(tmp_path / "sounds")
    shutil.copytree(models / "before", tmp_path / "stored" / "content")
    (tmp_path / "stored" / "artifact.json").write_text("[]")
    rows = [json.loads(line) for line in (models / "data" / "samples.jsonl").read_text().splitlines()]
    for name, key in (("unlabelled", "label"), ("silent", "audio")):
        kept = [{k: v for k, v in row.items() if k != key} for row in rows]
        changed = [
            {**row, **{k: str(models / "data" / row[k]) for k in ("image", "audio") if k in row}} for row in kept
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
        (tmp_path / f"{name}.toml").write_text(RECIPE.replace("data/samples.jsonl", f"{name}.jsonl"))
    monkeypatch.chdir(tmp_path)
    arguments, line = BAD[case]
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("edgemm: error: ")
    assert error.count("\n") == 1
    assert line in error
    assert not (tmp_path / "new").exists()


def test_a_placeholder_gets_tables_of_its_own(models, tmp_path):
    folder = tmp_path / "held"
    shutil.copytree(models / "before", folder)
    manifest = open_archive(folder).manifest
    shapes = {"image_features": (1, 16, 16), "text_features": (1, 16), "audio_features": (1, 16)}
    for name, shape in shapes.items():
        np.save(folder / f"{name}.npy", np.zeros(shape, np.float32))
    seal(folder, replace(manifest, placeholders={name: f"{name}.npy" for name in shapes}, files={}))
    samples = attending_samples(tmp_path / "data", 6)
    samples[0] = replace(samples[0], audio=None)
    found = explain_bundles({"held": Bundle.open(folder)}, {"test": samples}, shown_groups=(), progress=Silent())
    assert [table.title for table in found.tables()] == [
        "test: accuracy, absent: another sample's (6 samples)",
        "test: probability of the truth, absent: another sample's (6 samples)",
        "test: accuracy, absent: placeholder (6 samples)",
        "test: probability of the truth, absent: placeholder (6 samples)",
    ]
