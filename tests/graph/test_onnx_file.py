from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from small_parts import operators, pixels, tokens

from edgemm.data.arrays import read_arrays
from edgemm.graph.files import write_graph
from edgemm.graph.likeness import likeness_lines
from edgemm.graph.onnx_file import quantize_file, read_onnx, read_proto, samples_of
from edgemm.graph.parity import OnnxGraph, cosine, largest_difference
from edgemm.graph.quantize import quantize_onnx
from edgemm.graph.race import latency_ratio
from edgemm.graph.storage import compress_weights
from edgemm.runtime.errors import EdgemmError, EngineError, InputError, QuantizeError
from edgemm.runtime.session import open_session
from edgemm.runtime.timing import Ratio
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


@pytest.mark.parametrize("beside", [True, False])
def test_the_bytes_before_are_those_of_the_files_on_the_disk(text_graph: ir.Model, tmp_path: Path, beside: bool):
    write_graph(text_graph, tmp_path / "made.onnx")
    proto = onnx.load(tmp_path / "made.onnx")
    weight = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    proto.graph.input.append(helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))  # as old ones
    onnx.save(proto, tmp_path / "model.onnx", save_as_external_data=beside, location="weights", size_threshold=64)
    np.savez(tmp_path / "data.npz", **tokens(2))
    found = quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    files = [tmp_path / "model.onnx", *([tmp_path / "weights"] if beside else [])]
    assert found.arithmetic.float32_bytes == sum(file.stat().st_size for file in files)


def test_a_verdict_that_the_interval_denies_says_its_rule(text_graph: ir.Model, tmp_path: Path):
    write_graph(text_graph, tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **tokens(2))
    found = quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    near = dataclasses.replace(found, ratio=Ratio(0.99, 0.98, 0.99, "no difference"))
    assert likeness_lines(near)[-1].endswith("[0.98, 0.99] on onnxruntime here: no difference: within 2 %")
    around = dataclasses.replace(found, ratio=Ratio(0.99, 0.98, 1.01, "no difference"))
    assert likeness_lines(around)[-1].endswith("here: no difference")


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
        ("folder", "good.npz", "folder: a folder; expected an .onnx file"),
        ("model.onnx", "nan.npz", "nan or infinity"),
        ("model.onnx", "none.npz", "at least 1"),
    ],
)
def test_unusable_files_are_one_line_and_write_nothing(image_graph, tmp_path: Path, model, data, message):
    write_graph(image_graph, tmp_path / "model.onnx")
    write_graph(quantize_onnx(image_graph, [{"pixels": pixels(1)}]), tmp_path / "int8.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    (tmp_path / "empty.onnx").write_text("")
    arrays = {
        "good": {"pixels": pixels(2)},
        "other": {"image": pixels(2)},
        "small": {"pixels": pixels(2, size=8)},
        "double": {"pixels": pixels(2).astype(np.float64) * 1e300},
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


# --- files as others write them --------------------------------------------------------------------------------------


def saved(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    samples: dict[str, np.ndarray],
    *,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    opset: int = 18,
    ir_version: int = 8,
    more: Sequence[tuple[str, int]] = (),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()]
    )
    opsets = [helper.make_opsetid(d, v) for d, v in ([("", opset)] if opset else []) + list(more)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=functions)
    onnx.save(model, folder / "model.onnx")
    np.savez(folder / "data.npz", **samples)
    return model


def quantized(folder: Path) -> dict[str, float]:
    """The int8 form, written, and its cosines to the file; without the race for time, which takes a second."""
    given, float32 = read_proto(folder / "model.onnx"), read_onnx(folder / "model.onnx")
    arrays = read_arrays(folder / "data.npz", [str(v.name) for v in float32.graph.inputs], aligned=False)
    write_graph(quantize_onnx(float32, samples_of(float32, arrays)), folder / "out" / "model.onnx")
    before, after = OnnxGraph(given.SerializeToString()), OnnxGraph(folder / "out" / "model.onnx")
    runs = [(before.run(feed), after.run(feed)) for feed in samples_of(float32, arrays)]
    return {name: min(cosine(got[name], expected[name]) for expected, got in runs) for name in runs[0][0]}


VALUE = helper.make_tensor_value_info
LINEAR = {"w": np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)}
ROWS = np.random.default_rng(2).normal(size=(16, 8)).astype(np.float32)
X, Y = VALUE("x", FLOAT, ["n", 8]), VALUE("y", FLOAT, ["n", 4])
MATMUL = helper.make_node("MatMul", ["x", "w"], ["y"])


