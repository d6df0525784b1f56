"""The recipes that ship, cut down, through quantize and build for every GPU generation and precision promised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgemm.runtime.archive import open_archive
from edgemm.runtime.engine_tensorrt import unbuilt

pytestmark = pytest.mark.corridor

ROOT = Path(__file__).parents[2]
TARGETS = {f"sm{sm}-{precision}": (f"8.{sm[1]}", precision) for sm in ("86", "89") for precision in ("int8", "float16")}
CUT = (
    'stages=["teach", "distill", "prune", "capture", "quantize", "build"]',
    "data.limit=16",
    "teach.epochs=0",
    "distill.epochs=0",
    "distill.extra_texts=0",
    "prune.epochs=0",
    "prune.batch=8",
    "prune.batches=1",
    "capture.samples=2",
    "quantize.samples=8",
    "targets=["
    + ", ".join(
        f'{{name="{name}", engine="tensorrt-rtx", precision="{precision}", compute_capability="{capability}"}}'
        for name, (capability, precision) in TARGETS.items()
    )
    + "]",
)


def write_vqa_rad(folder: Path) -> Path:
    """Four drawn pictures and eight questions about them, in VQA-RAD's files."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(4):
        Image.fromarray(rng.integers(0, 256, (96, 80, 3), dtype=np.uint8)).save(folder / "images" / f"{index}.jpg")
    rows = [
        {
            "qid": i,
            "image_name": f"{i % 4}.jpg",
            "question": ("is the heart enlarged?", "which organ is shown?")[i % 2],
            "answer": ("yes", "lung", "no", "liver")[i % 4],
            "answer_type": ("CLOSED", "OPEN")[i % 2],
        }
        for i in range(8)
    ]
    for name in ("trainset.json", "testset.json"):
        (folder / name).write_text(json.dumps(rows))
    return folder


@pytest.mark.parametrize("recipe", ["emoji-search", "vqa-rad"])
def test_a_recipe_that_ships_is_built_for_both_generations_in_both_precisions(recipe: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edgemm", "run", str(ROOT / "export" / "recipes" / f"{recipe}.toml")]
    command += ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out")]
    for value in CUT:
        command += ["--set", value]
    if recipe == "vqa-rad":
        command += ["--set", f"data.root={write_vqa_rad(tmp_path / 'vqa-rad')}"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    built = {path.parents[1] for path in (tmp_path / "store" / "artifacts").glob("*/content/engines/*")}
    manifest = open_archive(built.pop()).manifest
    assert {target.name for target in manifest.targets} == set(TARGETS)
    for target in manifest.targets:
        assert unbuilt(manifest, target) is None
        assert (target.fingerprint["compute_capability"], target.precision) == TARGETS[target.name]
        plans = {file for file in target.files.values() if file.endswith(".plan")}
        assert len(plans) == sum(part.role != "frontend" for part in manifest.parts)
        assert all(manifest.files[file].bytes > 1000 for file in plans)
