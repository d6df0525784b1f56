"""Tests that did not run are named at the end, loudly; without what one can install the run fails.

A test that needs what no Python package brings names it, as ``install.THINGS`` does: ``@pytest.mark.needs("sounds")``.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

from install import THINGS, missing_things

_MISSING = "needs "


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(thing): needs what install.THINGS names")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        (thing,) = mark.args
        if thing in missing_things():
            pytest.skip(f"{_MISSING}{thing}: {THINGS[thing][2]}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A run without what one can install does not pass for a whole one."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or exitstatus != pytest.ExitCode.OK:
        return
    if any(_reason(report).startswith(_MISSING) for report in reporter.getreports("skipped")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.getreports("skipped"):
        by_reason[_reason(report)].append(report.nodeid)
    if not by_reason:
        return
    count = sum(map(len, by_reason.values()))
    terminalreporter.section(f"NOT RUN: {count} {'test' if count == 1 else 'tests'}", sep="!", red=True, bold=True)
    for reason, names in sorted(by_reason.items()):
        terminalreporter.write_line(f"{len(names)} × {reason}")
        for name in sorted(names):
            terminalreporter.write_line(f"    {name}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why a test was skipped."""
    return report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
