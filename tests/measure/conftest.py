"""What several measuring tests share: one colour retriever and one classifier, made once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from colour_bundles import classifier, retriever


@pytest.fixture(scope="session")
def good_retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retriever(tmp_path_factory.mktemp("bundles") / "good", wide=64)


@pytest.fixture(scope="session")
def noisy_retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retriever(tmp_path_factory.mktemp("bundles") / "noisy", noise=0.5)


@pytest.fixture(scope="session")
def good_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("bundles") / "seeing")


@pytest.fixture(scope="session")
def blind_classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("bundles") / "blind", blind=True)
