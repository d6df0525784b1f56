"""``edgemm quantize BUNDLE``: what of a bundle belongs to its targets is made anew for the targets it gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgemm.pipeline.verbs import quantize
from edgemm.runtime import Bundle, open_archive, seal
from edgemm.runtime.errors import InputError, QuantizeError
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


def matmul(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    takes, gives = (helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", 64]) for n in ("x", "y"))
    weight = numpy_helper.from_array(RNG.normal(size=(64, 64)).astype(np.float32), "w")
    graph = helper.make_graph(nodes, "g", [takes], [gives], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


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


def test_a_graph_becomes_the_file_that_out_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = matmul(tmp_path / "graph.onnx")
    np.savez(tmp_path / "c.npz", x=RNG.normal(size=(8, 64)).astype(np.float32))
    out = tmp_path / "new" / "int8.onnx"
    quantize(graph, tmp_path / "c.npz", out, engine="onnxruntime")
    assert [p.name for p in out.parent.iterdir()] == ["int8.onnx"]
    assert out.is_file()
    said = capsys.readouterr().out
    assert f"{graph.stat().st_size:,} → {out.stat().st_size:,} bytes" in said
    assert f"graph    {out}\n" in said
    with pytest.raises(InputError, match=r"int8\.onnx: exists already; name a new file"):
        quantize(graph, tmp_path / "c.npz", out, engine="onnxruntime")


def test_no_file_is_left_where_quantizing_fails_and_no_bundle_is_called_as_a_graph(tmp_path: Path) -> None:
    bundles.dual_encoder(tmp_path / "source")
    graph = matmul(tmp_path / "graph.onnx")
    np.savez(tmp_path / "c.npz", x=np.zeros((8, 3), np.float32))
    (tmp_path / "new").mkdir()
    with pytest.raises(QuantizeError):
        quantize(graph, tmp_path / "c.npz", tmp_path / "new" / "int8.onnx", engine="onnxruntime")
    with pytest.raises(InputError, match=r"a bundle is written as a folder; name one with --out .*int8$"):
        quantize(tmp_path / "source", tmp_path / "c.npz", tmp_path / "new" / "int8.onnx", engine="onnxruntime")
    assert list((tmp_path / "new").iterdir()) == []
