"""Graphs that would kill, hang or flood an engine: refused in the bytes of their file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from sealing import TEXT_INPUTS, VI, reseal, text_graph, with_graph

from edgemm.runtime import Bundle, open_archive, seal
from edgemm.runtime.errors import EngineError
from edgemm.runtime.onnx_limits import graph_operators

N = helper.make_node
TAKE = [N("Mul", ["input_ids", "attention_mask"], ["xi"]), N("Cast", ["xi"], ["x"], to=1)]
INT64 = np.iinfo(np.int64)


def graph(*nodes: onnx.NodeProto, **weights: Any) -> bytes:
    return text_graph([*TAKE, *nodes], weights=weights)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto], domains: list[str]) -> bytes:
    made = helper.make_graph([*TAKE, *nodes], "g", TEXT_INPUTS, [VI("text_embedding", 1, None)])
    opsets = [helper.make_opsetid("", 18), *[helper.make_opsetid(domain, 1) for domain in domains]]
    return bytes(helper.make_model(made, opset_imports=opsets, ir_version=9, functions=functions).SerializeToString())


def function(name: str, nodes: list[onnx.NodeProto]) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, ["a"], ["b"], nodes, opsets)


def laughs(depth: int) -> bytes:
    """Functions of ten calls each: 10**depth nodes of about 200 bytes a function."""
    made = [function("F0", [N("Identity", ["a"], ["b"])])]
    for k in range(1, depth):
        calls = [
            N(f"F{k - 1}", ["a" if i == 0 else f"t{i - 1}"], [f"t{i}" if i < 9 else "b"], domain="local")
            for i in range(10)
        ]
        made.append(function(f"F{k}", calls))
    return model([N(f"F{depth - 1}", ["x"], ["text_embedding"], domain="local")], made, ["local"])


def loop(turns: int) -> onnx.NodeProto:
    body = helper.make_graph(
        [N("Identity", ["c"], ["c2"]), N("Identity", ["v"], ["v2"])],
        "body",
        [VI("i", 7, []), VI("c", 9, []), VI("v", 1, None)],
        [VI("c2", 9, []), VI("v2", 1, None)],
    )
    return N("Loop", ["n", "t", "x"], ["text_embedding"], body=body)


def dims_beyond_bytes() -> bytes:
    made = onnx.load_from_string(graph(N("Add", ["x", "w"], ["text_embedding"]), w=np.ones(1, np.float32)))
    made.graph.initializer[0].dims[0] = 2**40
    return bytes(made.SerializeToString())


def sparse() -> bytes:
    made = onnx.load_from_string(graph(N("Add", ["x", "w"], ["text_embedding"])))
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))
    return bytes(made.SerializeToString())


def end(name: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    return N(name, ["x", *inputs], ["text_embedding"], **attributes)


def divided(op: str, *before: onnx.NodeProto, **weights: Any) -> bytes:
    nodes = [*TAKE[:1], *before, N(op, ["xi", "d"], ["q"]), N("Cast", ["q"], ["text_embedding"], to=1)]
    return text_graph(nodes, weights=weights)


BAD = {
    "integers by -1": (divided("Div", d=np.array(-1)), "Div divides integers by -1"),
    "integers by 0": (divided("Div", d=np.array([3, 0])), "Div divides integers by 0"),
    "the rest by 0": (divided("Mod", d=np.array([0])), "Mod divides integers by 0"),
    "a 0 among many": (divided("Div", d=np.array([1] * 5000 + [0])), "Div divides integers by 0"),
    "a 0 from a node": (divided("Div", N("Constant", [], ["d"], value_int=0)), "Div divides integers by 0"),
    "-1 that is computed": (divided("Div", N("Neg", ["one"], ["d"]), one=np.array(1)), "Div divides integers by -1"),
    "0 that is computed": (
        divided("Div", N("Sub", ["e", "e"], ["f"]), N("Identity", ["f"], ["d"]), e=np.array([5])),
        "Div divides integers by 0",
    ),
    "a cycle": (
        graph(N("Add", ["x", "q"], ["p"]), N("Add", ["p", "x"], ["q"]), N("Identity", ["q"], ["text_embedding"])),
        "its nodes form a cycle",
    ),
    "a node that takes what it makes": (graph(N("Add", ["x", "text_embedding"], ["text_embedding"])), "form a cycle"),
    "a value made twice": (graph(N("Neg", ["x"], ["text_embedding"]), N("Abs", ["x"], ["text_embedding"])), "twice"),
    "a large pad": (graph(end("Pad", "s"), s=np.array([0, 2**40, 0, 2**40])), "Pad makes"),
    "a large constant": (graph(N("ConstantOfShape", ["s"], ["text_embedding"]), s=np.array([3 << 28])), "makes 32"),
    "a large shape that is joined": (
        graph(N("Concat", ["s", "s"], ["ss"], axis=0), end("Expand", "ss"), s=np.array([2**20])),
        "Expand makes",
    ),
    "many repeats": (graph(end("Tile", "s"), s=np.array([2**20, 2**20])), "Tile makes"),
    "a long range": (
        graph(N("Range", ["a", "b", "c"], ["r"]), end("Add", "r"), a=np.array(0), b=np.array(2**40), c=np.array(1)),
        "Range makes",
    ),
    "a step of 0": (
        graph(N("Range", ["a", "b", "a"], ["r"]), end("Add", "r"), a=np.array(0), b=np.array(2**40)),
        "Range's step is 0",
    ),
    "much noise": (graph(N("RandomNormal", [], ["text_embedding"], shape=[2**20, 2**20])), "RandomNormal makes"),
    "many classes": (
        graph(N("OneHot", ["xi", "d", "v"], ["text_embedding"]), d=np.array(2**40), v=np.zeros(2, np.float32)),
        "OneHot makes",
    ),
    "a large size": (graph(N("Resize", ["x", "", "", "s"], ["text_embedding"]), s=np.array([2**20] * 2)), "Resize"),
    "a large scale": (
        graph(N("Resize", ["x", "", "s"], ["text_embedding"]), s=np.full(2, 1e9, np.float32)),
        "Resize by 1e+18",
    ),
    "a long window": (graph(N("HannWindow", ["s"], ["text_embedding"]), s=np.array(2**40)), "HannWindow makes"),
    "no groups": (graph(end("Conv", "x", group=0)), "Conv's 'group' is 0"),
    "strides of 0": (graph(end("MaxPool", kernel_shape=[1], strides=[0])), "MaxPool's 'strides' is 0"),
    "blocks of 0": (graph(end("DepthToSpace", blocksize=0)), "'blocksize' is 0"),
    "large pads": (graph(end("AveragePool", kernel_shape=[1], pads=[2**40, 0])), "AveragePool's 'pads' is 1099"),
    "an axis beyond all ranks": (graph(end("Flatten", axis=2**40)), "Flatten's 'axis' is 1099"),
    "dims beyond the bytes": (dims_beyond_bytes(), r"tensor 'w' of dims [1099511627776] has 4 bytes"),
    "an input too few": (graph(end("Pad")), "Pad has 1 inputs, expected at least 2"),
    "a sparse tensor": (sparse(), "sparse tensors"),
    "many turns": (graph(loop(1), n=np.array(2**62), t=np.array(True)), "a Loop of 4611686018427387904 turns"),
    "functions that call functions": (laughs(7), "nodes once its functions are expanded"),
    "a function that calls itself": (
        model(
            [N("F", ["x"], ["text_embedding"], domain="local")],
            [function("F", [N("F", ["a"], ["b"], domain="local")])],
            ["local"],
        ),
        "function 'local:F' calls itself",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_would_kill_hang_or_flood_an_engine_is_refused(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(EngineError) as caught:
        graph_operators(data, what="part 'text'")
    assert str(caught.value).startswith("part 'text': the graph is refused: ")
    assert message in str(caught.value)


def test_a_graph_given_in_two_pieces_is_read_as_protobuf_reads_it() -> None:
    whole = graph(N("Identity", ["x"], ["text_embedding"]))
    part = onnx.GraphProto(node=[N("ConstantOfShape", ["s"], ["c"])])
    part.initializer.append(numpy_helper.from_array(np.array([2**40]), "s"))
    piece = onnx.ModelProto(graph=part).SerializeToString()
    assert graph_operators(whole, what="x") == ()
    for data in (whole + piece, piece + whole):
        with pytest.raises(EngineError, match="ConstantOfShape makes"):
            graph_operators(data, what="x")


ODD = {
    "Loop": graph(loop(1), n=np.array(2), t=np.array(True)),
    "com.microsoft:Gelu": model([N("Gelu", ["x"], ["text_embedding"], domain="com.microsoft")], [], ["com.microsoft"]),
    "local:F0": laughs(1),
    "Div": divided("Div", N("Size", ["xi"], ["d"])),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_out_of_the_ordinary_runs_where_the_manifest_names_it(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    bundles.dual_encoder(folder, targets=("cpu",))

    def wide(manifest: dict[str, Any]) -> None:
        manifest["parts"][2]["signature"]["outputs"][0]["shape"] = ["batch", "tokens"]

    with_graph(folder, "text", ODD[name], wide)
    with pytest.raises(EngineError, match=f"the graph has {name}, and the manifest's 'operators'"):
        Bundle.open(folder).predict(text="a cat")
    reseal(folder, lambda m: m["targets"][0].update(operators=[name]))
    assert Bundle.open(folder).predict(text="a cat").outputs["text_embedding"].shape == (1, 4)


def test_who_seals_a_bundle_names_what_its_graphs_have(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    manifest = bundles.dual_encoder(folder, targets=("cpu",))
    assert "operators" not in json.loads((folder / "manifest.json").read_text())["targets"][0]
    (folder / "graphs/text.onnx").write_bytes(ODD["com.microsoft:Gelu"])
    assert seal(folder, manifest).targets[0].operators == ("com.microsoft:Gelu",)
    assert open_archive(folder).manifest.targets[0].operators == ("com.microsoft:Gelu",)
