"""What reaches a terminal or a pipe: nothing that steers it, that its encoding lacks, or that an engine prints."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgemm.pipeline.progress import Bars, Lines
from edgemm.runtime.archive import seal
from edgemm.runtime.columns import table_lines
from edgemm.runtime.fields import printable
from edgemm.runtime.printing import Escaping
from tests import bundles

ROOT = Path(__file__).parents[2]
EVIL = "\x1b]0;title\x07\x9b31m\u202egnp.exe\u2066\nerror: all is well\r\u2028"
SHOWN = r"\x1b]0;title\x07\x9b31m\u202egnp.exe\u2066\nerror: all is well\r\u2028"
HARMLESS = "naïve \u4f60\u597d \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f680 \U0001f3f4\U000e0067 a\u0301"


def run(*arguments: object, module: str = "edgemm.runtime", **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
    )


def test_what_steers_a_terminal_is_escaped_and_letters_of_all_scripts_are_not():
    assert printable(EVIL) == SHOWN
    assert printable(HARMLESS) == HARMLESS


def test_a_stream_escapes_what_steers_and_keeps_line_ends_and_its_own_small_print():
    taken = io.StringIO()
    print(f"a\x1b[31m\u202e\tb\nc \x1b[2msmall\x1b[0m {HARMLESS}", file=Escaping(taken))
    assert taken.getvalue() == f"a\\x1b[31m\\u202e\tb\nc \x1b[2msmall\x1b[0m {HARMLESS}\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "shift_jis", "utf-8"])
def test_a_stream_escapes_what_its_encoding_lacks(encoding: str):
    taken = io.BytesIO()
    text = f"é {HARMLESS} → \ud800"
    with io.TextIOWrapper(taken, encoding=encoding, newline="\n") as stream:
        print(text, file=Escaping(stream), flush=True)
        assert taken.getvalue() == f"{text}\n".encode(encoding, "backslashreplace")


def test_tables_and_progress_keep_a_foreign_name_in_its_line():
    lines = table_lines(["name", EVIL], [[EVIL, "1"]], width=400)
    assert len(lines) == 2
    assert all(SHOWN in line for line in lines)
    for progress in (Lines(taken := io.StringIO(), every_s=0), Bars(taken)):
        taken.seek(0)
        taken.truncate()
        progress.say(f"[red]{EVIL}[/red]")
        assert taken.getvalue() == f"[red]{SHOWN}[/red]\n"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A whole bundle whose gallery's names steer terminals, in letters of other scripts."""
    folder = tmp_path / "bundle"
    manifest = bundles.dual_encoder(folder)
    (folder / "gallery.json").write_text(json.dumps([EVIL, "\U0001f34e apple", "\u0bae\u0bb0\u0bae\u0bcd"]))
    seal(folder, manifest)
    return folder


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
        {"PYTHONIOENCODING": "cp1252:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda e: "-".join(e.values()),
)
def test_answers_come_in_any_encoding_of_standard_output(evil: Path, environment: dict[str, str]):
    answer = run("infer", evil, "--text", "a cat", **environment)
    assert answer.returncode == 0, answer.stderr
    text = answer.stdout.decode("ascii", "backslashreplace")
    assert len(text.splitlines()) == 3
    for name in (SHOWN, r"\U0001f34e apple", r"\u0bae\u0bb0\u0bae\u0bcd"):
        assert name in text
    for verb in ("verify", "inspect"):
        assert run(verb, evil, module="edgemm", **environment).returncode == 0


@pytest.mark.parametrize("module", ["edgemm.runtime", "edgemm"])
def test_an_error_stays_in_its_line_whatever_it_names(evil: Path, module: str):
    name = EVIL.replace("\x1b]0;title\x07", "")
    (evil / name).write_text("x")
    for arguments in (["verify", evil], ["verify", evil / name], ["nonsense\nerror: all is well\x1b[2J"]):
        shown = run(*arguments, module=module)
        assert shown.returncode == 2
        (line,) = shown.stderr.decode().splitlines()
        assert line.startswith("edgemm: error: " if module == "edgemm" else "error: ")
        assert line.isprintable()


LOUD = """
import ctypes
import os
import sys

from edgemm.runtime.engine_onnxruntime import ORTSession

quiet = ORTSession.run

def loud(self, feeds):
    os.write(1, b"from a library's write\\n")
    ctypes.CDLL(None).puts(b"from a library's buffer")
    return quiet(self, feeds)

ORTSession.run = loud
if sys.argv.pop(1) == "edgemm":
    from edgemm.__main__ import main
else:
    from edgemm.runtime.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the C library of the process")
@pytest.mark.parametrize("program", ["edgemm", "edgemm.runtime"])
def test_lines_of_an_engine_never_reach_standard_output(tmp_path: Path, program: str):
    bundles.dual_encoder(tmp_path / "bundle")
    shown = subprocess.run(
        [sys.executable, "-c", LOUD, program, "infer", str(tmp_path / "bundle"), "--text", "a cat", "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "matches" in json.loads(shown.stdout)
    assert b"from a library's write" in shown.stderr
    assert b"from a library's buffer" in shown.stderr


def test_a_graph_that_its_engine_refuses_is_one_line_of_ours_alone(tmp_path: Path):
    """onnxruntime prints its own lines where a graph names bytes that are no text, and logs what it can't run."""
    manifest = bundles.dual_encoder(tmp_path / "bundle")
    graph = tmp_path / "bundle" / "graphs" / "text.onnx"
    data = graph.read_bytes()
    assert b"ReduceMean" in data or b"Gather" in data
    graph.write_bytes(data.replace(b"Gather", b"G\x1b[3\xeer"))
    seal(tmp_path / "bundle", manifest)
    shown = run("infer", tmp_path / "bundle", "--text", "a cat", "--json")
    assert shown.returncode == 2
    assert shown.stdout == b""
    (line,) = shown.stderr.decode().splitlines()
    assert line.startswith("error: target 'cpu', part 'text'")
    assert line.isprintable()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a full device")
@pytest.mark.parametrize("module", ["edgemm.runtime", "edgemm"])
def test_a_standard_output_that_is_full_is_one_line(evil: Path, module: str):
    with Path("/dev/full").open("w") as full:
        shown = subprocess.run(
            [sys.executable, "-m", module, "inspect", str(evil), "--json"],
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert shown.returncode == 2
    assert shown.stderr.endswith("error: no space left on device; free some and run the same command again\n")
    assert len(shown.stderr.splitlines()) == 1
