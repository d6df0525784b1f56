from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from small import pixels, tokens

from edgemm.graph.files import write_graph
from edgemm.graph.onnx_file import quantize_file
from edgemm.graph.parity import OnnxGraph
from edgemm.runtime.errors import EdgemmError
from edgemm.stage import Context


def test_one_file_and_one_npz_become_one_int8_file(text_graph: ir.Model, tmp_path: Path):
    write_graph(text_graph, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **tokens(8), unused=np.zeros(3))
    found = quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    assert found["text_embedding"] > 0.99
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert OnnxGraph(tmp_path / "out" / "model.onnx").run(tokens(3))["text_embedding"].shape == (3, 8)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("missing.onnx", "good.npz", "missing.onnx: no such file"),
        ("text.onnx", "good.npz", "text.onnx: not an ONNX model"),
        ("empty.onnx", "good.npz", "empty.onnx: not an ONNX model"),
        ("int8.onnx", "good.npz", "quantized already"),
        ("model.onnx", "missing.npz", "missing.npz: no such file"),
        ("model.onnx", "text.onnx", "not an .npz"),
        ("model.onnx", "one.npy", "one.npy: one array; expected an .npz"),
        ("model.onnx", "folder", "folder: a folder; expected an .npz"),
        ("model.onnx", "pickled.npz", "never read"),
        ("model.onnx", "other.npz", "no array for input 'pixels'"),
        ("model.onnx", "small.npz", "expected float32"),
        ("model.onnx", "double.npz", "float64"),
        ("model.onnx", "nan.npz", "nan or infinity"),
        ("model.onnx", "none.npz", "at least 1"),
    ],
)
def test_unusable_files_are_one_line_and_write_nothing(image_graph, tmp_path: Path, model, data, message):
    from edgemm.graph.quantize import quantize_onnx

    write_graph(image_graph, tmp_path / "model.onnx")
    write_graph(quantize_onnx(image_graph, [{"pixels": pixels(1)}]), tmp_path / "int8.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    (tmp_path / "empty.onnx").write_text("")
    arrays = {
        "good": {"pixels": pixels(2)},
        "other": {"image": pixels(2)},
        "small": {"pixels": pixels(2, size=8)},
        "double": {"pixels": pixels(2).astype(np.float64)},
        "nan": {"pixels": np.full((2, 3, 16, 16), np.nan, np.float32)},
        "none": {"pixels": pixels(2)[:0]},
    }
    for name, given in arrays.items():
        np.savez(tmp_path / f"{name}.npz", **given)
    np.save(tmp_path / "one.npy", pixels(2))
    (tmp_path / "folder").mkdir()
    np.savez(tmp_path / "pickled.npz", pixels=np.array([{}], dtype=object))
    with pytest.raises(EdgemmError, match=message) as caught:
        quantize_file(tmp_path / model, tmp_path / data, tmp_path / "out", context=Context(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