def test_weights_listed_as_inputs_are_weights(tmp_path: Path):
    saved(
        tmp_path,
        [MATMUL],
        LINEAR,
        {"x": ROWS},
        inputs=[X, VALUE("w", FLOAT, [8, 4])],
        outputs=[Y],
        opset=13,
        ir_version=3,
    )
    assert quantized(tmp_path)["y"] > 0.99
    assert [i.name for i in onnx.load(tmp_path / "out" / "model.onnx").graph.input] == ["x"]


def test_an_older_opset_is_converted_and_held_against_the_file(tmp_path: Path):
    nodes = [MATMUL, helper.make_node("ReduceSum", ["y"], ["s"], axes=[1], keepdims=0)]
    outputs = [Y, VALUE("s", FLOAT, ["n"])]
    saved(tmp_path, nodes, LINEAR, {"x": ROWS}, inputs=[X], outputs=outputs, opset=11, ir_version=6)
    assert min(quantized(tmp_path).values()) > 0.99
    assert onnx.load(tmp_path / "out" / "model.onnx").opset_import[0].version == 13


def test_states_and_scalars_are_given_with_one_more_axis_in_front(tmp_path: Path):
    nodes = [
        MATMUL,
        helper.make_node("Gather", ["state", "one"], ["s"], axis=0),
        helper.make_node("Add", ["y", "s"], ["a"]),
        helper.make_node("Cast", ["rate"], ["r"], to=1),
        helper.make_node("Div", ["a", "r"], ["z"]),
    ]
    inputs = [X, VALUE("state", FLOAT, [2, "n", 4]), VALUE("rate", INT64, [])]
    rng = np.random.default_rng(0)
    for folder, x in (("rows", ROWS), ("stacked", ROWS[:, None])):
        (tmp_path / folder).mkdir()
        samples = {"x": x, "state": rng.normal(size=(16, 2, 1, 4)).astype(np.float32), "rate": np.full(16, 8)}
        weights = {**LINEAR, "one": np.array(1)}
        saved(tmp_path / folder, nodes, weights, samples, inputs=inputs, outputs=[VALUE("z", FLOAT, ["n", 4])])
        assert quantized(tmp_path / folder)["z"] > 0.99
    np.savez(tmp_path / "rows" / "data.npz", x=ROWS, state=np.zeros((2, 16, 4), np.float32), rate=np.array(8))
    with pytest.raises(QuantizeError, match=r"hold .* samples; .* takes one more axis, \(samples, …\)"):
        quantize_file(
            tmp_path / "rows" / "model.onnx", tmp_path / "rows" / "data.npz", tmp_path / "o", context=Context(tmp_path)
        )


@pytest.mark.parametrize(
    ("given", "dtype"), [(ROWS.astype(np.float64), FLOAT), (ROWS.astype(np.float16), FLOAT), (ROWS, FLOAT)]
)
def test_samples_of_another_width_are_cast(given: np.ndarray, dtype: int, tmp_path: Path):
    saved(tmp_path, [MATMUL], LINEAR, {"x": given}, inputs=[X], outputs=[Y])
    assert quantized(tmp_path)["y"] > 0.99


