"""Every code block of README.md and docs/ runs, file by file, in a fresh folder.

- ``python`` blocks run in order, in one process per file.
- ``toml``, ``csv`` and ``python`` blocks whose first line is ``# file: NAME`` are written to that file.
- ``console`` blocks: lines that begin with ``$ `` run in a shell; what follows them is only shown.
  ``make X`` must be a target, ``pip install X`` must name extras that exist, ``git clone`` is the reader's own; what
  ``make quickstart`` runs is compared with the Makefile alone.
  A page whose commands need the quick start's environment says so: ``source .venv/bin/activate``.
A block that matches none of these fails the test, so nothing in the documentation is unchecked.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import install
from edgemm.measure.measurement import read_measurements
from edgemm.measure.table import rows

ROOT = Path(__file__).resolve().parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md")), ROOT / "export" / "BUNDLE.md"]
BLOCK = re.compile(r"^```([^\n`]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = {"text", "json", "mermaid"}  # not code of ours: results, sketches, the manifest's example


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def run(command: list[str] | str, folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),  # never the reader's own folder: an installed script doesn't look there by itself
        "EDGEMM_STORE": str(folder / "store"),
    }
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        shell=isinstance(command, str),
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{command}\nstdout: {done.stdout[-3000:]}\nstderr: {done.stderr[-3000:]}"


def check_install(line: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for names in re.findall(r"(?:edgemm|\.)\[([^\]]*)\]", line):
        missing = set(names.split(",")) - set(extras)
        assert not missing, f"{line}: no extra {missing}"


def check_tutorial(measurements: Path) -> None:
    """What the tutorial's recipe ships finds nearly every shape at once; a random order finds 1 in 24."""
    score = rows(read_measurements(measurements))[-1].score("test", "text→image", "R@1")
    assert score is not None
    assert score.estimate.value >= 0.6  # chance is 0.04; machines differ by a few of the 24 samples


def test_after_make_the_readme_activates_the_environment_before_it_uses_it() -> None:
    lines = [
        line for language, body in blocks(ROOT / "README.md") if language == "console" for line in body.splitlines()
    ]
    first = next(i for i, line in enumerate(lines) if line.startswith("$ edgemm "))
    assert "$ source .venv/bin/activate" in lines[:first]


@pytest.mark.docs
@pytest.mark.timeout(1200)  # the tutorial trains four times, and what a page needs first may take as long again
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_runs(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for folder in ("export", "benchmarks"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    if "out/emoji-search" in page.read_text(encoding="utf-8"):
        shutil.copytree(request.getfixturevalue("small_bundles"), tmp_path / "out")
    script: list[str] = []
    for language, body in blocks(page):
        first = body.splitlines()[0]
        if first.startswith("# file: "):
            (tmp_path / first.removeprefix("# file: ").strip()).write_text(body, encoding="utf-8")
        elif language == "python":
            script.append(body)
            run([sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", "\n".join(script)], tmp_path)
        elif language == "console":
            for line in re.sub(r"\\\n\s*", " ", body).splitlines():
                if not line.startswith("$ "):
                    continue
                command = line.removeprefix("$ ").split("  #")[0].strip()
                if command.startswith("make "):
                    subprocess.run(["make", "-n", *command.split()[1:]], cwd=ROOT, check=True, capture_output=True)
                elif command.startswith(("pip install", "python -m pip install")):
                    check_install(command)
                elif command.startswith("python3 install.py "):
                    assert command.split()[2] in install.SETS
                elif f"$(BIN)/{command}\n" in (ROOT / "Makefile").read_text():
                    pass  # what `make quickstart` runs, which takes minutes
                elif not command.startswith(("git clone", "cd ", "python3 -m venv", "python -m venv", "source ")):
                    run(command, tmp_path)
            if page.name == "tutorial.md" and (tmp_path / "out" / "shapes").exists():
                check_tutorial(tmp_path / "out" / "shapes" / "measurements.jsonl")
        else:
            assert language in SHOWN, f"{page.name}: a '{language}' block that no rule checks: {first}"
