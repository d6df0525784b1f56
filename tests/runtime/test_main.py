"""``python -m edgemm.runtime``, and the whole device side in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest

from edgemm.runtime import Bundle, Prediction, zip_bundle
from edgemm.runtime.__main__ import main
from edgemm.runtime.archive import seal

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m") / "dual"
    bundles.dual_encoder(folder)
    (folder.parent / "a.png").write_bytes(bundles.png(1))
    return zip_bundle(folder, folder.parent / "dual.zip")


def test_zipping_twice_gives_the_same_bytes(packed: Path, tmp_path: Path) -> None:
    again = zip_bundle(packed.parent / "dual", tmp_path / "again.zip")
    assert again.read_bytes() == packed.read_bytes()
    assert list(tmp_path.iterdir()) == [again]


def test_verify_says_what_was_checked(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(packed)]) == 0
    assert "10 files match their sha256; target 'cpu': 3 golden samples agree" in capsys.readouterr().out
    assert main(["verify", str(packed), "--json", "--target", "openvino"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_inspect_lists_parts_and_targets(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(packed)]) == 0
    out = capsys.readouterr().out
    for word in ("image_frontend", "tower", "openvino", "onnxruntime", "text_embedding"):
        assert word in out
    assert main(["inspect", str(packed), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == 2
    assert re.search(r"^dual: dual_encoder, 10 files, [\d,]+ bytes with all targets and samples$", out, re.M)


def test_infer_prints_matches_best_first(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["infer", str(packed), "--image", str(packed.parent / "a.png"), "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("entry 1")
    assert main(["infer", str(packed), "--text", "a cat", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["outputs"]["text_embedding"]) == bundles.WIDTH
    assert len(made["matches"]) == 3


def test_infer_of_two_queries_prints_the_matches_of_each(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, text = ["--image", str(packed.parent / "a.png")], ["--text", "a cat"]
    alone = []
    for query in (image, text):
        assert main(["infer", str(packed), *query]) == 0
        alone.append(capsys.readouterr().out)
    assert alone[0] != alone[1]
    assert main(["infer", str(packed), *image, *text]) == 0
    assert capsys.readouterr().out == f"by image\n{alone[0]}by text\n{alone[1]}"
    assert main(["infer", str(packed), *image, *text, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert list(made["matches_of"]) == ["image_embedding", "text_embedding"]
    assert made["matches"] == made["matches_of"]["image_embedding"]


def test_infer_takes_arrays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundles.audio_and_sensor(tmp_path / "b")
    np.save(tmp_path / "v.npy", np.ones(6, np.float32))
    assert main(["infer", str(tmp_path / "b"), "--tensor", f"sensor={tmp_path / 'v.npy'}"]) == 0
    assert capsys.readouterr().out.startswith("sensor_embedding (16,): ")


def test_bench_prints_every_part_and_end_to_end(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(packed), "--seconds", "0.2"]) == 0
    out = capsys.readouterr().out
    for name in (
        "decode image",
        "tokenize text",
        "part image_frontend",
        "part text",
        "search",
        "end to end, image",
        "end to end, text",
    ):
        assert f"\n{name}" in out
    assert "p99" in out
    assert "end to end, image and text" not in out  # nobody asks a search by both
    assert "\nhot: one sample again and again" in out
    assert main(["bench", str(packed), "--seconds", "0.05", "--text", "a cat", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["latencies"]) == {"tokenize text", "part text", "search", "end to end, text"}
    assert made["requests"] == {"text": ["text"]}
    assert made["environment"]["cores"] >= 1
    assert made["latencies"]["part text"]["p50"]["value_ms"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["infer"], "nothing to ask; give one or more of --image, --text"),
        (["infer", "--audio", "x.wav"], "takes no audio"),
        (["infer", "--image", "no.png"], "image (no.png): no such file"),
        (["infer", "--text", "a", "--top", "0"], "top: got 0, expected at least 1"),
        (["infer", "--text", " "], "text: the text is empty"),
        (["infer", "--tensor", "x"], "expected NAME=FILE.npy"),
        (["infer", "--txt", "a"], "no such argument: --txt, did you mean '--text'; see 'python -m edgemm."),
        (["verify", "--image", "a"], "no such argument: --image; see 'python -m edgemm.runtime verify --help'"),
        (["infer", "--text", "a", "--target", "npu"], "no target 'npu'"),
        (["infer", "--text", "a", "--threads", "-1"], "threads: got -1"),
        (["bench", "--seconds", "0"], "--seconds 0.0: expected more than 0"),
    ],
)
def test_a_users_error_is_one_line_and_exit_code_2(
    packed: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([arguments[0], str(packed), *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["infer", "--help"], ["bench", "--help"]])
def test_help_shows_examples(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "\nExamples:\n  python -m edgemm.runtime " in capsys.readouterr().out


SAYS_THAT_IT_TIMES = """
import sys
from edgemm.runtime import bench
from edgemm.runtime.__main__ import main