def test_names_that_python_or_edgemm_might_take_for_its_own_are_names(tmp_path: Path):
    names = ["nothing to do", "file", "allow_pickle", "y_scale", "[bold]{x}%s\\n", "x.npy", "a/../b"]
    nodes = [helper.make_node("Sum", names, ["all"]), helper.make_node("MatMul", ["all", "w"], ["y"])]
    nodes.append(helper.make_node("MatMul", ["y", "y_weight"], ["all_quantized"]))
    weights = {**LINEAR, "y_weight": np.ones((4, 4), np.float32)}
    inputs = [VALUE(name, FLOAT, ["n", 8]) for name in names]
    saved(tmp_path, nodes, weights, {}, inputs=inputs, outputs=[Y, VALUE("all_quantized", FLOAT, ["n", 4])])
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as file:
        for name in names:
            with file.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, ROWS)
    assert min(quantized(tmp_path).values()) > 0.99
    data = (tmp_path / "model.onnx").read_bytes()
    feed = dict.fromkeys(names, ROWS[:1])
    assert latency_ratio(data, data, feed, engine="onnxruntime", threads=1, what="x", rounds=12).value > 0


def test_functions_of_another_opset_are_inlined(tmp_path: Path):
    inside = [helper.make_node("ReduceSum", ["a"], ["b"], axes=[1], keepdims=1)]
    function = helper.make_function("org.example", "Total", ["a"], ["b"], inside, [helper.make_opsetid("", 12)])
    nodes = [MATMUL, helper.make_node("Total", ["y"], ["t"], domain="org.example")]
    outputs = [Y, VALUE("t", FLOAT, ["n", 1])]
    saved(
        tmp_path,
        nodes,
        LINEAR,
        {"x": ROWS},
        inputs=[X],
        outputs=outputs,
        more=[("org.example", 1)],
        functions=[function],
    )
    assert min(quantized(tmp_path).values()) > 0.99


def test_a_sparse_weight_is_a_weight(tmp_path: Path):
    model = saved(tmp_path, [MATMUL], {}, {"x": ROWS}, inputs=[X], outputs=[Y])
    indices = np.stack(np.nonzero(LINEAR["w"] > 0), axis=1)
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(LINEAR["w"][LINEAR["w"] > 0], "w"), numpy_helper.from_array(indices, "at"), [8, 4]
    )
    model.graph.sparse_initializer.append(sparse)
    onnx.save(model, tmp_path / "model.onnx")
    assert quantized(tmp_path)["y"] > 0.99


def test_torchs_own_export_with_its_weights_beside_it_opens(tmp_path: Path):
    module = torch.nn.Sequential(torch.nn.Linear(8, 512), torch.nn.ReLU(), torch.nn.Linear(512, 4)).eval()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(2, 8),), tmp_path / "model.onnx", input_names=["x"], output_names=["y"], verbose=False,
            dynamo=True, external_data=True, dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},),
        )  # fmt: skip
    assert (tmp_path / "model.onnx.data").exists()
    np.savez(tmp_path / "data.npz", x=ROWS)
    assert quantized(tmp_path)["y"] > 0.99
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["model.onnx"]


def away(**said: str) -> onnx.TensorProto:
    return onnx.TensorProto(
        name="w", dims=[8, 4], data_type=FLOAT, data_location=onnx.TensorProto.EXTERNAL,
        external_data=[onnx.StringStringEntryProto(key=k, value=v) for k, v in said.items()],
    )  # fmt: skip


def with_away(folder: Path, tensor: onnx.TensorProto) -> Path:
    model = saved(folder, [MATMUL], {}, {"x": ROWS}, inputs=[X], outputs=[Y])
    model.graph.initializer.append(tensor)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


def test_a_weight_at_a_place_in_a_file_of_a_folder_below_is_read(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "w.bin").write_bytes(b"12345678" + LINEAR["w"].tobytes() + b"more")
    path = with_away(tmp_path, away(location="deep/w.bin", offset="8", length="128"))
    model = read_onnx(path)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), LINEAR["w"])


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"location": "none.bin"}, "which is not there"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"location": "/etc/hostname"}, "outside the model's folder"),
        ({"location": "link.bin"}, "is a link"),
        ({"location": "linked/w.bin"}, "is a link"),
        ({"location": "inner"}, "no regular file"),
        ({"location": "pipe"}, "no regular file"),
        ({"location": "w.bin", "offset": "-1"}, "need 128 bytes"),
        ({"location": "w.bin", "offset": "100"}, "28 of its 128 bytes are there"),
        ({"location": "w.bin", "length": "9999999999999"}, "need 128 bytes"),
        ({"location": "w.bin", "offset": "first"}, "no number"),
        ({"location": ""}, "outside the model's folder"),
        ({}, "outside the model's folder"),
    ],
)
def test_a_weight_that_lies_where_it_may_not_is_one_line(said: dict[str, str], message: str, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "w.bin").write_bytes(LINEAR["w"].tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "inner").mkdir()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match=message) as caught:
        read_onnx(with_away(folder, away(**said)))
    assert "the weight 'w' lies in" in str(caught.value)


