"""Whether the CPU multiplies in bfloat16: what torch says, without torch, and a key of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from edgemm.compress import bfloat16
from edgemm.compress.tower_inputs import fast_dtype
from edgemm.data import Dataset, open_dataset
from edgemm.pipeline import job, stages
from edgemm.pipeline.hashing import content_key
from edgemm.recipe import load_recipe
from tests.pipeline.shapes_recipe import RECIPE, write_data


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux about the CPU")
def test_it_decides_as_torch_does() -> None:
    assert bfloat16.has_bfloat16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    assert fast_dtype() == (torch.bfloat16 if bfloat16.has_bfloat16() else torch.float32)


@pytest.mark.parametrize(
    ("machine", "line", "expected"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512dq avx512bw avx512vl", True),
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512vlx avx512dq avx512bw", False),
        ("x86_64", "Features\t: bf16", False),
        ("aarch64", "Features\t: fp asimd i8mm bf16", True),
        ("aarch64", "Features\t: fp asimd", False),
    ],
)
def test_it_reads_what_linux_says_of_the_cpu(machine: str, line: str, expected: bool) -> None:
    assert bfloat16.bfloat16_in(["processor\t: 0", line], machine=machine) is expected


def test_stages_that_train_have_another_key_where_the_arithmetic_is_another(tmp_path, monkeypatch) -> None:
    write_data(tmp_path / "data", each=1)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.toml", [])
    dataset: Dataset = open_dataset(recipe.data, cache=tmp_path / "cache")
    keys = []
    for has in (True, False):
        monkeypatch.setattr(job, "has_bfloat16", lambda has=has: has)
        keys.append({node.name: content_key(node.facts({})) for node in stages.planned_stages(recipe, dataset)})
    changed = {name for name in keys[0] if keys[0][name] != keys[1][name]}
    assert changed == {"teach", "distill", "prune"}


def test_asking_loads_no_torch() -> None:
    code = "import sys, edgemm.compress.bfloat16 as a; a.has_bfloat16(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
