"""The ONNX standard's own node tests, through every graph pass: what a graph answers doesn't change.

Each case is run as given, and with all inputs but the first turned into weights. onnxruntime runs it before and after;
what it can't run, the standard's reference evaluator does; what neither can run is named in a skip. Where a case
answers by chance, its operators stay.
"""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as standard
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edgemm.graph.passes import clean_, finish_
from edgemm.graph.passes.batchnorm import FoldBatchNorm
from edgemm.graph.passes.clean import DropIdentity, DropUnused, ForgetShapes, NumberNames
from edgemm.graph.passes.constants import FoldConstants
from edgemm.graph.passes.padding import FoldPad
from edgemm.graph.passes.pooling import MeanToPool
from edgemm.runtime.engine_onnxruntime import ort

FAMILIES = sorted(
    name
    for _, name, is_package in pkgutil.walk_packages(standard.__path__, f"{standard.__name__}.")
    if not is_package and not name.rpartition(".")[2].startswith("_") and not name.endswith((".utils", ".common"))
)
PASSES: tuple[Callable[[ir.Model], Any], ...] = (
    FoldConstants(), DropIdentity(), DropUnused(), FoldPad(), FoldBatchNorm(), MeanToPool(), NumberNames(),
    ForgetShapes(), finish_, clean_,
)  # fmt: skip
RANDOM = ("Bernoulli", "Multinomial", "RandomNormalLike", "RandomUniformLike")


def cases_of(family: str) -> list[Any]:
    """A module of the standard makes its cases when it is imported; its random inputs are made from one seed."""
    state = np.random.get_state()
    np.random.seed(0)
    first = len(standard._NodeTestCases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(family)
    np.random.set_state(state)
    return standard._NodeTestCases[first:]


def variants(case: Any) -> Iterator[tuple[onnx.ModelProto, list[Any]]]:
    inputs = list(case.data_sets[0][0])
    yield case.model, inputs
    if len(inputs) > 1 and all(isinstance(x, np.ndarray | np.generic | onnx.TensorProto) for x in inputs):
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        for value, given in zip(case.model.graph.input[1:], inputs[1:], strict=True):
            weight = model.graph.initializer.add()
            weight.CopyFrom(given if isinstance(given, onnx.TensorProto) else numpy_helper.from_array(np.array(given)))
            weight.name = value.name
        del model.graph.input[1:]
        yield model, inputs[:1]


def on_onnxruntime(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads, options.inter_op_num_threads = 4, 1, 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def on_the_reference(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(ReferenceEvaluator(model).run(None, feeds))


def answers(model: onnx.ModelProto, inputs: Sequence[Any]) -> tuple[Callable[..., list[Any]], list[Any]] | None:
    """The first engine that can run a model, and what it answers."""
    feeds = feeds_of(model, inputs)
    for engine in (on_onnxruntime, on_the_reference):
        try:
            return engine, engine(model, feeds)
        except Exception:  # an operator, a type or an opset that an engine doesn't have; each says so differently
            continue
    return None


def feeds_of(model: onnx.ModelProto, inputs: Sequence[Any]) -> dict[str, Any]:
    arrays = [numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in inputs]
    return {value.name: array for value, array in zip(model.graph.input, arrays, strict=True)}


def flat(values: Any) -> Iterator[np.ndarray]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from flat(value)
        else:
            yield np.asarray(value)


def assert_same(got: list[Any], expected: list[Any], where: str) -> None:
    left, right = list(flat(got)), list(flat(expected))
    assert [(a.dtype, a.shape) for a in left] == [(a.dtype, a.shape) for a in right], where
    for a, b in zip(left, right, strict=True):
        if a.dtype.kind in "fc":
            # the same kernels on the same numbers; only folded weights are rounded once more
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-6, err_msg=where)
        else:
            assert (a == b).all() or a.dtype.kind == "V", where


def without_names(model: onnx.ModelProto) -> bytes:
    """What a model computes, as bytes: neither names of nodes nor what is said of values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    for node in copy.graph.node:
        node.name = ""
    for field in ("producer_name", "producer_version", "doc_string"):
        copy.ClearField(field)
    return copy.SerializeToString(deterministic=True)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES, ids=lambda name: name.removeprefix(f"{standard.__name__}."))
def test_every_pass_keeps_what_the_standards_cases_answer(family: str):
    unrun = []
    for case in cases_of(family):
        for kind, (model, inputs) in zip(("as given", "with weights"), variants(case), strict=False):
            random = any(node.op_type in RANDOM for node in model.graph.node)
            found = None if random else answers(model, inputs)
            if found is None and not random:
                unrun.append(f"{case.name} {kind}")
            for change in PASSES:
                changed = ir.from_proto(model)
                before = without_names(ir.to_proto(changed))
                change(changed)
                after = ir.to_proto(changed)
                if without_names(after) == before and change is not clean_:
                    continue
                where = f"{case.name} {kind}, {getattr(change, '__name__', type(change).__name__)}"
                if found is not None:
                    assert_same(found[0](after, feeds_of(after, inputs)), found[1], where)
                elif "Constant" not in {node.op_type for node in model.graph.node}:
                    assert operators(after) == operators(model), where
    if unrun:
        pytest.skip(f"no engine here runs {len(unrun)}: {', '.join(unrun)}")


def operators(model: onnx.ModelProto) -> list[tuple[str, bytes]]:
    return [
        (
            n.op_type,
            b"".join(a.SerializeToString(deterministic=True) for a in sorted(n.attribute, key=lambda a: a.name)),
        )
        for n in model.graph.node
    ]
