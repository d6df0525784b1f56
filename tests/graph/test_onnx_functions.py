from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from edgemm.graph.onnx_functions import kept_functions

OPSET = 21


def exported() -> bytes:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).eval()
    program = torch.export.export(module, (torch.zeros(2, 4),))
    made = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    assert made is not None
    return made.model_proto.SerializeToString()


@pytest.mark.filterwarnings("ignore")  # torch's own, about its own internals
def test_the_table_is_made_once_for_many_exports_and_the_graphs_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = exported()
    tables = []
    finish = ONNXRegistry._cleanup_registry_based_on_opset_version
    monkeypatch.setattr(
        ONNXRegistry, "_cleanup_registry_based_on_opset_version", lambda self: (tables.append(self), finish(self))
    )
    for _ in range(2):
        with kept_functions(OPSET):
            assert exported() == plain
    assert len(tables) <= 1  # none where another test of this process exported before


def test_torchs_own_way_is_back_afterwards_whatever_happened() -> None:
    own = vars(ONNXRegistry)["from_torchlib"]
    with pytest.raises(KeyError), kept_functions(OPSET):
        raise KeyError
    assert vars(ONNXRegistry)["from_torchlib"] is own


def test_a_torch_without_such_a_table_exports_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ONNXRegistry, "from_torchlib")
    with kept_functions(OPSET):
        assert "from_torchlib" not in vars(ONNXRegistry)
