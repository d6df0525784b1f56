"""``python -m edgemm.runtime``, and the whole device side in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import bundles
import numpy as np
import pytest

from edgemm.runtime import zip_bundle
from edgemm.runtime.__main__ import main

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
    assert json.loads(capsys.readouterr().out)["format"] == 1
    assert re.search(r"^dual: dual_encoder, 10 files, [\d,]+ bytes unzipped, for all targets together$", out, re.M)


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
        "end to end, text",
        "end to end ",
    ):
        assert f"\n{name}" in out
    assert "p99" in out
    assert main(["bench", str(packed), "--seconds", "0.05", "--text", "a cat", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert set(made["latencies"]) == {"tokenize text", "part text", "end to end"}
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
    assert "python -m edgemm.runtime infer   emoji.bundle.zip" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupt_ends_with_130_and_no_traceback(packed: Path) -> None:
    command = [sys.executable, "-m", "edgemm.runtime", "bench", str(packed), "--seconds", "60"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    time.sleep(4)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of an environment with ``edgemm[text,image]`` from this tree and nothing else."""
    import shutil

    place = tmp_path_factory.mktemp("bare")
    source = place / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    shutil.copytree(ROOT / "edgemm", source / "edgemm", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
    python = place / "venv" / "bin" / "python"
    made = subprocess.run(
        [python, "-m", "pip", "install", "-q", "--no-compile", "--disable-pip-version-check", f"{source}[text,image]"],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return python


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


def test_the_bare_environment_names_the_extra_of_a_missing_engine(bare: Path, packed: Path) -> None:
    made = in_bare(bare, "-m", "edgemm.runtime", "verify", packed, "--target", "openvino")
    assert made.returncode == 2
    assert 'openvino is not installed; pip install "edgemm[openvino]"' in made.stderr
    assert made.stderr.count("\n") == 1
