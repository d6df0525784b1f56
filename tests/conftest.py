"""Tests that did not run are named at the end, loudly; without what one can install the run fails.

A test that needs what no Python package brings names it, as ``install.THINGS`` does: ``@pytest.mark.needs("sounds")``.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import islice

import pytest

from install import THINGS, missing_things

_MISSING = "needs "


SECONDS = {"docs": 30, "corridor": 20, "slow": 8}
"""Mark -> about how long such a test takes."""


@pytest.hookimpl(trylast=True)  # after -m and -k have chosen
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the long tests, so that no process is left with one at the end while the others wait.

    ``--dist worksteal`` cuts the list into one piece for each process. Each piece starts with its share of the long
    tests. Those of one file stay together, since they share what they are made with.
    """
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    files: dict[str, list[pytest.Item]] = defaultdict(list)
    short = []
    for item in items:
        (files[item.nodeid.partition("::")[0]] if _seconds(item) else short).append(item)
    shares: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for long in sorted(files.values(), key=lambda tests: -sum(map(_seconds, tests))):
        min(shares, key=lambda share: sum(map(_seconds, share))).extend(long)
    rest = iter(short)
    left, ordered = len(items), []
    for index, share in enumerate(shares):
        piece = left // (processes - index)
        ordered += share + list(islice(rest, max(0, piece - len(share))))
        left = len(items) - len(ordered)
    items[:] = [*ordered, *rest]


def _seconds(item: pytest.Item) -> int:
    return max((SECONDS.get(mark.name, 0) for mark in item.iter_markers()), default=0)


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
