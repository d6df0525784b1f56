"""A small real recipe through the whole corridor: what comes out, what is found again, what survives kills."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemm.data import open_dataset
from edgemm.pipeline.run import infer_line, right_names
from edgemm.pipeline.runs import list_runs
from edgemm.pipeline.store import Store
from edgemm.recipe import load_recipe
from edgemm.runtime.archive import open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.shipped import shipped_bytes
from tests.offline import run_offline
from tests.pipeline.shapes_recipe import write_clip, write_recipe
from tests.pipeline.small_disks import mounted, mounted_read_only, needs_mount

pytestmark = pytest.mark.corridor
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
UNMEASURED = (
    'stages=["teach", "distill", "prune", "capture", "quantize", "pack"]'  # every output of these is deterministic
)
DIES = (
    "import sys; from pathlib import Path; from tests.pipeline.three_toy_stages import die_at; "
    "from edgemm.__main__ import main; "
    "die_at(int(sys.argv[1]), Path(sys.argv[2])); main(sys.argv[3:])"
)


def edgemm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgemm", *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """The recipe and its data, the store and the out folder of one whole run."""
    folder = tmp_path_factory.mktemp("corridor")
    write_recipe(folder)
    return folder


@pytest.fixture(scope="module")
def first(ground) -> str:
    """What the whole run printed; it had an empty HOME and no network."""
    (ground / "home").mkdir()
    command = ["-m", "edgemm", "run", ground / "recipe.toml", "--store", ground / "store", "--out", ground / "out"]
    environment = {key: value for key, value in ENVIRONMENT.items() if not key.startswith(("ORT_", "XDG_", "MPL"))}
    shown, asked = run_offline([sys.executable, *command], env={**environment, "HOME": str(ground / "home")})
    assert shown.returncode == 0, shown.stderr
    (ground / "asked").write_text("\n".join(asked or []))
    return shown.stdout


def digests(store: Path, *, run: int = 0) -> dict[str, str]:
    """PlannedStage -> digest of what it made, in the latest finished run (-1: in the first one)."""
    done = [each for each in list_runs(Store(store)) if each["status"] == "done"]
    return {stage["node"]: stage["digest"] for stage in done[run]["stages"]}


def test_a_run_ends_with_table_report_bundle_and_a_line_that_works(ground, first):
    for variant in ("teacher", "teacher, int8 only", "student", "pruned", "int8"):
        assert re.search(rf"^{variant} ", first, re.MULTILINE)
    assert "\x1b" not in first  # no control codes where it isn't a terminal
    assert re.search(r"^capture:pruned .* an ONNX graph for each part of the pruned student \(7 of 12\)$", first, re.M)
    assert re.search(r"^total +(\d+ min )?[\d.]+ s$", first, re.MULTILINE)
    report = (ground / "out" / "report.html").read_text()
    again = f"edgemm run {shlex.quote(str(ground / 'recipe.toml'))}"  # the stored report has no path in it
    assert f"<pre>{html.escape(again)}</pre>" in report
    raw = re.search(r"raw samples of every figure on this page: <code>(.+)</code>", report)
    assert raw is not None
    assert (ground / "out" / raw[1]).is_file()
    line = next(line for line in first.splitlines() if line.startswith("try ")).removeprefix("try").strip()
    answer = subprocess.run(shlex.split(line), env=ENVIRONMENT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.splitlines()) == 5


def test_explain_finds_teacher_bundle_and_data_of_a_run_by_itself(ground, first, tmp_path):
    command = [sys.executable, "-m", "edgemm", "explain", str(ground / "out")]
    shown = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    for name in ("teacher", "out"):
        assert re.search(rf"^text→image +{name} +{name} ", shown.stdout, re.MULTILINE)
    assert (ground / "out" / "explain.html").is_file()


def test_one_machine_gives_the_same_bytes_twice(ground, first, tmp_path):
    shown = edgemm("run", ground / "recipe.toml", "--store", tmp_path / "store", "--until", "quantize")
    assert shown.returncode == 0, shown.stderr
    again, before = digests(tmp_path / "store"), digests(ground / "store")
    assert set(again) == {
        "teach", "distill", "prune", "capture:teacher", "capture:student", "capture:pruned", "quantize:teacher",
        "quantize",
    }  # fmt: skip
    assert again == {node: before[node] for node in again}


@pytest.fixture(scope="module")
def answering(ground, first, tmp_path_factory) -> Path:
    """The bundle with a gallery of its own texts, which find themselves, and the golden ones each other.

    What is learnt in seconds finds one name or none, and which one depends on the CPU.
    """
    folder = tmp_path_factory.mktemp("answering") / "bundle"
    shutil.copytree(ground / "out" / "bundle", folder, copy_function=shutil.copyfile)
    manifest = open_archive(folder).manifest
    labels = json.loads((folder / manifest.galleries["joint"].labels).read_text())
    vectors = Bundle.open(folder).predict(text=labels).outputs["text_embedding"]
    golden = [labels.index(sample.inputs["text"]) for sample in manifest.golden]
    vectors[golden] = vectors[golden[::-1]]
    np.save(folder / manifest.galleries["joint"].embeddings, vectors.astype(np.float16))
    seal(folder, replace(manifest, files={}))
    return folder


def test_a_run_leaves_home_empty_and_looks_up_no_name(ground, first):
    assert list((ground / "home").rglob("*")) == []
    assert (ground / "asked").read_text() == ""


def test_the_line_to_try_asks_what_the_bundle_answers_rightly(ground, answering):
    bundle = answering
    texts = [sample.inputs["text"] for sample in open_archive(bundle).manifest.golden]
    answers = [Bundle.open(bundle).predict(text=text).matches[0][0][0] for text in texts]
    assert shlex.split(infer_line(bundle))[-2:] == ["--text", texts[0]]
    for index, text in enumerate(texts):  # only this one is right
        right = [{answer} if place == index else set() for place, answer in enumerate(answers)]
        assert shlex.split(infer_line(bundle, right))[-2:] == ["--text", text]
    names = {
        sample.label
        for sample in open_dataset(load_recipe(ground / "recipe.toml").data, cache=ground / "cache").split("train")
    }
    found = {name for name in names if Bundle.open(bundle).predict(text=name).matches[0][0][0] == name}
    assert found == names - set(texts)  # no golden sample is answered rightly, but these would be
    assert shlex.split(infer_line(bundle, [set(), set()]))[-1] in found
    dataset = open_dataset(load_recipe(ground / "recipe.toml").data, cache=ground / "cache")
    assert right_names(dataset, ["image", "text"], 2) == [{text} for text in texts]  # here a label is its text


def test_the_sizes_at_the_end_say_what_they_count(ground, first):
    manifest = open_archive(ground / "out" / "bundle").manifest
    assert len(manifest.targets) == 1  # else the line says how many
    files = [path.stat().st_size for path in (ground / "out" / "bundle").rglob("*") if path.is_file()]
    size = r"(\S+) (kB|MB)"
    bundle = re.search(rf"^bundle +\S+ \({size} ships for \S+; {size} with samples\)$", first, re.MULTILINE)
    packed = re.search(rf"^zip +\S+ \({size}: the whole bundle, compressed\)$", first, re.MULTILINE)
    assert re.search(r"^samples +\S+/measurements\.jsonl \(raw", first, re.MULTILINE)
    unit = {"kB": 1e3, "MB": 1e6}
    expected = shipped_bytes(manifest, manifest.targets[0])
    assert float(bundle[1]) * unit[bundle[2]] == pytest.approx(expected, rel=0.01)
    assert float(bundle[3]) * unit[bundle[4]] == pytest.approx(sum(files), rel=0.01)
    looked = edgemm("inspect", ground / "out" / "bundle").stdout
    assert f" {sum(files):,} bytes with all targets and samples" in looked
    assert re.search(rf"^cpu-int8 .* {expected:,}$", looked, re.MULTILINE)
    assert not re.search(r"^pack .*ships", first, re.MULTILINE)  # the stage's folder holds a zip and raw samples too
    zipped = (ground / "out" / "shapes.zip").stat().st_size
    assert float(packed[1]) * unit[packed[2]] == pytest.approx(zipped, rel=0.01)


def test_a_run_that_fails_or_stops_leaves_no_out_folder(ground, tmp_path):
    arguments = ("run", ground / "recipe.toml", "--store", tmp_path / "store", "--out", tmp_path / "new" / "out")
    stopped = edgemm(*arguments, "--set", "teach.epochs=0", "--until", "teach")
    assert stopped.returncode == 0, stopped.stderr
    assert edgemm(*arguments, "--set", "data.root=nowhere.jsonl").returncode == 2
    assert not (tmp_path / "new").exists()


def test_accuracy_on_what_was_trained_on_is_said_to_be_that(ground, tmp_path):
    write_recipe(tmp_path, each=1)
    table = tmp_path / "data" / "samples.jsonl"
    table.write_text(table.read_text().replace('"split": "test"', '"split": "train"'))
    said = "note: accuracy is measured on the samples that are trained on, which says nothing about new ones; hold"
    shown = edgemm("plan", tmp_path / "recipe.toml", "--store", tmp_path / "store", "--no-dry-run")
    assert f"\n{said}" in shown.stdout
    short = ("--set", "teach.epochs=0", "--until", "teach", "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert f"\n{said}" in edgemm("run", tmp_path / "recipe.toml", *short).stdout
    assert "note:" not in edgemm("plan", ground / "recipe.toml", "--store", ground / "none", "--no-dry-run").stdout


def test_bundle_and_zip_are_whole_and_the_same(ground, first):
    for path in (ground / "out" / "bundle", ground / "out" / "shapes.zip"):
        report = Bundle.open(path).verify()
        assert report.ok, report.problems
        assert report.samples == 2
    folder, packed = open_archive(ground / "out" / "bundle"), open_archive(ground / "out" / "shapes.zip")
    assert folder.manifest == packed.manifest
    assert folder.manifest.galleries
    assert folder.manifest.provenance["licence"] == "made for a test"
    assert str(ground) not in json.dumps(folder.manifest.provenance)  # no path of this machine leaves it


def test_what_is_measured_is_what_ships(ground, first):
    from edgemm.measure.measurement import read_measurements
    from edgemm.measure.stage import target_digest

    manifest = open_archive(ground / "out" / "bundle").manifest
    measured = read_measurements(ground / "out" / "measurements.jsonl")
    assert measured.has_accuracy(target_digest(manifest, manifest.targets[0]))


def test_raw_samples_lie_beside_the_bundle_and_their_summary_ships(ground, first):
    from edgemm.measure.measurement import read_measurements

    bundle = open_archive(ground / "out" / "bundle")
    assert read_measurements(ground / "out" / "measurements.jsonl").of("latency")
    assert not (ground / "out" / "bundle" / "measurements.jsonl").exists()
    assert bundle.manifest.measurements == "measurements.json"
    summary = json.loads(bundle.read("measurements.json"))
    shipped = summary["rows"][-1]
    assert shipped["bytes"] == shipped_bytes(bundle.manifest, bundle.manifest.targets[0])
    assert shipped["requests"][0]["p50_ms"]["value"] > 0
    assert shipped["scores"]
    assert summary["environments"]


def test_a_second_run_finds_every_stage_and_takes_seconds(ground, first):
    started = time.monotonic()
    shown = edgemm("run", ground / "recipe.toml", "--store", ground / "store", "--out", ground / "again")
    assert time.monotonic() - started < 20  # 2 s on a machine that does nothing else
    assert shown.returncode == 0, shown.stderr
    stages = [line for line in shown.stdout.splitlines() if re.match(r"[a-z:]+ +(cached|[\d.]+ s) ", line)]
    assert len(stages) >= 10
    assert all(" cached " in line for line in stages)
    assert (ground / "again" / "shapes.zip").read_bytes() == (ground / "out" / "shapes.zip").read_bytes()


def test_moving_the_data_changes_no_key(ground, first, tmp_path):
    for name in ("data", "text", "recipe.toml"):
        source = ground / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shown = edgemm("plan", tmp_path / "recipe.toml", "--store", ground / "store", "--no-dry-run")
    assert shown.returncode == 0, shown.stderr
    assert "to do" not in shown.stdout


@needs_mount
def test_a_plan_reads_a_read_only_store(ground, first, tmp_path):
    if not mounted_read_only(ground / "store", tmp_path / "store"):
        pytest.skip("mounting is not allowed here")
    try:
        shown = edgemm("plan", ground / "recipe.toml", "--store", tmp_path / "store", "--no-dry-run")
        assert shown.returncode == 0, shown.stderr
        assert "to do" not in shown.stdout
    finally:
        subprocess.run(["umount", tmp_path / "store"], check=True)


def test_a_plan_says_what_a_changed_value_makes_anew(ground, first):
    shown = edgemm(
        "plan", ground / "recipe.toml", "--store", ground / "store", "--no-dry-run", "--set", "quantize.samples=8"
    )
    state = {line.split()[0]: line for line in shown.stdout.splitlines() if re.match(r"[a-z:]+ +(cached|to do)", line)}
    assert " cached " in state["prune"]
    assert " cached " in state["capture:pruned"]
    assert " to do " in state["quantize"]
    assert " to do " in state["pack"]


def test_changed_code_is_run_again_and_what_it_does_not_touch_is_found(ground, first, tmp_path):
    # Not the compiled files: other processes may be writing theirs.
    shutil.copytree(ROOT / "edgemm", tmp_path / "edgemm", ignore=shutil.ignore_patterns("__pycache__"))
    changed = tmp_path / "edgemm" / "graph" / "qdq.py"
    command = [sys.executable, "-m", "edgemm", "plan", str(ground / "recipe.toml"), "--store", str(ground / "store")]
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}

    def planned() -> dict[str, str]:
        shown = subprocess.run(
            [*command, "--no-dry-run"], env=environment, cwd=tmp_path, capture_output=True, text=True
        )
        assert shown.returncode == 0, shown.stderr
        return dict(re.findall(r"^([a-z:]+) +(cached|to do) ", shown.stdout, re.MULTILINE))

    changed.write_text(f"# another comment\n{changed.read_text()}\n# and one more\n")
    assert set(planned().values()) == {"cached"}
    changed.write_text(changed.read_text().replace("range(", "range(0 + ", 1))
    state = planned()
    assert (state["prune"], state["quantize"], state["report"]) == ("cached", "to do", "to do")


def test_a_gallery_can_be_the_teachers_and_is_then_what_recall_is_measured_in(ground, tmp_path):
    shown = edgemm(
        "run", ground / "recipe.toml", "--store", ground / "store", "--out", tmp_path / "out",
        "--set", "pack.gallery_encoder=teacher",
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    assert "R@10 text→image, teacher's gallery" in shown.stdout
    bundle = Bundle.open(tmp_path / "out" / "bundle")
    run = next(run for run in list_runs(Store(ground / "store")) if run["status"] == "done")
    key = next(stage["key"] for stage in run["stages"] if stage["node"] == "capture:teacher")
    teacher = Bundle.open(ground / "store" / "artifacts" / key / "content")
    vectors = np.load(tmp_path / "out" / "bundle" / "gallery" / "embeddings.npy")
    place = json.loads((tmp_path / "out" / "bundle" / "gallery" / "labels.json").read_text()).index("a red circle")
    picture = ground / "data" / "red-circle-0.png"
    expected = teacher.predict(image=picture).outputs["image_embedding"][0]
    np.testing.assert_allclose(vectors[place], expected, atol=1e-3)
    assert bundle.predict(text="a red circle").matches[0]


def test_runs_lists_them_and_gc_empties_the_store(ground, first, tmp_path):
    shutil.copytree(ground / "store", tmp_path / "store")
    assert "done" in edgemm("runs", "--store", tmp_path / "store").stdout
    shown = edgemm("gc", "--store", tmp_path / "store", "--limit", "0")
    assert shown.returncode == 0, shown.stderr
    assert not list((tmp_path / "store" / "artifacts").iterdir())


def test_a_damaged_artifact_is_made_again_and_said(ground, first, tmp_path):
    shutil.copytree(ground / "store", tmp_path / "store")
    weights = next((tmp_path / "store" / "artifacts").glob("*/content/weights.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    shown = edgemm("run", ground / "recipe.toml", "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    said = r"^[a-z]+: \S+weights\.safetensors: changed since stage .* made it; made again$"
    assert re.search(said, shown.stdout, re.MULTILINE)
    assert shown.stdout.count(" cached ") >= 9  # its bytes are the same again, and so is what was made from them
    assert digests(tmp_path / "store") == digests(ground / "store", run=-1)


def test_killed_at_many_files_and_resumed_the_bundle_is_the_undisturbed_one(ground, tmp_path):
    arguments = ["run", str(ground / "recipe.toml"), "--set", UNMEASURED, "--out", str(tmp_path / "out")]
    undisturbed = edgemm(*arguments, "--store", tmp_path / "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    kills = 0
    for point in (20, 45, 75, 120, 170, 240):
        shown = subprocess.run(
            [
                sys.executable,
                "-c",
                DIES,
                str(point),
                str(tmp_path / "store"),
                *arguments,
                "--store",
                str(tmp_path / "store"),
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        if shown.returncode == 0:
            break
        assert shown.returncode == -signal.SIGKILL, shown.stderr
        kills += 1
    resumed = edgemm(*arguments, "--store", tmp_path / "store")
    assert resumed.returncode == 0, resumed.stderr
    assert kills >= 4
    assert digests(tmp_path / "store") == digests(tmp_path / "undisturbed")


def shown_on_small_disk(ground: Path, store: Path, out: Path) -> subprocess.CompletedProcess[str]:
    quick = [f"{stage}.epochs=1" for stage in ("teach", "distill")]
    sets = [word for value in (UNMEASURED, *quick) for word in ("--set", value)]
    return edgemm("run", ground / "recipe.toml", *sets, "--store", store, "--out", out)


@needs_mount
def test_a_disk_that_fills_anywhere_in_a_run_is_one_line_and_more_room_lets_it_go_on(ground, tmp_path):
    disk = tmp_path / "disk"
    if not mounted(disk, "size=16k"):
        pytest.skip("mounting is not allowed here")
    stopped = []
    try:
        for kilobytes in (16, 64, 160, 240, 360, 8192):  # rows of the cache, a model, a graph, ...
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            shown = shown_on_small_disk(ground, disk / "store", tmp_path / "out")
            if shown.returncode == 0:
                break
            assert shown.returncode == 2, shown.stderr
            found = re.fullmatch(r"edgemm: error: (\S+): no space left for the store .* are kept\n", shown.stderr)
            assert found, shown.stderr
            stopped.append(found[1])
            assert not list((disk / "store" / "partial").iterdir())
            assert not list((disk / "store").rglob("*.partial"))
    finally:
        subprocess.run(["umount", disk], check=True)
    assert shown.returncode == 0
    assert len(set(stopped)) >= 2, stopped
    assert Bundle.open(tmp_path / "out" / "bundle").verify().ok


@needs_mount
def test_a_full_out_folder_is_one_line_that_names_it(ground, first, tmp_path):
    disk = tmp_path / "disk"
    if not mounted(disk, "size=32k"):
        pytest.skip("mounting is not allowed here")
    try:
        shown = edgemm("run", ground / "recipe.toml", "--store", ground / "store", "--out", disk / "out")
        assert shown.returncode == 2
        assert re.fullmatch(
            rf"edgemm: error: {disk / 'out'}: no space left on device \(0 MB free\); free some, or .* --out\n",
            shown.stderr,
        ), shown.stderr
        assert not list((disk / "out").iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_ctrl_c_ends_at_once_and_says_how_to_go_on(ground, tmp_path):
    command = [sys.executable, "-m", "edgemm", "run", str(ground / "recipe.toml"), "--until", "teach"]
    command += ["--set", "teach.epochs=100000", "--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").glob("scratch/*/*")) and time.monotonic() < deadline:
        time.sleep(0.1)  # a checkpoint: it is training
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "edgemm: interrupted; run the same command again to go on from here\n"
    assert not list((tmp_path / "store" / "partial").iterdir())
    assert list_runs(Store(tmp_path / "store"))[0]["status"] == "interrupted"


def test_ctrl_c_in_a_verb_alone_is_one_line_and_leaves_nothing(ground, tmp_path):
    command = [sys.executable, "-m", "edgemm", "teach", str(ground / "recipe.toml"), "-o", str(tmp_path / "new")]
    process = subprocess.Popen(
        [*command, "--set", "teach.epochs=100000"], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".new.*/scratch/*")) and time.monotonic() < deadline:
        time.sleep(0.1)  # a checkpoint: it is training
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "edgemm: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_takes_random_models_through_every_stage_and_leaves_nothing(ground, tmp_path):
    shown = edgemm("plan", ground / "recipe.toml", "--store", tmp_path / "store")
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"^  quantize +ok ", shown.stdout, re.MULTILINE)
    assert re.search(r"^  target cpu-int8 +answers$", shown.stdout, re.MULTILINE)
    assert "dry run passed" in shown.stdout
    assert not list(tmp_path.iterdir())


def test_a_clip_from_outside_is_a_teacher_through_every_stage(tmp_path):
    recipe = write_recipe(tmp_path)
    clip = write_clip(tmp_path / "clip")
    arguments = ["--store", tmp_path / "store", "--set", f"teacher.source=hf:{clip}", "--set", "teach.freeze=towers"]
    shown = edgemm("plan", recipe, *arguments)
    assert shown.returncode == 2
    assert re.search(r"frozen tower; set teach.epochs = 0 to take the teacher as it is", shown.stderr)
    arguments += ["--set", "teach.epochs=0", "--set", "distill.epochs=2"]
    shown = edgemm("plan", recipe, *arguments, "--set", "student.text.vocabulary=trimmed")
    assert shown.returncode == 2
    assert re.search(r"stage distill: .*can't be trimmed.*vocabulary = \"full\"", shown.stderr)
    shown = edgemm("run", recipe, *arguments, "--out", tmp_path / "out")
    assert shown.returncode == 0, shown.stderr
    assert "distill: image: none of its" in shown.stdout  # an efficientnet has nothing to take from a ViT
    for variant in ("teacher", "teacher, int8 only", "student", "pruned", "int8"):
        assert re.search(rf"^{variant} ", shown.stdout, re.MULTILINE)
    assert Bundle.open(tmp_path / "out" / "bundle").verify().ok
