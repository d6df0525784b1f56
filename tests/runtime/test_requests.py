"""Requests: what a bundle is asked in one go."""

from __future__ import annotations

from pathlib import Path

import bundles
import pytest

from edgemm.runtime.bench import bench_bundle, report_lines
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import InputError
from edgemm.runtime.requests import requests_of


def test_a_search_is_asked_by_one_modality_and_a_classifier_by_all_it_joins(tmp_path: Path) -> None:
    bundles.dual_encoder(tmp_path / "search", targets=("cpu",))
    bundles.fusion_classifier(tmp_path / "answers")
    bundles.embedder(tmp_path / "embedder")
    assert requests_of(Bundle.open(tmp_path / "search")) == {"image": ("image",), "text": ("text",)}
    assert requests_of(Bundle.open(tmp_path / "answers")) == {"image and text": ("image", "text")}
    assert requests_of(Bundle.open(tmp_path / "embedder")) == {"image": ("image",)}


def test_a_request_is_of_what_a_sample_has_where_placeholders_stand_in(tmp_path: Path) -> None:
    bundles.fusion_classifier(tmp_path / "lenient", placeholders=True)
    bundles.fusion_classifier(tmp_path / "strict")
    assert requests_of(Bundle.open(tmp_path / "lenient"), ["text"]) == {"text": ("text",)}
    assert requests_of(Bundle.open(tmp_path / "strict"), ["text"]) == {}
    with pytest.raises(InputError, match="'logits' also needs 'image'"):
        bench_bundle(Bundle.open(tmp_path / "strict"), {"text": "a cat"}, seconds=0.01)


def test_a_bench_names_the_request_and_says_what_its_figures_compare_with(tmp_path: Path) -> None:
    bundles.fusion_classifier(tmp_path / "answers")
    made = bench_bundle(Bundle.open(tmp_path / "answers"), {}, seconds=0.01)
    assert [name for name in made["latencies"] if name.startswith("end")] == ["end to end, image and text"]
    assert made["requests"] == {"image and text": ["image", "text"]}
    assert any(line.startswith("hot: ") and "report" in line for line in report_lines(made))
