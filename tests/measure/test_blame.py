"""Blame finds the part that was spoiled, and says nothing of those that were not."""

from __future__ import annotations

from pathlib import Path

import pytest
from colour_bundles import classifier, question_samples, retrieval_samples, retriever

from edgemm.measure.blame import blame
from edgemm.runtime.errors import BundleError


def test_the_spoiled_part_is_blamed_and_putting_it_back_restores_the_metric(tmp_path: Path) -> None:
    samples = question_samples(tmp_path / "pictures")
    good, spoiled = classifier(tmp_path / "good"), classifier(tmp_path / "blind", blind=True)
    found = blame(spoiled, good, split="test", samples=samples)
    assert found.metric == "accuracy"
    assert found.compressed.value == pytest.approx(2 / 3)
    assert [p.part for p in found.parts] == ["head"]
    assert found.parts[0].gain.value == pytest.approx(1 / 3)
    assert found.parts[0].extra_bytes == 0


def test_a_retriever_is_blamed_by_its_recall(tmp_path: Path) -> None:
    samples = retrieval_samples(tmp_path / "pictures")
    good, noisy = retriever(tmp_path / "good"), retriever(tmp_path / "noisy", noise=0.5)
    found = blame(noisy, good, split="unseen", samples=samples)
    assert (found.task, found.metric) == ("text→image", "R@10")
    assert [p.part for p in found.parts] == ["image"]


def test_bundles_of_different_models_or_without_difference_are_refused(tmp_path: Path) -> None:
    samples = question_samples(tmp_path / "pictures")
    one, other = classifier(tmp_path / "one"), retriever(tmp_path / "other")
    with pytest.raises(BundleError, match="nothing to blame"):
        blame(one, one, split="test", samples=samples)
    with pytest.raises(BundleError, match="expected two bundles of one model"):
        blame(one, other, split="test", samples=samples)
    elsewhere = classifier(tmp_path / "elsewhere", blind=True, engines=("openvino",))
    with pytest.raises(BundleError, match="expected one engine"):
        blame(elsewhere, one, split="test", samples=samples)
