"""Runs the verbs that are no whole run, and those of the device side, in one process: ``every_verb FOLDER``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from edgemm.__main__ import main as edgemm
from edgemm.runtime.__main__ import main as on_device
from tests.pipeline.shapes_recipe import RECIPE, write_data, write_text_weights

QUICK = {"epochs = 12": "epochs = 0", "epochs = 2": "epochs = 0", "seconds = 0.2": "seconds = 0.02",
         "runs = 64": "runs = 10", "samples = 16": "samples = 4"}  # fmt: skip
ANY = ("--text", "a red bar")


def call(*arguments: str) -> None:
    code: object = 0
    try:
        edgemm(arguments)
    except SystemExit as end:
        code = end.code
    assert not code, arguments
    print(arguments[0], file=sys.stderr)


def main(folder: Path) -> None:
    os.chdir(folder)
    write_data(Path("data"), each=1)
    write_text_weights(Path("text"))
    recipe = RECIPE
    for value, quick in QUICK.items():
        recipe = recipe.replace(value, quick)
    Path("recipe.toml").write_text(recipe)
    rng = np.random.default_rng(0)
    np.savez("samples.npz", image=rng.integers(0, 255, (3, 40, 40, 3), np.uint8),
             input_ids=np.ones((3, 8), np.int64), attention_mask=np.ones((3, 8), np.int64))  # fmt: skip
    call("schema")
    call("doctor")
    call("plan", "recipe.toml", "--no-dry-run")
    call("teach", "recipe.toml", "-o", "teacher")
    call("distill", "recipe.toml", "--teacher", "teacher", "-o", "student")
    call("prune", "recipe.toml", "--student", "student", "--teacher", "teacher", "-o", "pruned")
    call("capture", "pruned", "-o", "captured")
    for engine in ("onnxruntime", "openvino"):
        call("quantize", "captured", "--calibration", "samples.npz", "--engine", engine, "-o", engine)
    call("measure", "captured", "openvino", "--recipe", "recipe.toml", "-o", "measured")
    call("explain", "captured", "--data", "recipe.toml", "-o", "explained")
    call("pack", "openvino", "-o", "packed.zip")
    call("run", "recipe.toml", "--until", "teach")
    call("runs")
    call("gc", "--limit", "0")
    for verb in ("verify", "inspect", "infer", "bench"):
        given = {"infer": ANY, "bench": (*ANY, "--seconds", "0.05")}.get(verb, ())
        for bundle in ("packed.zip", "onnxruntime"):
            call(verb, bundle, *given)
            assert on_device([verb, bundle, *given]) == 0, verb


if __name__ == "__main__":
    main(Path(sys.argv[1]))
