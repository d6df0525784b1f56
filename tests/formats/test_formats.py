"""Every bundle format ever released still opens, verifies and predicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgemm.runtime import Bundle

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
