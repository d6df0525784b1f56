"""What the project promises about its own files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_recipe_reference_is_made_from_the_schema() -> None:
    from edgemm.recipe import docs_from_schema

    committed = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    assert committed == docs_from_schema(), "run: edgemm schema --markdown > docs/recipe.md"


def test_lock_holds_nothing_that_breaks_a_cpu_torch() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"^(torchvision|torchaudio|timm|nvidia-)", lock, re.MULTILINE)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^ +]+", line) for line in lock.splitlines()[1:]), "one pin a line"


def test_links_between_pages_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "export").glob("*.md")]:
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