SEQUENCE = onnx.ValueInfoProto(
    name="z",
    type=helper.make_sequence_type_proto(helper.make_map_type_proto(INT64, helper.make_tensor_type_proto(FLOAT, []))),
)
NAN = np.where(np.arange(32).reshape(8, 4) == 5, np.nan, LINEAR["w"]).astype(np.float32)
ZIPMAP = helper.make_node("ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
CLASSIFIER = helper.make_node(
    "LinearClassifier", ["x"], ["l", "y"], domain="ai.onnx.ml", coefficients=[0.5] * 32, classlabels_ints=[0, 1, 2, 3],
    intercepts=[0.0] * 4,
)  # fmt: skip
HALF = onnx.TensorProto.FLOAT16
LOG = [helper.make_node("Log", ["x"], ["l"]), helper.make_node("MatMul", ["l", "w"], ["y"])]
QUANTIZED_BODY = [
    helper.make_graph(
        [helper.make_node("DynamicQuantizeLinear", ["y"], ["q1", "s", "z1"])],
        "body",
        [],
        [VALUE("q1", onnx.TensorProto.UINT8, None)],
    )
] * 2
UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a list of dictionaries": (
        {"nodes": [MATMUL, ZIPMAP], "outputs": [Y, SEQUENCE], "more": [("ai.onnx.ml", 3)]},
        "'z' is no tensor but a sequence, made by ZipMap; export it with zipmap=False",
    ),
    "an opset of another domain alone": (
        {"nodes": [CLASSIFIER], "outputs": [Y, VALUE("l", INT64, ["n"])], "opset": 0, "more": [("ai.onnx.ml", 3)]},
        "nothing to do",
    ),
    "strings": ({"inputs": [X, VALUE("words", onnx.TensorProto.STRING, ["n"])]}, "'words' takes strings"),
    "no input": ({"nodes": [helper.make_node("MatMul", ["w", "w2"], ["y"])], "inputs": []}, "takes no input"),
    "weights of two bytes": (
        {
            "weights": {"w": LINEAR["w"].astype(np.float16)},
            "inputs": [VALUE("x", HALF, ["n", 8])],
            "outputs": [VALUE("y", HALF, ["n", 4])],
            "samples": ROWS.astype(np.float16),
        },
        "float16",
    ),
    "two opsets": ({"more": [("ai.onnx", 17)]}, "names two opsets of the standard"),
    "a weight that is no number": ({"weights": {"w": NAN}}, "'y' is nan in float32 already; weight 'w' holds nan"),
    "a node that makes none": (
        {"nodes": LOG},
        r"'y' is nan in float32 already; node 'l' \(Log\) is the first that makes nan",
    ),
    "an operator that is nowhere": ({"nodes": [helper.make_node("Nowhere", ["x"], ["y"])]}, "refuses the graph"),
    "int8 in a body": (
        {
            "nodes": [
                MATMUL,
                helper.make_node("If", ["b"], ["q"], then_branch=QUANTIZED_BODY[0], else_branch=QUANTIZED_BODY[1]),
            ]
        },
        "quantized already",
    ),
}
"""What a file may hold that can't be quantized, and what is said of it."""


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_graph_that_cannot_be_quantized_is_one_true_line(name: str, tmp_path: Path):
    changes, message = UNUSABLE[name]
    given: dict[str, Any] = {
        "nodes": [MATMUL],
        "weights": LINEAR,
        "samples": ROWS,
        "inputs": [X],
        "outputs": [Y],
        **changes,
    }
    nodes, weights, samples = (given.pop(key) for key in ("nodes", "weights", "samples"))
    saved(tmp_path, nodes, weights, {"x": samples}, **given)
    with pytest.raises(EdgemmError, match=message) as caught:
        quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_cosine_of_what_cannot_be_compared_is_refused():
    a = np.ones((2, 3), np.float32)
    for other in (
        np.ones((2, 1), np.float32),
        np.ones((1, 3), np.float32),
        a.astype(np.float64),
        a * np.nan,
        a * np.inf,
    ):
        with pytest.raises(QuantizeError, match="no cosine"):
            cosine(other, a)
        assert largest_difference(other, a) == np.inf
    assert cosine(a * 1e-30, a * 1e-30) == 1.0
    assert cosine(a * 3, a) <= 1.0


