"""The quick start's recipe, cut down to a minute, for the pages that show what to do with its bundle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "data.limit=96",
    "teach.epochs=2",
    "distill.epochs=1",
    "distill.batch=48",
    "distill.extra_texts=200",
    "prune.epochs=1",
    "prune.batch=48",
    "measure.seconds=0.2",
    "measure.cold_starts=1",
)


@pytest.fixture(scope="session")
def small_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``out`` as the quick start leaves it: ``emoji-search/`` with bundle, zip and report."""
    folder = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "edgemm", "run", str(ROOT / "export" / "recipes" / "emoji-search.toml")]
    for value in SMALL:
        command += ["--set", value]
    command += ["--out", str(folder / "out" / "emoji-search"), "--store", str(folder / "store")]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "out"
