"""Printing: what a program of edgemm lets through to a terminal or a pipe, whoever writes it. Standard library only.

Why: labels, file names and messages come from strangers, and a terminal obeys what stands in them; a pipe on Windows
takes cp1252 and a bare container ASCII, and a letter outside it ended in a traceback; an engine that prints a line of
its own to standard output spoils the JSON that a script reads. So both streams escape what steers a terminal and what
their encoding lacks, and what is not printed by Python (engines, their libraries) goes to standard error.

One value that must stay in its line (a label, a cell of a table, a message) goes through ``fields.printable`` as well,
which escapes line ends too.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO, cast

from edgemm.runtime.fields import STEERS, printable

# Line ends, tabs and returns (bars of libraries) are layout here, and so is our own small print: ESC[2m, ESC[0m.
_STEERS = re.compile(rf"(?![\n\r\t]|\x1b\[[02]m){STEERS}")


@contextmanager
def printing_safely() -> Iterator[None]:
    """Let this program's streams escape what they should not pass on; as they were before at the end."""
    _keep_stdout_for_python_()
    before = sys.stdout, sys.stderr
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:  # where a stream was closed before the start
        sys.stdout, sys.stderr = (cast(TextIO, Escaping(stream or nowhere)) for stream in before)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


def print_error(error: BaseException | str, *, before: str) -> None:
    """Print a line on standard error for each problem that an error names (its arguments), after ``before``."""
    for problem in [error] if isinstance(error, str) else error.args or [type(error).__name__]:
        print(f"{before}{printable(str(problem))}", file=sys.stderr)


def end_output_() -> None:
    """Write what is still to be written to standard output; nowhere, where its reader is gone or its disk is full."""
    try:
        sys.stdout.flush()
    except OSError:  # the interpreter's own last flush stays quiet then as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Escaping:
    """A text stream that escapes what steers a terminal, and what its encoding lacks.

    Args:
        stream: what is written to.
        steers: let through what steers a terminal, for those who draw.
    """

    def __init__(self, stream: Any, *, steers: bool = False) -> None:
        self.stream: Any = stream.stream if isinstance(stream, Escaping) else stream
        self._steers = steers

    def write(self, text: str) -> int:
        """Write a text; the number of its letters."""
        shown = text if self._steers or (text.isascii() and text.isprintable()) else _STEERS.sub(_escaped, text)
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        try:
            shown.encode(encoding)
        except UnicodeEncodeError:
            shown = shown.encode(encoding, "backslashreplace").decode(encoding)
        self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write texts, one after the other."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _keep_stdout_for_python_() -> None:
    """Give Python's standard output a handle of its own, and let handle 1, where libraries write, be standard error.

    Once in a process, and for its rest: what a library has buffered is written when the process ends.
    """
    real = cast(Any, sys.__stdout__)
    try:
        if real is None or id(sys.stdout) != id(real) or real.fileno() != 1:
            return  # there is none, it is captured, or this was done before
        real.flush()
        own = os.dup(1)
        try:
            os.dup2(2, 1)
        except OSError:  # closed
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except (OSError, ValueError):
        return
    sys.stdout = sys.__stdout__ = TextIOWrapper(  # type: ignore[misc]
        os.fdopen(own, "wb", buffering=0 if real.write_through else -1),
        encoding=real.encoding,
        errors=real.errors,
        line_buffering=real.line_buffering,
        write_through=real.write_through,
    )
