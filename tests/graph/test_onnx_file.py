from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from small import operators, pixels, tokens

from edgemm.graph.files import write_graph
from edgemm.graph.likeness import likeness_lines
from edgemm.graph.onnx_file import quantize_file, read_onnx
from edgemm.graph.parity import OnnxGraph, cosine
from edgemm.graph.storage import compress_weights
from edgemm.runtime.errors import EdgemmError, EngineError
from edgemm.stage import Context


def test_one_file_and_one_npz_become_one_int8_file(text_graph: ir.Model, tmp_path: Path):
    write_graph(text_graph, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **tokens(8), unused=np.zeros(3))
    found = quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    assert found.cosines["text_embedding"].mean >= found.cosines["text_embedding"].worst > 0.99
    assert found.samples == 8
    assert found.size_bytes == (tmp_path / "out" / "model.onnx").stat().st_size
    assert found.arithmetic.float32_bytes == (tmp_path / "model.onnx").stat().st_size
    lines = "\n".join(likeness_lines(found))
    assert "of float32's time [" in lines
    assert "in float: LayerNormalization × 3: normalisation in int8 ruins accuracy" in lines
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]
    assert OnnxGraph(tmp_path / "out" / "model.onnx").run(tokens(3))["text_embedding"].shape == (3, 8)


FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
RNG = np.random.default_rng(0)
OUTPUTS = {
    "a convolution and its relu": (
        [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Relu", ["c"], ["y"])],
        {"w": RNG.normal(size=(6, 8, 3, 3))},
        ("x", FLOAT, ["n", 8, 9, 9], RNG.normal(size=(16, 8, 9, 9)).astype(np.float32)),
        {"y": ["n", 6, 7, 7]},
    ),
    "a relu that is read as well": (
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("Clip", ["c", "low", "high"], ["y"]),
            helper.make_node("Conv", ["y", "v"], ["z"]),
        ],
        {
            "w": RNG.normal(size=(6, 8, 3, 3)),
            "v": RNG.normal(size=(4, 6, 1, 1)),
            "low": np.array(0.0),
            "high": np.array(6.0),
        },
        ("x", FLOAT, ["n", 8, 9, 9], RNG.normal(size=(16, 8, 9, 9)).astype(np.float32)),
        {"y": ["n", 6, 7, 7], "z": ["n", 4, 7, 7]},
    ),
    "a lookup": (
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        {"table": RNG.normal(size=(300, 16))},
        ("x", INT64, ["n", 5], RNG.integers(0, 300, (16, 5))),
        {"y": ["n", 5, 16]},
    ),
    "a lookup that is read as well": (
        [helper.make_node("Gather", ["table", "x"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])],
        {"table": RNG.normal(size=(300, 16)), "w": RNG.normal(size=(16, 16))},
        ("x", INT64, ["n", 5], RNG.integers(0, 300, (16, 5))),
        {"y": ["n", 5, 16], "z": ["n", 5, 16]},
    ),
}
"""What a graph may end in: nodes, weights, its input with samples, and its outputs."""


@pytest.mark.parametrize("name", OUTPUTS)
def test_whatever_a_graph_ends_in_keeps_its_name_its_type_and_nearly_its_values(name: str, tmp_path: Path):
    nodes, weights, (x, dtype, shape, samples), outputs = OUTPUTS[name]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(x, dtype, shape)],
        [helper.make_tensor_value_info(n, FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(np.asarray(w, np.float32), n) for n, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=samples)
    quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    expected = OnnxGraph(tmp_path / "model.onnx").run({x: samples})
    write_graph(compress_weights(read_onnx(tmp_path / "model.onnx")), tmp_path / "stored.onnx")
    for made in (tmp_path / "out" / "model.onnx", tmp_path / "stored.onnx"):
        onnx.checker.check_model(str(made), full_check=True)
        got = OnnxGraph(made).run({x: samples})
        assert {n: v.dtype for n, v in got.items()} == dict.fromkeys(outputs, np.dtype(np.float32))
        assert all(cosine(got[n], expected[n]) > 0.998 for n in outputs)
        assert "DequantizeLinear" in operators(ir.load(made)) or "Cast" in operators(ir.load(made))


def test_a_graph_whose_weights_lie_elsewhere_is_refused_wherever_it_says_so(tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, FLOAT, [4]) for name in "xy")
    away = onnx.TensorProto(
        name="w", dims=[4], data_type=FLOAT, data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key="location", value="w.bin")],
    )  # fmt: skip
    add = helper.make_node("Add", ["x", "w"], ["y"])
    graphs = {
        "initializer": helper.make_graph([add], "g", [x], [y], [away]),
        "attribute": helper.make_graph([helper.make_node("Constant", [], ["w"], value=away), add], "g", [x], [y]),
    }
    for name, graph in graphs.items():
        path = tmp_path / f"{name}.onnx"
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        path.write_bytes(made.SerializeToString())
        with pytest.raises(EngineError, match=rf"{name}.onnx: the graph keeps weights in another file; .*onnx.save"):
            read_onnx(path)


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
