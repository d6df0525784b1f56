"""What the project promises about its own files."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock", "requirements-quickstart.lock")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()[1:]
    return {canonicalize_name(line.partition("==")[0]): line for line in lines}


def needed(*extras: str, but: str) -> set[str]:
    """Every package that extras of the project lead to, as the installed packages say; ``but`` is not followed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [Requirement(line) for line in project["dependencies"]] + [Requirement(f"edgemm[{','.join(extras)}]")]
    found: set[str] = set()
    while todo:
        asked = todo.pop()
        if asked.name == "edgemm":
            todo += [Requirement(line) for extra in asked.extras for line in project["optional-dependencies"][extra]]
        elif (name := canonicalize_name(asked.name)) not in {*found, but, "setuptools"}:  # each Python brings its own
            found.add(name)
            for further in map(Requirement, metadata.requires(name) or []):
                if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in ("", *asked.extras)):
                    todo.append(further)
    return found


def test_the_lock_of_the_quick_start_holds_what_its_extras_need_and_no_more() -> None:
    # MiniLM's package asks for sentence-transformers, of which its weights need nothing
    expected = needed("build", "demo", "openvino", but="sentence-transformers")
    assert pins("requirements-quickstart.lock").keys() == expected


def test_both_locks_hold_the_same_versions() -> None:
    assert pins("requirements-quickstart.lock").items() <= pins("requirements.lock").items()


def test_recipe_reference_is_made_from_the_schema() -> None:
    from edgemm.recipe import docs_from_schema

    committed = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert committed == docs_from_schema(), "run: edgemm schema --markdown > docs/recipe.md"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_holds_nothing_that_breaks_a_cpu_torch(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert not re.search(r"^(torchvision|torchaudio|timm|nvidia-)", lock, re.MULTILINE)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^ +]+", line) for line in lock.splitlines()[1:]), "one pin a line"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "export").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


def test_no_file_names_a_path_of_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    own = Path(__file__).relative_to(ROOT).as_posix()
    found = [
        name
        for name in listed
        if name != own
        and not name.startswith("tests/")
        and name.endswith((".py", ".md", ".toml", ".json", ".lock"))
        and re.search(r"(?<![\w.])/(root|home|work)/", (ROOT / name).read_text(encoding="utf-8", errors="replace"))
    ]
    assert not found
