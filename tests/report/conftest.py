"""The two kinds of report, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from invented_report import make_report


@pytest.fixture(scope="session", params=["ranks", "answers"])
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a retriever, and one of a classifier."""
    return make_report(tmp_path_factory.mktemp("report"), request.param)
