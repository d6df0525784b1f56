"""``edgemm quantize BUNDLE``: what of a bundle belongs to its targets is made anew for the targets it gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemm.pipeline.verbs import quantize
from edgemm.runtime import Bundle, open_archive, seal
from tests import bundles

RNG = np.random.default_rng(0)
CALIBRATION = {
    "image": RNG.integers(0, 256, (8, 12, 10, 3), dtype=np.uint8),
    "input_ids": RNG.integers(0, 8, (8, 5)),
    "attention_mask": np.ones((8, 5), np.int64),
}


def quantized(source: Path, engine: str) -> Path:
    np.savez(source.with_name("calibration.npz"), **CALIBRATION)
    quantize(source, source.with_name("calibration.npz"), source.with_name("int8"), engine=engine)
    return source.with_name("int8")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_quantized_bundle_keeps_what_its_own_target_answers_to_the_golden_samples(
    tmp_path: Path, engine: str
) -> None:
    source = bundles.dual_encoder(tmp_path / "source")
    folder = quantized(tmp_path / "source", engine)
    bundle = Bundle.open(folder)
    assert list(bundle.manifest.golden_outputs) == [bundle.target.name]
    assert bundle.manifest.golden == source.golden
    report = bundle.verify()
    assert report.problems == ()
    assert report.samples == len(source.golden)
    assert set(report.max_abs_error) == set(source.outputs)
    kept = np.load(folder / bundle.manifest.golden_outputs[bundle.target.name].file)
    for name, value in bundle.run_golden().items():
        np.testing.assert_allclose(kept[name], value, atol=1e-6)


def test_a_quantized_bundle_drops_what_was_measured_of_other_bytes_and_graphs_that_no_target_runs(
    tmp_path: Path,
) -> None:
    source = bundles.dual_encoder(tmp_path / "source")
    (tmp_path / "source" / "measurements.json").write_text(json.dumps({"latency": 1}))
    (tmp_path / "source" / "towers").mkdir()
    files = {}
    for part, path in source.targets[0].files.items():
        files[part] = f"towers/{part}.onnx"
        (tmp_path / "source" / path).rename(tmp_path / "source" / files[part])
    targets = tuple(replace(target, files=files) for target in source.targets)
    seal(tmp_path / "source", replace(source, measurements="measurements.json", targets=targets))
    manifest = open_archive(quantized(tmp_path / "source", "onnxruntime")).manifest
    assert manifest.measurements is None
    assert "measurements.json" not in manifest.files
    assert {path for path in manifest.files if path.endswith(".onnx")} == set(manifest.targets[0].files.values())
