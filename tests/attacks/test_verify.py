"""What ``verify`` calls whole: nothing else lies in the bundle, and every answer is compared with something."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import bundles
import numpy as np
import pytest
from onnx import helper
from sealing import reseal, text_graph, with_graph

from edgemm.runtime import Bundle
from edgemm.runtime.__main__ import main

N = helper.make_node
REAL = N("Cast", ["input_ids"], ["x"], to=1)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("v") / "bundle"
    bundles.dual_encoder(folder, targets=("cpu",))
    return folder


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "bundle"))


def problems(folder: Path) -> str:
    report = Bundle.open(folder).verify()
    assert report.ok is (not report.problems)
    return "\n".join(report.problems)


def test_a_link_to_a_folder_is_not_overlooked(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "payload.py").write_text("x")
    (folder / "more").symlink_to(tmp_path / "outside")
    (folder / "graphs" / "again").symlink_to(folder / "graphs")
    assert problems(folder).splitlines() == [
        f"{folder}: graphs/again: not listed in the manifest",
        f"{folder}: more: not listed in the manifest",
    ]


def test_pipes_and_dangling_links_are_not_overlooked(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "graphs" / "gone").symlink_to("nowhere")
    assert problems(folder).count("not listed") == 2


def tolerance(**value: float) -> Any:
    return lambda m: m["golden_outputs"]["cpu"].update(max_abs_error=value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tolerance(), "no max_abs_error for output 'image_embedding', which is therefore compared with nothing"),
        (tolerance(image_embedding=1e-4), "no max_abs_error for output 'text_embedding'"),
        (tolerance(image_embedding=1e-4, text_embedding=1.0), "'text_embedding' may be off by 1, and is at most 0."),
        (tolerance(image_embedding=1e299, text_embedding=1e-4), "'image_embedding' may be off by 1e+299"),
        (lambda m: m.update(golden_outputs={}), "no golden outputs to compare its answers with"),
        (lambda m: m.update(golden=[]), "output 'image_embedding' is off by inf"),
        (lambda m: m["golden"].pop(), "output 'image_embedding' is off by inf"),
        (lambda m: m["golden"][0]["inputs"].pop("image"), "only 2 of 3 golden samples lead to 'image_embedding'"),
    ],
)
def test_golden_samples_that_compare_nothing_are_a_problem(folder: Path, change: Any, message: str) -> None:
    assert message in problems(reseal(folder, change))


@pytest.mark.parametrize(
    "made",
    [
        np.full((3, 16), np.nan, np.float32),
        np.full((3, 16), np.inf, np.float32),
        np.zeros((0, 16), np.float32),
        np.zeros((3, 1), np.float32),
        np.zeros((3, 16), np.float64),
        np.zeros((3, 16), np.complex64),
        np.full((3, 16), "x"),
        np.zeros((3, 16), "V3"),
        np.zeros((3, 16), "M8[s]"),
    ],
    ids=str,
)
def test_golden_outputs_that_no_answer_equals_are_a_problem(folder: Path, made: np.ndarray) -> None:
    right = dict(np.load(folder / "golden/outputs.npz"))
    if made.dtype == np.float64 and made.shape == (3, 16):
        made = right["text_embedding"].astype(np.float64)  # the right numbers, of another dtype
    np.savez(folder / "golden/outputs.npz", **{**right, "text_embedding": made})
    found = problems(reseal(folder))
    assert "output 'text_embedding' is off by inf" in found or "not an .npz of arrays of numbers" in found


def test_nan_that_the_golden_outputs_hold_too_is_a_problem(folder: Path) -> None:
    nan = text_graph(
        [REAL, N("ReduceSum", ["x", "a"], ["s"], keepdims=1), N("Mul", ["s", "w"], ["text_embedding"])],
        weights={"a": np.array([1]), "w": np.full((1, 16), np.nan, np.float32)},
    )
    right = dict(np.load(folder / "golden/outputs.npz"))
    np.savez(folder / "golden/outputs.npz", **{**right, "text_embedding": np.full((3, 16), np.nan, np.float32)})
    assert "output 'text_embedding' is off by inf" in problems(with_graph(folder, "text", nan))


def test_names_and_placeholders_that_the_golden_samples_never_ask_for_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    bundles.fusion_classifier(folder, placeholders=True)
    assert problems(folder) == ""
    np.save(folder / "text_features.npy", np.zeros((1, 3), np.float32))
    assert "text_features.npy: placeholder of 'text_features': got float32 (1, 3)" in problems(reseal(folder))
    np.save(folder / "text_features.npy", np.zeros((1, 16), np.float32))
    (folder / "labels.json").write_text('["yes", 1]')
    assert "labels.json: got list" in problems(reseal(folder))


def test_a_bundle_without_golden_samples_says_that_nothing_was_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundles.sensor_classifier(tmp_path / "bundle")
    assert main(["verify", str(tmp_path / "bundle")]) == 0
    assert capsys.readouterr().out.rstrip().endswith("no golden samples, so no answer was compared")


def sliced(*nodes: Any, dtype: int = 1, **weights: Any) -> bytes:
    return text_graph([REAL, *nodes], dtype=dtype, weights=weights)


GRAPHS = {
    "strings": (text_graph([N("Cast", ["input_ids"], ["text_embedding"], to=8)], dtype=8), "tensor(string)"),
    "integers": (text_graph([N("Identity", ["input_ids"], ["text_embedding"])], dtype=7), "as int64"),
    "no axes": (sliced(N("ReduceSum", ["x"], ["text_embedding"], keepdims=0)), "as float32 (),"),
    "no rows": (sliced(N("Slice", ["x", "s", "s"], ["text_embedding"]), s=np.array([0])), "as float32 (0, 4),"),
    "another width": (sliced(N("Identity", ["x"], ["text_embedding"])), "as float32 (1, 4),"),
    "rows of other samples": (
        sliced(
            N("Concat", ["x", "x"], ["xx"], axis=0), N("Expand", ["xx", "w"], ["text_embedding"]), w=np.array([1, 1])
        ),
        "as float32 (2, 4),",
    ),
    "a sequence": (
        helper.make_model(
            helper.make_graph(
                [REAL, N("SequenceConstruct", ["x"], ["text_embedding"])],
                "g",
                [helper.make_tensor_value_info(n, 7, ["b", "t"]) for n in ("input_ids", "attention_mask")],
                [helper.make_tensor_sequence_value_info("text_embedding", 1, None)],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=9,
        ).SerializeToString(),
        "seq(tensor(float))",
    ),
}


@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_that_answers_something_else_than_its_signature_says_is_refused(
    folder: Path, graph: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data, message = GRAPHS[graph]
    with_graph(folder, "text", data)
    assert main(["infer", str(folder), "--text", "a cat"]) == 2
    line = capsys.readouterr().err
    assert message in line
    assert "the manifest says float32" in line
    assert line.count("\n") == 1
    assert message in problems(folder)


def test_what_a_graph_makes_beside_its_signature_replaces_no_value(folder: Path) -> None:
    """A frontend that also gives 'text_embedding' would answer for the text tower."""
    import onnx

    model = onnx.load(folder / "graphs/image.onnx")
    model.graph.node.append(N("Identity", ["image_embedding"], ["input_ids"]))
    model.graph.output.append(helper.make_tensor_value_info("input_ids", 1, ["batch", 16]))
    with_graph(folder, "image", model.SerializeToString())
    bundle = Bundle.open(folder)
    alone = bundle.predict(text="a cat").outputs["text_embedding"]
    both = bundle.predict(text="a cat", image=bundles.png(0)).outputs["text_embedding"]
    np.testing.assert_array_equal(both, alone)
