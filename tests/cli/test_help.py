"""The command line answers at once, in any environment, and its help is whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGEMM = [sys.executable, "-m", "edgemm"]
VERBS = (
    "run", "plan", "schema", "runs", "gc", "doctor", "verify", "infer", "bench", "inspect", "teach", "distill", "prune",
    "capture", "quantize", "measure", "explain", "pack",
)  # fmt: skip


def edgemm(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEMM, *arguments], cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment}
    )


def test_help_names_every_verb_and_gives_examples():
    shown = edgemm("--help")
    assert shown.returncode == 0
    assert "Examples:" in shown.stdout
    for verb in VERBS:
        assert f"\n  {verb} " in shown.stdout


def test_no_arguments_show_the_help():
    assert edgemm().stdout == edgemm("--help").stdout


def quickest(*command: str) -> float:
    """Seconds of the quickest of a few tries: what else a machine does is none of the command's."""
    taken = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
        taken.append(time.perf_counter() - started)
    return min(taken)


def test_help_takes_at_most_400_ms():
    # On a machine on which Python alone needs more than the 40 ms that it needs on most, as many times as long.
    slower = max(1.0, quickest("-c", "pass") / 0.04)
    assert quickest("-m", "edgemm", "--help") <= 0.4 * slower


def test_help_imports_no_workbench_package():
    code = (
        "import sys, edgemm.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'onnx', 'onnxruntime', 'transformers', 'rich'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0


FORM = re.compile(
    r"Usage: edgemm (?P<verb>\w+) \[OPTIONS\][^\n]*\n"
    r"(\n  [A-Z][^\n]*\n(  [^\n]+\n)*)+"  # paragraphs
    r"\n  Exit codes: 0 done, 2 an error to mend [^\n]*\n[^\n]*\n"
    r"(\nArguments:\n(  [^\n]+\n)+)?"
    r"\nOptions:\n(  [^\n]+\n)+"
    r"\nExamples:\n(  edgemm (?P=verb) ?[^\n]*\n(    --?[^\n]+\n)*)+"
)


@pytest.mark.parametrize("columns", [None, "60"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_of_one_form_in_80_columns(verb, columns, capsys, monkeypatch):
    from edgemm.__main__ import main

    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as left:
        main([verb, "--help"])
    assert not left.value.code
    shown = capsys.readouterr().out
    if columns is None:
        assert FORM.fullmatch(shown), shown
    assert max(map(len, shown.splitlines())) <= int(columns or 80)
    options = re.findall(r"^  (-.*)$", shown.partition("\nOptions:\n")[2].partition("\nExamples:")[0], re.MULTILINE)
    assert options[-1].startswith("-h, --help ")
    assert any(option.startswith("--json ") for option in options)
    text = shown.partition("\nOptions:\n")[2].partition("\nExamples:")[0]
    for said in re.split(r"\n  (?=-)", text)[:-1]:  # capitals and full stops alike
        assert re.search(r"( {2,}|\n *)[A-Z][^\[]*[.](\s*\[[^\]]+\])*\s*$", said), said


@pytest.mark.parametrize("verb", ["verify", "infer", "bench", "inspect"])
def test_the_device_shows_the_help_that_the_workbench_shows(verb, on_device):
    assert edgemm(verb, "--help").stdout == on_device(verb, "--help").stdout


def test_every_example_names_options_that_the_verb_has():
    shown = {verb: edgemm(verb, "--help").stdout for verb in VERBS}
    for verb, text in shown.items():
        options, _, examples = text.partition("\nExamples:\n")
        for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", examples):
            assert re.search(rf"(^|[ ,/]){flag}\b", options, re.MULTILINE), (verb, flag)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("edgemm qu", {"quantize"}),
        ("edgemm run r.toml --ta", {"--target"}),
        ("edgemm infer b.zip --te", {"--text", "--tensor"}),
        ("edgemm verify b.zip --js", {"--json"}),
        ("edgemm quantize m.onnx --engine ", {"onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"}),
        ("edgemm quantize m.onnx --engine op", {"openvino"}),
        ("edgemm run r.toml --until ca", {"capture"}),
    ],
)
def test_a_shell_completes_verbs_and_options_those_of_the_device_too(words, expected):
    asked = {"_EDGEMM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert set(edgemm(**asked).stdout.split()) == expected


@pytest.mark.parametrize("verb", [v for v in VERBS if v not in ("schema", "runs", "gc", "doctor")])
def test_what_a_verb_takes_is_left_to_the_shell_which_completes_files(verb, monkeypatch, capsys):
    from edgemm.cli import run_command

    monkeypatch.setenv("_EDGEMM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"edgemm {verb} ")
    monkeypatch.setenv("COMP_CWORD", "2")
    with pytest.raises(SystemExit):
        run_command([])
    assert capsys.readouterr().out.strip() == ""


def test_completion_can_be_shown_for_a_shell():
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell that is named, not that around the tests
    shown = edgemm("--show-completion", "bash", **named)
    assert "complete -o default -F _edgemm_completion edgemm" in shown.stdout


@pytest.fixture
def on_device(tmp_path):
    """Run edgemm where a finder hides what a device lacks, which is what one looks like to Python."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in {'typer', 'pydantic'}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
    )
    return lambda *arguments: edgemm(*arguments, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")


def test_without_the_workbench_one_line_says_what_to_install(on_device):
    shown = on_device("run", "recipe.toml")
    assert shown.returncode == 2
    assert shown.stderr.startswith("edgemm: error: the workbench is not installed (no typer); pip install ")
    assert shown.stderr.endswith("; without it there are bench, infer, inspect, verify\n")
    assert shown.stderr.count("\n") == 1
    assert f'pip install --editable "{ROOT}[build]"; ' in shown.stderr  # from where it runs: no index has edgemm


def test_without_the_workbench_a_bundle_is_verified_asked_timed_and_shown(on_device):
    bundle = str(ROOT / "tests" / "formats" / "v1" / "bundle")
    shown = on_device("verify", bundle)
    assert shown.returncode == 0, shown.stderr
    assert "match their sha256" in shown.stdout
    assert "onnxruntime" in on_device("inspect", bundle).stdout
    assert on_device("infer", bundle).stderr.startswith("edgemm: error: infer: nothing to ask")
    assert "end to end" in on_device("bench", bundle, "--seconds", "0.01").stdout
    assert "\n  verify   Check a bundle's digests" in on_device("--help").stdout


def test_inspect_gives_the_same_json_with_and_without_the_workbench(on_device):
    arguments = ("inspect", str(ROOT / "tests" / "formats" / "v1" / "bundle"), "--json")
    assert '"format": 2' in edgemm(*arguments).stdout
    assert edgemm(*arguments).stdout == on_device(*arguments).stdout


def test_inspect_shows_the_same_with_the_workbench_and_the_operators_beside(on_device):
    arguments = ("inspect", str(ROOT / "tests" / "formats" / "v1" / "bundle"))
    alone, beside = on_device(*arguments).stdout, edgemm(*arguments).stdout
    assert beside.startswith(alone)
    assert "operators" in beside.removeprefix(alone)


def test_a_reader_that_goes_away_is_no_error():
    shown = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m edgemm schema | head -1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert shown.stdout == "{\n"
    assert shown.stderr == ""


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("schema",), ("runs", "--store"), ("gc", "--limit", "1GB", "--store")]
)
def test_json_is_one_line_on_stdout_and_all_else_on_stderr(arguments, tmp_path):
    (tmp_path / "store" / "artifacts").mkdir(parents=True)
    given = [*arguments, str(tmp_path / "store")] if arguments[-1] == "--store" else arguments
    shown = edgemm(*given, "--json")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("\n") == 1
    assert isinstance(json.loads(shown.stdout), dict)


def test_an_error_leaves_stdout_empty_with_json_too(tmp_path):
    shown = edgemm("runs", "--store", str(tmp_path / "none"), "--json")
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr.startswith("edgemm: error: ")


def test_doctor_names_engines_and_what_to_install():
    shown = edgemm("doctor").stdout
    assert "onnxruntime" in shown
    assert "tensorrt-rtx" in shown


def test_version():
    from edgemm import __version__

    assert edgemm("--version").stdout.startswith(f"edgemm {__version__} ")


def test_an_id_of_a_run_stays_on_one_line(tmp_path):
    store = tmp_path / "store"
    (store / "artifacts").mkdir(parents=True)
    (store / "runs").mkdir()
    name = "20260101-000000-emoji-identities-ab12"
    run = {"id": name, "recipe": "export/recipes/emoji-identities.toml", "status": "failed", "error": "no " * 40}
    (store / "runs" / f"{name}.json").write_text(json.dumps(run))
    shown = edgemm("runs", "--store", str(store), COLUMNS="80").stdout
    assert any(line.split()[:1] == [name] for line in shown.splitlines()), shown
    assert max(map(len, shown.splitlines())) <= 80


def test_with_json_a_table_is_printed_nowhere_and_progress_goes_to_stderr(tmp_path):
    store = tmp_path / "store"
    (store / "artifacts").mkdir(parents=True)
    assert edgemm("runs", "--store", str(store), "--json").stderr == ""
    assert edgemm("doctor", "--json").stderr == ""
    told = edgemm("plan", "export/recipes/emoji-sentiment.toml", "--no-dry-run", "--store", str(store), "--json")
    assert json.loads(told.stdout)["stages"]
    assert told.stderr == "plan: emoji-sentiment, export/recipes/emoji-sentiment.toml; no dry run: seconds\n"


@pytest.mark.parametrize("name", ["clip-search", "image-text-label", "tuxpaint-category", "tuxpaint-search", "vqa-rad"])
def test_a_recipe_that_takes_data_of_ones_own_says_how_to_give_it(name):
    from edgemm.pipeline.plan import plan_recipe
    from edgemm.runtime.errors import DataError

    recipe = ROOT / "export" / "recipes" / f"{name}.toml"
    with pytest.raises(DataError) as told:
        plan_recipe(recipe, (), store=Path("never-made"), targets=(), dry_run=False)
    assert str(told.value).startswith(f"{recipe}: data.root: missing; ")
    assert "add --set data.root=PATH" in str(told.value)


@pytest.mark.parametrize("verb", ["verify", "plan"])
def test_what_is_no_regular_file_is_called_so_and_not_read(verb):
    shown = subprocess.run([*EDGEMM, verb, "/dev/zero"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 2
    assert shown.stderr.startswith("edgemm: error: /dev/zero: not a regular file; ")
