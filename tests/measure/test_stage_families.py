"""The measure stage and the report on the other families: what is kept, what the table shows, what the page draws."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from bundles import audio_and_sensor
from family_bundles import embedder, faces, joint, said_by_three

from edgemm.data.dataset import Pair, Sample
from edgemm.measure import scores, table
from edgemm.measure.examples import read_examples
from edgemm.measure.measurement import Measurements
from edgemm.measure.stage import measure_bundles
from edgemm.measure.verification import verification
from edgemm.recipe import MeasureConfig
from edgemm.report.page import write_report
from edgemm.runtime.prediction import unit
from edgemm.stage import Context, Silent

FAST = MeasureConfig(seconds=0.05, runs=10, cold_starts=1, examples=2)


def measured(folder: Path, variants: dict[str, Path], samples: list[Sample]) -> Measurements:
    context = Context(scratch=folder, cache=folder / "cache", progress=Silent())
    return measure_bundles(variants, splits={"test": samples}, config=FAST, out=folder / "out", context=context)


def page_of(folder: Path, found: Measurements, family: str) -> str:
    rows = table.rows(found, resamples=200)
    examples = read_examples(folder / "out")
    write_report(folder / "r.html", title="t", family=family, rows=rows, measurements=found, examples=examples)
    return (folder / "r.html").read_text(encoding="utf-8")


def test_a_classifier_of_three_shows_what_is_left_without_each(tmp_path: Path) -> None:
    samples = said_by_three(tmp_path)
    found = measured(tmp_path, {"teacher": joint(tmp_path / "a"), "deaf": joint(tmp_path / "b", deaf=True)}, samples)
    header, body = table.cells(table.rows(found, resamples=50))
    assert header[6:] == ["accuracy", "without image", "without text", "without sensor"]
    assert [c.main for c in body[0][6:]] == ["100.0 %"] * 4
    page = page_of(tmp_path, found, "fusion-classifier")
    assert "Does it still look at everything?" in page
    assert "When a modality is missing" in page
    assert "test: accuracy with all, and with some missing" in page
    assert "Confusion of 3 classes. Most often: nothing is confused." in page
    assert "test: answers, class by class" in page
    rows = re.findall(r"<tr><td>(red|green|blue)</td><td>(\d+)</td><td>([^<]+)</td>", page)
    assert rows == [("red", "6", "100.0 %"), ("green", "6", "100.0 %"), ("blue", "6", "100.0 %")]


@pytest.mark.parametrize(("task", "metric"), [("multi-label", "macro average precision"), ("regression", "R²")])
def test_several_labels_and_values_get_their_columns(tmp_path: Path, task: str, metric: str) -> None:
    samples = said_by_three(tmp_path)
    found = measured(tmp_path, {"teacher": joint(tmp_path / "a", task)}, samples)
    header, _ = table.cells(table.rows(found, resamples=50))
    assert header[6] == metric
    headline = table.headline_score(table.rows(found, resamples=50)[0])
    assert headline is not None
    assert (headline.task, headline.metric) == ("answers", metric)
    page = page_of(tmp_path, found, "fusion-classifier")
    assert f"test: {metric} with all, and with some missing" in page
    examples = read_examples(tmp_path / "out")
    assert all(a.right for e in examples for a in e.answers)
    assert {e.truth for e in examples} <= ({"red", "green", "blue"} if task == "multi-label" else {"3", "6", "9"})


def test_an_embedder_shows_its_curve_and_the_pairs_behind_it(tmp_path: Path) -> None:
    people = faces(tmp_path / "faces")
    spoiled = np.diag([1.0, 0.0, 0.0]).astype(np.float32)
    variants = {"teacher": embedder(tmp_path / "a"), "int8": embedder(tmp_path / "b", spoiled=spoiled)}
    found = measured(tmp_path, variants, people)
    header, _ = table.cells(table.rows(found, resamples=50))
    assert header[6:] == ["rank-1", "rank-5", "ROC-AUC"]
    rows = table.rows(found, resamples=50)
    headline = table.headline_score(rows[1])
    assert headline is not None
    assert headline.metric == "rank-1"
    assert headline.difference is not None
    assert headline.difference.value < 0
    examples = read_examples(tmp_path / "out")
    assert len(examples) == 2
    for example in examples:
        assert example.picture.startswith(b"\x89PNG")
        assert not example.text
        for answer in example.answers:
            assert answer.right == (answer.said == example.truth)
            assert [h.right for h in answer.hits] == [h.label == example.truth for h in answer.hits]
            assert sum(h.right for h in answer.hits) <= 3  # of four pictures of one identity: it doesn't find itself
    page = page_of(tmp_path, found, "embedder")
    assert "The mark is that of the nearest; framed is every right one." in page
    assert "48 pairs of one identity, 448 of different ones, of 8 identities; all pairs there are." in page
    assert "True against false accept rate. teacher:" in page
    assert ">100 %</text>" in page
    assert "mathdefault" not in page


def test_the_pairs_that_the_data_names_are_measured_and_said(tmp_path: Path) -> None:
    people = faces(tmp_path / "faces")
    pairs = [Pair("0/0", "0/1", True), Pair("1/0", "1/1", True), Pair("0/0", "1/0", False), Pair("2/0", "3/0", False)]
    context = Context(scratch=tmp_path, cache=tmp_path / "cache", progress=Silent())
    every = {"config": FAST, "out": tmp_path / "out", "context": context, "splits": {"test": people}}
    found = measure_bundles({"it": embedder(tmp_path / "a")}, pairs={"test": pairs}, **every)  # type: ignore[arg-type]
    assert [len(m.samples) for m in found.of("similarities")] == [4]
    page = page_of(tmp_path, found, "embedder")
    assert "2 pairs of one identity, 2 of different ones, of 8 identities; the pairs that the data names." in page
    again = measure_bundles({"it": tmp_path / "a"}, **every)  # type: ignore[arg-type]
    assert [len(m.samples) for m in again.of("similarities")] == [496]  # kept scores are of the pairs that they were of


def test_sounds_and_arrays_are_timed_from_their_files(tmp_path: Path) -> None:
    import soundfile

    audio_and_sensor(tmp_path / "b")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", rng.uniform(-1, 1, 500).astype(np.float32), 8000)
        np.save(tmp_path / f"{i}.npy", rng.normal(size=6).astype(np.float32))
        samples.append(Sample(f"{i}", audio=tmp_path / f"{i}.wav", tensors={"sensor": tmp_path / f"{i}.npy"}))
    found = measured(tmp_path, {"only": tmp_path / "b"}, samples)
    assert {m.subject for m in found.of("latency")} == {
        "end to end, audio", "end to end, sensor", "audio", "sensor"
    }  # fmt: skip
    assert found.of("cold-start", subject="first")[0].samples[0] > 0
    assert {m.details["task"] for m in found.of("ranks")} == {"audio→sensor", "sensor→audio"}
    heard, felt = read_examples(tmp_path / "out")
    assert heard.sound.startswith(b"RIFF")
    assert not heard.answers[0].sound
    assert felt.answers[0].sound.startswith(b"RIFF")
    assert not felt.sound
    assert page_of(tmp_path, found, "dual-encoder").count('<audio controls preload="metadata" src="data:audio/wav') == 2


def test_thousands_of_samples_are_verified_in_seconds() -> None:
    rng = np.random.default_rng(0)
    identity = np.repeat(np.arange(500), 6)
    vectors = rng.standard_normal((500, 64))[identity] + rng.standard_normal((3000, 64))
    samples = [Sample(str(i), text=str(i), label=f"p{k}") for i, k in enumerate(identity)]
    began = time.process_time()  # of this process: another may keep the machine busy
    pairs, ranks = verification("t", samples, "text", unit(vectors.astype(np.float32)))
    assert (len(pairs.samples), len(ranks.samples)) == (20_000, 3000)
    assert "TAR at FAR 0.001" in scores.statistics(pairs)
    assert time.process_time() - began < 20  # a second, here