def test_a_graph_of_which_no_file_can_hold_the_weights_is_one_line(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("edgemm.graph.files.MAX_ONNX_BYTES", 100)
    saved(tmp_path, [MATMUL], LINEAR, {"x": ROWS}, inputs=[X], outputs=[Y])
    with pytest.raises(QuantizeError, match="2 GiB"):
        write_graph(read_onnx(tmp_path / "model.onnx"), tmp_path / "written.onnx")
    assert not (tmp_path / "written.onnx").exists()


def test_a_file_of_one_convolution_whose_bias_is_left_empty_is_quantized(tmp_path: Path):
    rng = np.random.default_rng(0)
    norm = {n: rng.normal(size=6).astype(np.float32) for n in "sbm"} | {"v": np.ones(6, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w", ""], ["c"]),
        helper.make_node("BatchNormalization", ["c", *"sbmv"], ["y"]),
    ]
    saved(
        tmp_path,
        nodes,
        {"w": rng.normal(size=(6, 8, 3, 3)).astype(np.float32), **norm},
        {"x": rng.normal(size=(8, 8, 9, 9)).astype(np.float32)},
        inputs=[VALUE("x", FLOAT, ["n", 8, 9, 9])],
        outputs=[VALUE("y", FLOAT, ["n", 6, 7, 7])],
    )
    assert quantized(tmp_path)["y"] > 0.99


def test_classes_that_a_graph_answers_are_compared_too(tmp_path: Path):
    weights = {"w": np.random.default_rng(3).normal(size=(8, 64)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["l"]), helper.make_node("ArgMax", ["l"], ["y"], axis=1)]
    nodes.append(helper.make_node("Greater", ["l", "zero"], ["above"]))
    weights["zero"] = np.zeros((), np.float32)
    outputs = [VALUE("y", INT64, ["n", 1]), VALUE("above", onnx.TensorProto.BOOL, ["n", 64])]
    rows = np.random.default_rng(4).normal(size=(64, 8)).astype(np.float32)
    saved(tmp_path, nodes, weights, {"x": rows}, inputs=[X], outputs=outputs)
    found = quantize_file(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "out", context=Context(tmp_path))
    before, after = (OnnxGraph(folder / "model.onnx").run({"x": rows}) for folder in (tmp_path, tmp_path / "out"))
    assert found.equal == pytest.approx({name: (before[name] == after[name]).mean() for name in ("y", "above")})
    assert 0.9 < found.equal["above"] < 1
    assert "  above: > 99 % of its numbers equal to float32's (64 calibration samples)" in likeness_lines(found)


def test_openvino_says_what_it_refuses_and_not_where_in_its_source(tmp_path: Path):
    unknown = helper.make_node("Nowhere", ["x"], ["y"], domain="org.example")
    saved(tmp_path, [unknown], {}, {"x": ROWS}, inputs=[X], outputs=[Y], more=[("org.example", 1)])
    with pytest.raises(EngineError, match=r"refuses the graph: .*org\.example\.Nowhere"):
        open_session("openvino", (tmp_path / "model.onnx").read_bytes())
