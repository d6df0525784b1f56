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
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import InputError
from edgemm.stage import Silent
from tests.attending import attending_samples, write_attending
from tests.bundles import audio_and_sensor, dual_encoder, png
from tests.pipeline.small import RECIPE


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
    _spoil_head(folder / "after")
    samples = attending_samples(folder / "data", 12)
    rows = [
        {"image": s.image.name, "text": s.text, "audio": s.audio.name, "label": s.label, "group": s.group,
         "split": "train" if i < 2 else "test"}
        for i, s in enumerate(samples)
    ]  # fmt: skip
    (folder / "data" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def _spoil_head(folder: Path) -> None:
    """Noise on the head's weights, as a rough compression would leave it."""
    path = folder / "graphs" / "float32" / "head.onnx"
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
    assert "train: accuracy, absent: another sample's (2 samples)" in said
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
    assert "script" not in {tag for tag, _ in found.found}
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
    with pytest.raises(InputError, match="one and two: one is a classifier and one is not"):
        explain_bundles(bundles, {"test": []}, shown_groups=(), progress=Silent())


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
