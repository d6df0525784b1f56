"""What every stage is given: artifacts to read, a folder to write, and a context that changes no output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Artifact:
    """An immutable folder. ``key`` names the inputs that made it, ``digest`` (sha256) its bytes."""

    path: Path
    stage: str
    key: str
    digest: str


class Task(Protocol):
    """One line of progress."""

    def advance(self, steps: int = 1, *, note: str = "") -> None:
        """Report finished steps and, beside the bar, a short note (``"loss 0.31"``)."""
        ...


class Progress(Protocol):
    """Where stages report progress; the command line draws it with ETA."""

    @contextmanager
    def task(self, title: str, *, total: int) -> Iterator[Task]:
        """Open one line of progress of ``total`` steps; 0: not known."""
        ...

    def say(self, line: str) -> None:
        """Print one line a person should read (a rolled-back optimisation, a skipped sample)."""
        ...


class _SilentTask:
    def advance(self, steps: int = 1, *, note: str = "") -> None:
        pass


class Silent:
    """A Progress that reports nothing."""

    @contextmanager
    def task(self, title: str, *, total: int) -> Iterator[Task]:  # noqa: ARG002
        """Open a line that is never drawn."""
        yield _SilentTask()

    def say(self, line: str) -> None:
        """Say nothing."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a stage may use but what must not change its output.

    Args:
        scratch: a folder that survives a kill of the process and is deleted when the stage is
            published; checkpoints and chunks of caches go there, so that a long stage resumes.
        progress: where to report.
        cache: folder for content-addressed caches shared between stages (teacher embeddings); one for each state of
            the code, which the caches' own keys need not name.
    """

    scratch: Path
    progress: Progress = field(default_factory=Silent)
    cache: Path | None = None


Inputs = Mapping[str, Artifact]
