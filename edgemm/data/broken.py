"""Broken samples: left out and told by name, up to a limit."""

from __future__ import annotations

from edgemm.runtime.errors import DataError


class Broken:
    """One line for each sample that was left out.

    Args:
        limit: ``data.max_broken``; one more is an error.

    Attributes:
        columns: one line for each column that was left out, and was perhaps meant.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lines: list[str] = []
        self.columns: list[str] = []

    def add(self, line: str) -> None:
        """Leave out one more sample. Raises DataError beyond the limit."""
        self.lines.append(line)
        if len(self.lines) > self.limit:
            allowed = f"; max_broken = {self.limit}, {len(self.lines)} found so far" if self.limit else ""
            raise DataError(f"{line}{allowed}; mend it, or raise data.max_broken to skip such samples")
