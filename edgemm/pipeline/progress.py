"""Progress: bars with ETA on a terminal, plain lines everywhere else.

Why: a stage that is silent for minutes looks hung, and control codes in a log file are unreadable. A stage reports
through ``edgemm.stage.Progress`` and knows nothing of either.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO, cast

from edgemm.pipeline.announce import duration, progress_stream
from edgemm.runtime.fields import printable
from edgemm.runtime.printing import Escaping

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from edgemm.stage import Progress


class Lines:
    """Plain lines: one when a task starts to take long, then one now and then.

    Args:
        stream: where lines go.
        every_s: least seconds between two lines of one task.
    """

    def __init__(self, stream: TextIO, *, every_s: float = 10.0) -> None:
        self._stream = stream
        self._every_s = every_s

    @contextmanager
    def task(self, title: str, *, total: int) -> Iterator[_LineTask]:
        """Open one line of progress of ``total`` steps; 0: not known."""
        yield _LineTask(self, title, total, self._every_s)

    def say(self, line: str) -> None:
        """Print a line at once."""
        print(printable(line), file=self._stream, flush=True)


class _LineTask:
    def __init__(self, lines: Lines, title: str, total: int, every_s: float) -> None:
        self._lines, self._title, self._total, self._every_s = lines, title, total, every_s
        self._done = 0
        self._started = self._last = time.monotonic()

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        if now - self._last < self._every_s:
            return
        self._last = now
        beside = f"  {note}" if note else ""
        if not self._total:  # how many there are is not known
            self._lines.say(f"  {self._title}: {self._done}{beside}")
            return
        left = (now - self._started) / max(self._done, 1) * max(self._total - self._done, 0)
        self._lines.say(f"  {self._title}: {self._done}/{self._total}, {duration(left)} left{beside}")


class Bars:
    """Bars with elapsed time and ETA, drawn by rich while a task is open."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console

        self._console = Console(file=cast(TextIO, Escaping(stream, steers=True)), highlight=False)
        self._live: RichProgress | None = None

    @contextmanager
    def task(self, title: str, *, total: int) -> Iterator[_BarTask]:
        """Open one bar of ``total`` steps; tasks inside a task get bars of their own."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if self._live is not None:
            bar = self._live.add_task(printable(title), total=total or None, note="")
            try:
                yield _BarTask(self._live, bar)
            finally:
                self._live.remove_task(bar)
            return
        columns = (
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as live:
            self._live = live
            try:
                yield _BarTask(live, live.add_task(printable(title), total=total or None, note=""))
            finally:
                self._live = None

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._console.print(printable(line), markup=False, soft_wrap=True)


class _BarTask:
    def __init__(self, live: RichProgress, bar: object) -> None:
        self._live, self._bar = live, bar

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        self._live.update(self._bar, advance=steps, **({"note": note} if note else {}))  # type: ignore[arg-type]


def progress_for(stream: TextIO | None = None) -> Progress:
    """Bars where the stream (``progress_stream()`` by default) is a terminal, lines where it isn't."""
    stream = stream or progress_stream()
    return Bars(stream) if stream.isatty() else Lines(stream)
