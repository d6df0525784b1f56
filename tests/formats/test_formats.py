"""Every bundle format ever released still opens, verifies and predicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgemm.models.store import load_model
from edgemm.runtime import Bundle
from edgemm.runtime.outputs import Classes

RELEASED = sorted(path.parent for path in Path(__file__).parent.glob("v*/bundle"))


def test_there_is_a_bundle_of_every_format() -> None:
    from edgemm.runtime.manifest import FORMAT

    assert [folder.name for folder in RELEASED] == [f"v{version}" for version in range(1, FORMAT + 1)]


@pytest.mark.parametrize("folder", RELEASED, ids=lambda path: path.name)
@pytest.mark.parametrize("target", ["cpu", "openvino"])
def test_a_released_bundle_opens_verifies_and_predicts(folder: Path, target: str) -> None:
    bundle = Bundle.open(folder / "bundle", target=target)
    report = bundle.verify()
    assert report.ok, report.problems
    assert report.samples == 3
    sample = bundle.golden_inputs(bundle.manifest.golden[0])
    matches = bundle.predict(image=sample["image"]).matches
    assert matches is not None
    assert matches[0][0][0] == "entry 0"


def test_a_model_folder_of_format_1_still_loads_and_answers_as_it_did() -> None:
    model = load_model(Path(__file__).parent / "v1" / "model")
    assert model.outputs == {"logits": Classes(("wet", "cold"), independent=True)}
    with torch.no_grad():
        made = model({"left": torch.tensor([[0.1, 0.2, 0.3]]), "right": torch.tensor([[1.0, -1.0]])})
    answered = torch.tensor([[0.08277169, -0.07971847]])  # when it was saved
    torch.testing.assert_close(made["logits"], answered)
