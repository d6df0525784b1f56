"""Graphs whose tensors lie in files of the device: refused before an engine sees them, however they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgemm.runtime.engine_onnxruntime import ort
from edgemm.runtime.errors import EngineError
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.session import open_session

SECRET = np.arange(400, dtype=np.float32) + 1
ENTRIES = {"location": b"secret.bin", "offset": b"0", "length": b"1600"}


@pytest.fixture(autouse=True)
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the device, where an engine looks for it."""
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    monkeypatch.chdir(tmp_path)


def varint(value: int, *, longer: int = 0) -> bytes:
    """Seven bits a byte; ``longer`` adds as many bytes that say nothing."""
    made = bytearray()
    while value >= 0x80 or longer:
        made.append(value & 0x7F | 0x80)
        longer -= 1 if value < 0x80 else 0
        value >>= 7
    return bytes([*made, value])


def field(number: int, data: bytes, *, longer: int = 0) -> bytes:
    return varint(number << 3 | 2, longer=longer) + varint(len(data), longer=longer) + data


def tensor(*, value_first: bool = False, location_first: bool = False, longer: int = 0, location: int = 1) -> bytes:
    """A TensorProto 'w', float32 (400,), whose bytes lie in ``secret.bin``."""
    entries = b""
    for key, value in ENTRIES.items():
        pair = [field(1, key.encode(), longer=longer), field(2, value, longer=longer)]
        entries += field(13, b"".join(reversed(pair) if value_first else pair), longer=longer)
    place = varint(14 << 3, longer=longer) + varint(location, longer=longer)
    known = TensorProto(dims=[400], data_type=TensorProto.FLOAT, name="w").SerializeToString()
    return place + entries + known if location_first else known + entries + place


def model(nodes: list[onnx.NodeProto], **more: list[onnx.FunctionProto]) -> bytes:
    """A model x -> y of float32 (400,). Bytes added at the end are merged into it: that is how protobuf reads."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [400]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9, **more).SerializeToString())


def constant(**writing: int) -> bytes:
    """A node that gives 'w', from its attribute."""
    attribute = onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR).SerializeToString()
    node = onnx.NodeProto(op_type="Constant", output=["w"]).SerializeToString()
    return node + field(5, attribute + field(5, tensor(**writing)))  # type: ignore[arg-type]


TAKE = helper.make_node("Max", ["x", "w"], ["y"])
WRITINGS: dict[str, dict[str, int]] = {
    "as onnx writes it": {},
    "value before key": {"value_first": True},
    "data_location first": {"location_first": True},
    "both": {"value_first": True, "location_first": True},
    "numbers longer than needed": {"value_first": True, "longer": 2},
    "location beyond 32 bits": {"value_first": True, "location": 2**32 + 1},
}


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("writing", WRITINGS)
def test_an_initializer_in_another_file_is_refused(writing: str, engine: str) -> None:
    data = model([TAKE]) + field(7, field(5, tensor(**WRITINGS[writing])))  # type: ignore[arg-type]
    bare = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert (bare.run(None, {"x": np.zeros(400, np.float32)})[0] == SECRET).all()  # the attack is a real one
    with pytest.raises(EngineError, match="target 'x': the graph keeps weights in another file"):
        open_session(engine, data, what="target 'x'")


def subgraph(**writing: int) -> bytes:
    """The body of an If, in which the tensor lies."""
    body = helper.make_graph([TAKE], "body", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [400])])
    inside = body.SerializeToString() + field(5, tensor(**writing))  # type: ignore[arg-type]
    branch = onnx.AttributeProto(name="then_branch", type=onnx.AttributeProto.GRAPH).SerializeToString()
    node = onnx.NodeProto(op_type="If", input=["c"], output=["y"]).SerializeToString()
    return node + field(5, branch + field(6, inside)) + field(5, branch + field(11, inside))


PLACES = {
    "initializer": lambda **w: field(7, field(5, tensor(**w))),
    "values of a sparse initializer": lambda **w: field(7, field(15, field(1, tensor(**w)))),
    "indices of a sparse initializer": lambda **w: field(7, field(15, field(2, tensor(**w)))),
    "attribute": lambda **w: field(7, field(1, constant(**w))),
    "attribute of many tensors": lambda **w: field(7, field(1, field(5, field(10, tensor(**w))))),
    "sparse attribute": lambda **w: field(7, field(1, field(5, field(22, field(1, tensor(**w)))))),
    "attribute of many sparse tensors": lambda **w: field(7, field(1, field(5, field(23, field(2, tensor(**w)))))),
    "subgraph": lambda **w: field(7, field(1, subgraph(**w))),
    "subgraph among many": lambda **w: field(7, field(1, field(5, field(11, field(5, tensor(**w)))))),
    "function": lambda **w: field(25, field(7, constant(**w))),
    "default of a function's attribute": lambda **w: field(25, field(11, field(5, tensor(**w)))),
    "training graph": lambda **w: field(20, field(1, field(5, tensor(**w)))),
    "training algorithm": lambda **w: field(20, field(2, field(5, tensor(**w)))),
}


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_another_file_is_found_wherever_it_is(place: str, writing: str) -> None:
    whole = model([helper.make_node("Add", ["x", "x"], ["y"])])
    require_whole_graph(whole, what="graph")
    with pytest.raises(EngineError, match="weights in another file"):
        require_whole_graph(whole + PLACES[place](**WRITINGS[writing]), what="graph")
    with pytest.raises(EngineError, match="weights in another file"):
        require_whole_graph(PLACES[place](**WRITINGS[writing]) + whole, what="graph")


def test_a_function_that_reads_a_file_is_refused_before_onnxruntime_runs_it() -> None:
    opsets = [helper.make_opsetid("", 18)]
    function = helper.make_function("local", "F", ["x"], ["y"], [TAKE], opsets)
    data = model([helper.make_node("F", ["x"], ["y"], domain="local")])
    nodes = field(7, constant(value_first=True))
    data += field(25, nodes + function.SerializeToString())
    with pytest.raises(EngineError, match="weights in another file"):
        open_session("onnxruntime", data)


def test_a_nest_of_subgraphs_is_walked_without_recursion() -> None:
    inside = field(5, tensor())
    for _ in range(3000):
        inside = field(1, field(5, field(6, inside)))
    with pytest.raises(EngineError, match="weights in another file"):
        require_whole_graph(field(7, inside), what="graph")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x7fshort",  # longer than the file
        field(7, field(5, b"\x0a\x7f")),  # longer than the tensor
        b"\x08",  # no value
        b"\x88" * 11,  # a number without an end
        b"\x3b\x3c",  # a group
        b"\x00\x00",  # field 0
        b"<net name='ir'/>",  # OpenVINO's format
        b"\x18\x00\x00\x00ORTM" + bytes(16),  # onnxruntime's own
    ],
)
def test_bytes_that_are_no_messages_are_refused(data: bytes) -> None:
    with pytest.raises(EngineError, match="it: not an ONNX model"):
        require_whole_graph(data, what="it")


def test_weights_that_only_look_like_it_are_taken() -> None:
    raw = tensor(value_first=True) * 3
    weights = TensorProto(dims=[len(raw)], data_type=TensorProto.UINT8, name="location", raw_data=raw)
    data = model([helper.make_node("Add", ["x", "x"], ["y"], name="location")])
    data += field(7, field(5, weights.SerializeToString()))
    assert open_session("onnxruntime", data).run({"x": np.ones(400, np.float32)})["y"].tolist() == [2] * 400
