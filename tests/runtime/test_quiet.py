"""Quiet: threads that come and go leave warnings and loggers as they were; others' warnings are shown meanwhile."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path

import pytest

from edgemm.runtime.quiet import Quiet

PACKAGE = Path(__file__).parents[2] / "edgemm"


def test_threads_that_come_and_go_leave_everything_as_it_was() -> None:
    logger = logging.getLogger("a.library")
    logger.setLevel(logging.INFO)
    quiet = Quiet("a_library", loggers=("a.library",))
    before = list(warnings.filters)
    inside, left = threading.Event(), threading.Event()

    def stays() -> None:
        with quiet:
            inside.set()
            left.wait(10)

    thread = threading.Thread(target=stays)
    with quiet:  # in first and out first: catch_warnings would now put back what the other changes
        thread.start()
        assert inside.wait(10)
    assert logger.level == logging.CRITICAL  # the other is still inside
    warnings.warn_explicit("hidden", UserWarning, "a_library.py", 1, module="a_library")
    left.set()
    thread.join()
    assert list(warnings.filters) == before
    assert logger.level == logging.INFO
    with pytest.warns(UserWarning, match="shown"):
        warnings.warn_explicit("shown", UserWarning, "a_library.py", 2, module="a_library")


def test_warnings_of_others_are_shown_meanwhile() -> None:
    with Quiet("a_library"), pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", UserWarning, stacklevel=1)


def test_nothing_else_changes_warnings_and_streams_of_the_whole_process() -> None:
    words = ("catch_warnings(", "redirect_stderr(", "redirect_stdout(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert found <= {"cli.py", "pipeline/announce.py"}  # the program itself, around all that it runs
