"""The end of a run says what shipping costs: three lines at most, then how many more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgemm.measure.table import rows
from edgemm.pipeline.run import print_costs
from tests.report.invented_report import invented


def test_a_run_ends_with_the_three_worst_and_how_many_more(capsys: pytest.CaptureFixture[str]) -> None:
    found = invented("ranks")
    lost = replace(
        found,
        measurements=tuple(
            replace(m, samples=(40.0,) * 90) if m.kind == "ranks" and m.variant == "int8" else m
            for m in found.measurements
        ),
    )
    table = rows(lost, resamples=100)
    print_costs(table, reported=True)
    blank, *lines, more = capsys.readouterr().out.splitlines()
    assert blank == ""
    assert len(lines) == 3
    assert all(line.startswith("costs    ") and ": R@1" in line and " points [−" in line for line in lines)
    assert more == "         and 9 more of 12 figures; the report lists all"
    print_costs(rows(found, resamples=100)[:1], reported=True)
    assert capsys.readouterr().out == ""
