"""The measure stage as a whole, on real bundles: what it writes, what it refuses to show, what it keeps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colour_bundles import classifier, question_samples, retrieval_samples, retriever

from edgemm.data import Sample
from edgemm.measure import accuracy, coldstart, latency, table
from edgemm.measure.coldstart import cold_start
from edgemm.measure.examples import read_examples
from edgemm.measure.fresh_process import run_fresh
from edgemm.measure.latency import measure_latencies, raw_inputs
from edgemm.measure.measurement import Measurements, read_measurements
from edgemm.measure.stage import measure_bundles, target_digest
from edgemm.recipe import MeasureConfig
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, EngineError, EngineNotInstalled
from edgemm.runtime.manifest import Gallery, TargetEntry
from edgemm.runtime.shipped import target_bytes
from edgemm.stage import Context, Silent

FAST = MeasureConfig(seconds=0.05, runs=70, cold_starts=1, examples=2)


class Listening(Silent):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measurements, Listening]:
    root = tmp_path_factory.mktemp("measured")
    teacher = retriever(root / "teacher", wide=64)
    small = retriever(root / "small", noise=0.5, engines=("onnxruntime", "openvino", "tensorrt-rtx"))
    heard = Listening()
    found = measure_bundles(
        {"teacher": teacher, "int8": small},
        splits={"unseen": retrieval_samples(root / "pictures")},
        config=FAST,
        out=root / "out",
        context=Context(scratch=root, cache=root / "cache", progress=heard),
        shown_groups=("a",),
    )
    return root, found, heard


def test_every_target_is_a_row_and_the_gpu_one_says_that_it_was_not_run(
    measured: tuple[Path, Measurements, Listening],
) -> None:
    _, found, heard = measured
    rows = table.rows(found)
    assert [(r.variant, r.target) for r in rows] == [
        ("teacher", "cpu-onnxruntime"), ("int8", "cpu-onnxruntime"), ("int8", "cpu-openvino"), ("int8", "rtx-sm86"),
    ]  # fmt: skip
    plan = rows[-1]
    assert plan.note == "built, not run here"
    assert plan.latency is None
    assert plan.scores == ()
    assert plan.size_bytes > 0
    assert any("rtx-sm86: built, not run here" in line for line in heard.lines)
    assert "built, not run here" in [cell.main for line in table.cells(rows)[1] for cell in line]


def test_latencies_of_all_variants_are_pairs_of_one_run(measured: tuple[Path, Measurements, Listening]) -> None:
    _, found, _ = measured
    whole = [m for m in found.of("latency") if m.subject.startswith(table.END_TO_END)]
    assert {m.subject for m in whole} == {"end to end, text", "end to end, image"}  # nobody asks a search by both
    counts = {len(m.samples) for m in whole}
    assert len(counts) == 1
    assert counts.pop() >= FAST.runs
    rows = table.rows(found)
    assert rows[0].speedup is None
    assert all(r.speedup is not None and r.latency is not None and r.latency.p99 is None for r in rows[1:3])
    assert set(rows[0].part_ms) == {"tokenizer", "image_frontend", "image", "text"}
    assert all(set(r.starts) == {"import", "open", "first"} and r.peak_bytes for r in rows[:3])
    assert found.of("latency", subject=table.IMAGE_DECODING)


def test_every_table_names_the_request_and_that_of_the_headline_comes_first(
    measured: tuple[Path, Measurements, Listening],
) -> None:
    _, found, _ = measured
    rows = table.rows(found)
    assert [(row.request, [r.name for r in row.requests]) for row in rows[:3]] == [("text", ["text", "image"])] * 3
    assert rows[1].latency == rows[1].requests[0].latency
    assert rows[1].speedup == rows[1].requests[0].speedup
    assert [set(r.parts) for r in rows[0].requests] == [{"tokenizer", "text"}, {"image_frontend", "image"}]
    assert table.cells(rows)[0][3:7] == ["p50, text", "faster, text", "p50, image", "faster, image"]
    assert table.part_cells(rows)[0][2:4] == ["end to end, text", "end to end, image"]
    assert {tuple(m.details["request"]) for m in found.of("cold-start")} == {("text",)}


def test_accuracy_has_intervals_and_a_paired_difference(measured: tuple[Path, Measurements, Listening]) -> None:
    _, found, _ = measured
    teacher, small = table.rows(found)[:2]
    best, worse = (r.score("unseen", "text→image", "R@1") for r in (teacher, small))
    assert best is not None
    assert worse is not None
    assert best.estimate.value == 1.0
    assert best.difference is None
    assert worse.estimate.low <= worse.estimate.value <= worse.estimate.high
    assert worse.difference is not None
    assert worse.difference.value == pytest.approx(worse.estimate.value - 1.0)


def test_what_is_written_is_all_that_the_table_needs(measured: tuple[Path, Measurements, Listening]) -> None:
    root, found, _ = measured
    again = read_measurements(root / "out" / "measurements.jsonl")
    assert again == found
    assert table.rows(again) == table.rows(found)
    text = (root / "out" / "measurements.jsonl").read_text()
    assert str(root) not in text  # no paths of this machine in what ships
    examples = read_examples(root / "out")
    assert len(examples) == 2
    assert [[a.variant for a in e.answers] for e in examples] == [["teacher", "int8"]] * 2
    asked_in_words, asked_with_a_picture = examples
    assert all(h.picture.startswith(b"\x89PNG") for a in asked_in_words.answers for h in a.hits)
    assert asked_in_words.answers[0].right
    assert asked_in_words.answers[0].said == asked_in_words.text
    assert asked_with_a_picture.picture.startswith(b"\x89PNG")
    assert asked_with_a_picture.answers[0].said == asked_with_a_picture.truth
    assert not list((root / "out").glob(".*"))


def test_latency_is_never_shown_without_the_accuracy_of_the_same_bytes(
    measured: tuple[Path, Measurements, Listening],
) -> None:
    _, found, _ = measured
    unscored = replace(
        found, measurements=tuple(m for m in found.measurements if m.kind != "ranks" or m.variant != "int8")
    )
    rows = table.rows(unscored)
    assert rows[0].latency is not None
    assert all(r.latency is None and not r.part_ms and not r.starts for r in rows if r.variant == "int8")
    other_bytes = replace(
        found,
        measurements=tuple(replace(m, sha256="0" * 64) if m.kind == "latency" else m for m in found.measurements),
    )
    assert all(r.latency is None for r in table.rows(other_bytes))


def test_quantiles_below_their_sample_floor_are_not_available(measured: tuple[Path, Measurements, Listening]) -> None:
    _, found, _ = measured
    for count, has_p50, has_p90 in ((9, False, False), (63, True, False), (64, True, True)):
        few = tuple(
            replace(m, samples=(m.samples * 20)[:count]) if m.kind == "latency" else m for m in found.measurements
        )
        rows = table.rows(replace(found, measurements=few))
        latency = rows[0].latency
        assert latency is not None
        assert (latency.p50 is not None, latency.p90 is not None) == (has_p50, has_p90)
        _, (line,) = table.cells(rows[:1])
        assert ("n/a" in [cell.main for cell in line]) == (not has_p50)


def test_scores_of_the_same_bytes_are_not_taken_again(
    measured: tuple[Path, Measurements, Listening], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, found, _ = measured

    def never(*_: object, **__: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(accuracy, "score", never)
    again = measure_bundles(
        {"teacher": root / "teacher"},
        splits={"unseen": retrieval_samples(root / "pictures")},
        config=FAST,
        out=tmp_path,
        context=Context(scratch=root, cache=root / "cache"),
        shown_groups=("a",),
    )
    before = found.of("ranks", variant="teacher")
    assert [(m.sha256, m.subject, m.samples) for m in again.of("ranks")] == [
        (m.sha256, m.subject, m.samples) for m in before
    ]
    for kept in (root / "cache" / "scores").iterdir():
        kept.write_text("half a fi")  # torn scores are taken again, never believed
    with pytest.raises(AssertionError, match="scored again"):
        measure_bundles(
            {"teacher": root / "teacher"},
            splits={"unseen": retrieval_samples(root / "pictures")},
            config=FAST,
            out=tmp_path,
            context=Context(scratch=root, cache=root / "cache"),
            shown_groups=("a",),
        )


def test_a_target_carried_along_with_the_same_bytes_is_one_row(tmp_path: Path) -> None:
    one = classifier(tmp_path / "one")
    manifest = open_archive(one).manifest
    twice = replace(manifest, targets=(manifest.targets[0], replace(manifest.targets[0], name="again")))
    seal(one, twice)
    found = measure_bundles(
        {"student": one}, splits={"test": question_samples(tmp_path / "p")}, config=FAST, out=tmp_path / "out",
        context=Context(scratch=tmp_path),
    )  # fmt: skip
    assert [r.target for r in table.rows(found)] == ["cpu-onnxruntime"]
    header, body = table.cells(table.rows(found))
    assert header[-2:] == ["image only", "text only"]
    assert [c.main for c in body[0]][-5] == "100.0 %"
    assert read_examples(tmp_path / "out")[0].answers[0].right


@pytest.mark.parametrize("missing", ["openvino", "tensorrt-rtx"])
def test_an_engine_that_is_not_installed_is_an_error_also_where_it_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str
) -> None:
    bundle = classifier(tmp_path / "b", engines=("onnxruntime", missing))
    from edgemm.runtime import engines

    installed: Callable[[str], bool] = engines.engine_installed
    monkeypatch.setattr(engines, "engine_installed", lambda engine: engine != missing and installed(engine))
    with pytest.raises(EngineNotInstalled, match=rf"{missing} is not installed; pip install"):
        measure_bundles(
            {"student": bundle}, splits={"test": question_samples(tmp_path / "p")}, config=FAST, out=tmp_path / "out",
            context=Context(scratch=tmp_path),
        )  # fmt: skip
    assert not (tmp_path / "out" / "measurements.jsonl").exists()


def test_what_was_never_built_is_no_plan_of_another_machine(tmp_path: Path) -> None:
    bundle = classifier(tmp_path / "b", engines=("onnxruntime", "tensorrt-rtx"))
    manifest = open_archive(bundle).manifest
    cpu, gpu = manifest.targets
    from edgemm.runtime.archive import seal

    def measuring(target: TargetEntry) -> Callable[[], Measurements]:
        seal(bundle, replace(manifest, targets=(cpu, target)))
        samples = question_samples(tmp_path / "p")
        return lambda: measure_bundles(
            {"student": bundle}, splits={"test": samples}, config=FAST, out=tmp_path / "out",
            context=Context(scratch=tmp_path),
        )  # fmt: skip

    for target, message in (
        (replace(gpu, files=cpu.files), r"part '\w+' is graphs/\w+\.onnx, and tensorrt-rtx runs compiled plans"),
        (replace(gpu, fingerprint={}), "its fingerprint lacks engine_version, compute_capability, os"),
    ):
        measure = measuring(target)
        assert [p for p in Bundle.open(bundle).verify().problems if re.search(message, p)]
        with pytest.raises(BundleError, match=message):
            measure()
    with pytest.raises(EngineError, match=r"engine_version 0\.1, this machine has"):  # another version can't load it
        measuring(replace(gpu, fingerprint={**gpu.fingerprint, "engine_version": "0.1"}))()


def test_the_size_counts_each_file_once_and_what_the_target_needs(good_classifier: Path) -> None:
    manifest = open_archive(good_classifier).manifest
    expected = sum(manifest.files[p].bytes for p in manifest.files)
    assert target_bytes(manifest, manifest.targets[0]) == expected  # here everything belongs to the one target
    assert len(target_digest(manifest, manifest.targets[0])) == 64


def test_a_variant_without_a_gallery_is_counted_with_the_one_that_the_others_search_in(tmp_path: Path) -> None:
    teacher, ships = retriever(tmp_path / "teacher"), retriever(tmp_path / "ships", noise=0.5)
    np.save(ships / "gallery.npy", np.ones((3, 8), np.float16))
    (ships / "gallery.json").write_text('["a", "b", "c"]')
    seal(
        ships,
        replace(open_archive(ships).manifest, galleries={"joint": Gallery("gallery.npy", "gallery.json")}, files={}),
    )
    found = measure_bundles(
        {"teacher": teacher, "int8": ships}, splits={"unseen": retrieval_samples(tmp_path / "p")}, config=FAST,
        out=tmp_path / "out", context=Context(scratch=tmp_path),
    )  # fmt: skip
    gallery = sum((ships / name).stat().st_size for name in ("gallery.npy", "gallery.json"))
    for row, path in zip(table.rows(found), (teacher, ships), strict=True):
        manifest = open_archive(path).manifest
        assert row.gallery_bytes == gallery
        assert row.size_bytes == target_bytes(manifest, manifest.targets[0]) + gallery
        assert "search" in row.part_ms  # the teacher looks through the same gallery, so that both do the same
        assert all("search" in request.parts for request in row.requests)
    assert "ships, gallery included" in table.cells(table.rows(found))[0]


def test_the_part_that_int8_spoiled_is_named_and_a_harmless_int8_is_not_blamed(tmp_path: Path) -> None:
    whole, blind, same = classifier(tmp_path / "w"), classifier(tmp_path / "b", blind=True), classifier(tmp_path / "s")
    for path in (blind, same):
        manifest = open_archive(path).manifest
        seal(path, replace(manifest, targets=(replace(manifest.targets[0], precision="int8"),), files={}))
    samples = {"test": question_samples(tmp_path / "p")}
    context = Context(scratch=tmp_path)
    found = measure_bundles(
        {"student": whole, "int8": blind}, splits=samples, config=FAST, out=tmp_path / "out", context=context
    )
    header, body = table.blame_cells(found)
    assert header[:2] == ["back to float32 in int8, cpu-onnxruntime", "regains points of accuracy, test"]
    assert [row[0].main for row in body] == ["head"]
    assert body[0][1].main.startswith("+33.3 [+")
    assert table.rows(found)[1].scores  # what was put back is no score of what ships
    assert all(s.estimate.value < 1 for s in table.rows(found)[1].scores if s.task == "answers")
    quiet = measure_bundles(
        {"student": whole, "int8": same}, splits=samples, config=FAST, out=tmp_path / "quiet", context=context
    )
    assert table.blame_cells(quiet) == ([], [])


def test_a_cold_start_counts_its_own_memory_not_its_parents(good_classifier: Path, tmp_path: Path) -> None:
    ballast = np.ones(50_000_000)  # 400 MB here must not show there
    sample = question_samples(tmp_path)[0]
    started = cold_start(
        good_classifier,
        "cpu-onnxruntime",
        [{"image": str(sample.image), "text": str(sample.text)}],
        threads=1,
    )
    assert ballast.sum() == 50_000_000
    assert 10e6 < started.peak_bytes < 300e6
    assert min(started.import_ns, started.open_ns, started.first_ns) > 0


def test_a_cold_start_that_fails_says_why(good_classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"cold start failed with exit code 1: .*no target 'other'"):
        cold_start(good_classifier, "other", [{"text": "is it red"}], threads=1)


def test_latencies_are_taken_in_a_process_that_did_nothing_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("measured in this process, whose allocator training may have changed")

    monkeypatch.setattr(latency, "measure_latencies", never)
    found = measure_bundles(
        {"student": classifier(tmp_path / "b")}, splits={"test": question_samples(tmp_path / "p")}, config=FAST,
        out=tmp_path / "out", context=Context(scratch=tmp_path),
    )  # fmt: skip
    assert found.of("latency", subject=f"{table.END_TO_END}, image and text")
    loaded = "import sys, edgemm.measure.latency; print([m for m in ('torch', 'edgemm.compress') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"


def test_cold_starts_use_the_threads_that_latency_was_measured_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    def listening(module: str, request: dict[str, Any], **rest: Any) -> Any:
        asked.append(request)
        return run_fresh(module, request, **rest)

    monkeypatch.setattr(coldstart, "run_fresh", listening)
    bundle = classifier(tmp_path / "b")
    manifest = open_archive(bundle).manifest
    seal(bundle, replace(manifest, targets=tuple(replace(target, threads=0) for target in manifest.targets)))
    measure_bundles(
        {"student": bundle}, splits={"test": question_samples(tmp_path / "p")}, config=FAST,
        out=tmp_path / "out", context=Context(scratch=tmp_path), threads=3,
    )  # fmt: skip
    assert [request["threads"] for request in asked] == [3]


def test_progress_of_latency_grows_with_the_rounds(good_classifier: Path, tmp_path: Path) -> None:
    inputs = {"image and text": raw_inputs(question_samples(tmp_path), ("image", "text"))}
    heard: list[tuple[float, str]] = []
    measure_latencies(
        {"a": Bundle.open(good_classifier)}, inputs, seconds=0.05, runs=10,
        on_progress=lambda share, note: heard.append((share, note)),
    )  # fmt: skip
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len([note for _, note in heard if note == "end to end"]) >= 5


def test_all_variants_see_the_same_inputs_in_turn(good_classifier: Path, tmp_path: Path) -> None:
    bundle = Bundle.open(good_classifier)
    inputs = raw_inputs(question_samples(tmp_path), ("image", "text"))
    assert len(inputs) == 16
    asked = {"both": inputs}
    taken = measure_latencies({"a": bundle, "b": Bundle.open(good_classifier)}, asked, seconds=0.02, runs=10)
    assert len(taken.end_to_end["a"]["both"]) == len(taken.end_to_end["b"]["both"]) >= 10
    assert taken.takes["a"]["both"] == list(taken.parts["a"])
    assert set(taken.parts["a"]) == {"tokenizer", "image_frontend", "text", "fusion", "head"}
    assert json.dumps(float(taken.end_to_end["a"]["both"][0]))


@pytest.mark.parametrize(("count", "taken"), [(1, 1), (2, 2), (3, 2), (6, 5), (31, 16), (15, 14), (100, 16)])
def test_the_inputs_of_a_latency_are_spread_and_are_all_timed(count: int, taken: int) -> None:
    inputs = raw_inputs([Sample(str(i), text=f"word {i}") for i in range(count)], ("text",))
    said = [int(given["text"].split()[1]) for given in inputs]
    assert len(said) == taken
    assert said[0] == 0
    assert said[-1] >= count - 1 - count // taken
    timed = {said[(latency.UNTIMED + turn * (latency.UNTIMED + 1)) % taken] for turn in range(3 * taken)}
    assert timed == set(said)


def test_targets_that_differ_in_threads_alone_are_two_rows_of_their_own_latencies(tmp_path: Path) -> None:
    captured, ships = retriever(tmp_path / "a"), retriever(tmp_path / "b")
    manifest = open_archive(ships).manifest
    one = replace(manifest.targets[0], name="one", threads=1)
    seal(ships, replace(manifest, targets=(one, replace(one, name="two", threads=2))))
    found = measure_bundles(
        {"captured": captured, "ships": ships}, splits={"test": retrieval_samples(tmp_path)},
        config=FAST, out=tmp_path / "out", context=Context(tmp_path), threads=1,
    )  # fmt: skip
    shown = {f"{row.variant} {row.target}": row for row in table.rows(found, resamples=50)}
    medians = {
        m.details["threads"]: float(np.median(m.samples)) / 1e6
        for m in found.of("latency", subject=f"{table.END_TO_END}, text")
    }
    assert sorted(medians) == [1, 2]
    for name, threads in (("captured", 1), ("ships one", 1), ("ships two", 2)):
        row = next(row for key, row in shown.items() if key.startswith(name))
        assert row.latency is not None
        assert row.latency.p50 is not None
        assert row.latency.p50.value_ms == pytest.approx(medians[threads])
    assert shown["ships two"].speedup is not None