warm_until_stable = bench.warm_until_stable

def told(*given, **more):
    print("timing", flush=True)
    return warm_until_stable(*given, **more)

bench.warm_until_stable = told
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_ends_with_130_and_no_traceback(packed: Path) -> None:
    command = [sys.executable, "-c", SAYS_THAT_IT_TIMES, "bench", str(packed), "--seconds", "60"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert first == "timing\n", err
    assert (process.returncode, out.replace("timing\n", ""), err) == (130, "", "interrupted\n")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this tree to install from."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "edgemm", source / "edgemm", ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    """Python of an environment with ``edgemm`` from this tree and nothing else: numpy and onnxruntime."""
    place = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    install([python], source)
    return python


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory, source: Path, plain: Path) -> Path:
    """Python of an environment that has ``edgemm[text,image,audio]`` in addition."""
    place = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    below, own = (
        Path(subprocess.run([p, "-c", ask], capture_output=True, text=True, check=True).stdout.strip())
        for p in (plain, python)
    )
    (own / "plain.pth").write_text(f"{below}\n")
    install([plain, "--python", python], f"{source}[text,image,audio]")
    return python


def install(pip: list[str | Path], what: str | Path) -> None:
    python, *options = pip
    made = subprocess.run(
        [python, "-m", "pip", *options, "install", "-q", "--no-compile", "--disable-pip-version-check", what],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr


def in_bare(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run([python, *arguments], capture_output=True, text=True, env=environment, cwd=python.parent)


def test_the_bare_environment_verifies_infers_and_benches(bare: Path, packed: Path) -> None:
    for arguments in (
        ["verify"],
        ["inspect"],
        ["infer", "--image", str(packed.parent / "a.png")],
        ["infer", "--text", "a cat"],
        ["bench", "--seconds", "0.1"],
    ):
        made = in_bare(bare, "-m", "edgemm.runtime", arguments[0], str(packed), *arguments[1:])
        assert made.returncode == 0, made.stderr
        assert made.stderr == ""
        assert made.stdout


def test_the_bare_environment_imports_no_workbench(bare: Path, packed: Path) -> None:
    code = (
        "import sys; from edgemm.runtime.__main__ import main; import pkgutil, importlib, edgemm.runtime\n"
        f"assert main(['verify', {str(packed)!r}]) == 0\n"
        f"assert main(['infer', {str(packed)!r}, '--text', 'a', '--image', {str(packed.parent / 'a.png')!r}]) == 0\n"
        "heavy = {'torch', 'transformers', 'onnx', 'pydantic', 'onnx_ir', 'rich', 'typer'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "for module in pkgutil.iter_modules(edgemm.runtime.__path__):\n"
        "    if module.name not in ('engine_openvino', '__main__'):\n"
        "        importlib.import_module('edgemm.runtime.' + module.name)\n"
    )
    made = in_bare(bare, "-W", "error", "-c", code)
    assert made.returncode == 0, made.stderr


def test_the_bare_environment_says_what_installs_a_missing_engine(bare: Path, packed: Path) -> None:
    made = in_bare(bare, "-m", "edgemm.runtime", "verify", packed, "--target", "openvino")
    assert made.returncode == 2
    assert 'openvino is not installed; pip install "openvino>=' in made.stderr
    assert made.stderr.count("\n") == 1


def asked(python: Path, bundle: Path, *arguments: str | Path) -> dict[str, Any]:
    """What ``infer --json`` prints there, with warnings as errors."""
    made = in_bare(python, "-W", "error", "-m", "edgemm.runtime", "infer", bundle, *arguments, "--json")
    assert (made.returncode, made.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(made.stdout)
    return answer


def assert_same(answer: Mapping[str, Any], expected: Prediction) -> None:
    """Two releases of ONNX Runtime may sum in another order."""
    assert answer["outputs"].keys() == expected.outputs.keys()
    for name, value in expected.outputs.items():
        np.testing.assert_allclose(answer["outputs"][name], value[0], rtol=1e-4, atol=1e-5)


def test_a_bundle_of_tensors_predicts_with_numpy_and_onnxruntime_alone(plain: Path, tmp_path: Path) -> None:
    others = "import importlib.util as u; print([m for m in ('PIL', 'tokenizers', 'soundfile') if u.find_spec(m)])"
    assert in_bare(plain, "-c", others).stdout == "[]\n"
    bundles.sensor_classifier(tmp_path / "b")
    vector = np.linspace(-1, 1, 6, dtype=np.float32)
    np.save(tmp_path / "v.npy", vector)
    answer = asked(plain, zip_bundle(tmp_path / "b", tmp_path / "b.zip"), "--tensor", f"sensor={tmp_path / 'v.npy'}")
    expected = Bundle.open(tmp_path / "b").predict(sensor=vector)
    assert_same(answer, expected)
    assert answer["matches"][0][0] == expected.matches[0][0][0]


def test_the_plain_environment_says_what_to_install_for_each_modality(
    plain: Path, packed: Path, tmp_path: Path
) -> None:
    bundles.audio_and_sensor(tmp_path / "sound")
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for bundle, modality, value, package in (
        (packed, "image", packed.parent / "a.png", "Pillow"), (packed, "text", "a cat", "tokenizers"),
        (tmp_path / "sound", "audio", tmp_path / "a.wav", "soundfile"),
    ):  # fmt: skip
        made = in_bare(plain, "-m", "edgemm.runtime", "infer", bundle, f"--{modality}", value)
        assert made.returncode == 2
        assert f'pip install "{package}>=' in made.stderr
        assert made.stderr.count("\n") == 1


def test_the_bare_environment_predicts_from_a_sound(bare: Path, tmp_path: Path) -> None:
    import soundfile

    bundles.audio_and_sensor(tmp_path / "b")
    wave = 0.3 * np.sin(np.arange(12_000) * 0.1)
    soundfile.write(tmp_path / "a.flac", np.stack([wave, wave], 1), 24_000)
    expected = Bundle.open(tmp_path / "b").predict(audio=tmp_path / "a.flac")
    assert_same(asked(bare, tmp_path / "b", "--audio", tmp_path / "a.flac"), expected)


def test_the_bare_environment_answers_without_a_modality_that_something_stands_in_for(
    bare: Path, tmp_path: Path
) -> None:
    bundles.fusion_classifier(tmp_path / "b", placeholders=True)
    (tmp_path / "a.png").write_bytes(bundles.png(3))
    bundle = Bundle.open(tmp_path / "b")
    given = {"image": tmp_path / "a.png", "text": "what is this ?"}
    seen = []
    for kept in (["image"], ["text"], ["image", "text"]):
        answer = asked(bare, tmp_path / "b", *(word for name in kept for word in (f"--{name}", given[name])))
        expected = bundle.predict(**{name: given[name] for name in kept})
        assert_same(answer, expected)
        assert answer["matches"][0][0] == expected.matches[0][0][0]
        seen.append(answer["outputs"]["logits"])
    assert seen[0] != seen[1] != seen[2] != seen[0]


def test_the_bare_environment_embeds_and_predicts_a_quantity(bare: Path, tmp_path: Path) -> None:
    bundles.embedder(tmp_path / "embedder")
    bundles.regression(tmp_path / "regression")
    (tmp_path / "a.png").write_bytes(bundles.png(3))
    answer = asked(bare, tmp_path / "embedder", "--image", tmp_path / "a.png")
    assert_same(answer, Bundle.open(tmp_path / "embedder").predict(image=tmp_path / "a.png"))
    assert np.linalg.norm(answer["outputs"]["image_embedding"]) == pytest.approx(1, abs=1e-5)
    answer = asked(bare, tmp_path / "regression", "--text", "a red house")
    assert_same(answer, Bundle.open(tmp_path / "regression").predict(text="a red house"))
    assert len(answer["outputs"]["value"]) == 1
    for family in ("embedder", "regression"):
        made = in_bare(bare, "-W", "error", "-m", "edgemm.runtime", "verify", tmp_path / family)
        assert (made.returncode, made.stderr) == (0, "")


def test_what_a_bundle_says_does_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "b"
    manifest = bundles.sensor_classifier(folder)
    (held,) = manifest.labels.values()
    labels = json.loads((folder / held).read_text())
    (folder / held).write_text(json.dumps(["\ud800\x1b]0;x\x07\n", *labels[1:]]))
    seal(folder, replace(manifest, provenance={"licence": "\x1b[2J"}))
    np.save(tmp_path / "s.npy", np.zeros(bundles.WIDTH, np.float32))
    shape = manifest.parts[0].signature.inputs[0].shape[1:]
    np.save(tmp_path / "s.npy", np.zeros(shape, np.float32))
    assert main(["infer", str(folder), "--tensor", f"sensor={tmp_path / 's.npy'}", "--top", "99"]) == 0
    assert main(["inspect", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "\\ud800\\x1b]0;x\\x07\\n" in said
    assert "\x1b" not in said


def test_an_answer_that_is_not_finite_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "b"
    manifest = bundles.sensor_classifier(folder)
    shape = manifest.parts[0].signature.inputs[0].shape[1:]
    np.save(tmp_path / "s.npy", np.full(shape, 3e38, np.float32))
    assert main(["infer", str(folder), "--tensor", f"sensor={tmp_path / 's.npy'}", "--json"]) == 2
    assert "output 'logits' is not finite for this sample" in capsys.readouterr().err
