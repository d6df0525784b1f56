"""Installing from the lock: what a bare machine lacks is one line, and what could not run is never taken for run."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import install

ROOT = Path(__file__).parents[2]


def failed(*arguments: str) -> str:
    """What a pip that fails says."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--retries", "1", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    done = subprocess.run(command, env={**environment, "PIP_CONFIG_FILE": os.devnull}, capture_output=True, text=True)
    assert done.returncode
    return done.stdout + done.stderr


def test_a_python_that_is_too_old_can_read_the_script() -> None:
    ast.parse((ROOT / "install.py").read_text(), feature_version=(3, 4))


@pytest.mark.parametrize("version", [(3, 9, 18), (3, 14, 0)])
def test_a_python_of_another_version_is_named_with_what_to_do(
    version: tuple[int, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", version)
    assert install.main(["quickstart"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"install: this is Python 3.{version[1]}; edgemm needs 3.11, 3.12 or 3.13: ")
    assert said.count("\n") == 1


def test_a_python_without_venv_is_named_with_debians_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(install.Problem, match=r"this Python has no venv: apt-get install python3\.\d+-venv"):
        install.make_venv(str(tmp_path / "venv"))


def test_an_environment_that_does_not_work_is_not_installed_into(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    with pytest.raises(install.Problem, match=r"it has no working Python, .*: remove it \(make clean\)"):
        install.make_venv(str(tmp_path))


def test_a_missing_network_is_named() -> None:
    log = failed("--index-url", "http://127.0.0.1:9/simple", "edgemm-nothing==1")
    assert install.why_pip_failed(log, "python").startswith("no network: pip can't reach its package index")


def test_a_package_that_the_index_has_not_is_named(tmp_path: Path) -> None:
    log = failed("--no-index", "--find-links", str(tmp_path), "edgemm-nothing==1")
    assert install.why_pip_failed(log, "python").startswith(
        "pip's package index has no edgemm-nothing==1 for Python 3."
    )


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(install.Problem, match=r"GB free where .*venv would be, 9000000\.0 GB needed"):
        install.check_disk(str(tmp_path / "venv"), 9e6)


def test_a_test_that_lacks_a_thing_is_named_at_the_end_and_the_run_fails(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.needs('sounds')\ndef test_heard(): pass\ndef test_other(): pass\n"
        "def test_more(): pytest.skip('no GPU')\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", tmp_path, tmp_path]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EDGEMM_SOUNDS": str(tmp_path / "none")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert "NOT RUN: 2 tests" in done.stdout
    assert "1 × needs sounds: apt-get install alsa-utils" in done.stdout
    assert "    test_it.py::test_heard\n" in done.stdout
    assert "1 × no GPU\n    test_it.py::test_more\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 passed, 2 skipped")


def test_make_test_says_first_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEMM_SOUNDS", str(tmp_path / "none"))
    (tmp_path / ".installed-test").touch()
    assert install.main(["test", str(tmp_path)]) == 0
    assert "MISSING: sounds (speech for the audio frontends)" in capsys.readouterr().out
