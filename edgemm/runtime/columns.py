"""Tables for a terminal, a log or a mail: aligned columns that are never wider than the screen. Standard library only.

Where a table does not fit, first the headings and the small print of a cell go on lines of their own, then the longest
texts are wrapped, and at last the columns are printed in bands, one below the other, each with the first column.
"""

from __future__ import annotations

import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from edgemm.runtime.fields import printable

GAP = 2
WIDTH = 80
"""Columns of a screen that says nothing of its width, and of a file or a pipe."""
_NARROWEST = 10  # columns that wrapping leaves to a text


def screen_width() -> int:
    """Columns that a line of standard output may take: ``$COLUMNS``, the terminal's, or 80."""
    if sys.stdout.isatty() or os.environ.get("COLUMNS"):
        return max(40, shutil.get_terminal_size((WIDTH, 24)).columns)
    return WIDTH


def table_lines(
    header: Sequence[str],
    rows: Iterable[Sequence[str | tuple[str, str]]],
    *,
    left: int = 1,
    whole: int = 0,
    width: int | None = None,
    dim: bool = False,
) -> list[str]:
    """Lay a table out in lines of at most ``width`` columns.

    Args:
        header: a heading per column.
        rows: a text per column, or a text and its small print.
        left: the first columns are texts and set to the left; the others are figures, set to the right.
        whole: the first columns whose texts stay in one line, so that they can be copied; their small print may not.
        width: None: ``screen_width()``.
        dim: small print that has a line of its own is dimmed, on a terminal that can.
    """
    width = screen_width() if width is None else width
    header = [printable(name) for name in header]
    cells = [[(cell, "") if isinstance(cell, str) else cell for cell in row] for row in rows]
    body = [[(printable(main), printable(small)) for main, small in row] for row in cells]
    beside = [[[f"{main} {small}".strip()] for main, small in row] for row in body]
    heads = [[name] for name in header]
    widths = [max(map(_width, [head[0], *(row[i][0] for row in beside)])) for i, head in enumerate(heads)]
    if sum(widths) + GAP * (len(widths) - 1) <= width:
        return _set([heads, *beside], widths, left=left)
    texts = [[[main, small] if small else [main] for main, small in row] for row in body]
    kept = [
        max([_NARROWEST if i < left else 1, *(_width(x) if i < left else _whole(x) for row in texts for x in row[i])])
        for i in range(len(header))
    ]
    kept = [max(size, *map(_width, name.split() or [""])) for size, name in zip(kept, header, strict=True)]
    least = [
        max([_NARROWEST, *(_width(row[i][0]) for row in texts)]) if i < whole else max(_NARROWEST, width // 4)
        for i in range(left)
    ]
    bands = _bands(_narrowed(kept, least, width=width), width=width)
    lines: list[str] = []
    for band in bands:
        sizes = [size for _, size in band]
        heads = [wrapped(header[i], size) for i, size in band]
        laid = [[[""] * (max(map(len, heads)) - len(head)) + head for head in heads]]
        laid += [[[piece for line in row[i] for piece in wrapped(line, size)] for i, size in band] for row in texts]
        small = [{number for number, (i, _) in enumerate(band) if row[i][1:]} for row in texts]
        lines += [""] if lines else []
        lines += _set(laid, sizes, left=sum(i < left for i, _ in band), dimmed=[set(), *small] if dim else None)
    return lines


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text of at most ``width`` columns; a word that is longer is cut."""
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and _width(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and _width(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _narrowed(widths: Sequence[int], least: Sequence[int], *, width: int) -> list[int]:
    """The widest texts, which come first, take less until all fits, or until each has its least; figures stay whole."""
    widths = list(widths)
    while sum(widths) + GAP * (len(widths) - 1) > width:
        room = [i for i, size in enumerate(least) if widths[i] > size]
        if not room:
            break
        widths[max(room, key=lambda i: widths[i])] -= 1
    return [min(size, width) for size in widths]


def _bands(widths: Sequence[int], *, width: int) -> list[list[tuple[int, int]]]:
    """Return the columns and their widths, band by band; the first column begins each."""
    first = (0, widths[0])
    bands = [[first]]
    for column in enumerate(widths[1:], 1):
        taken = sum(size for _, size in bands[-1]) + GAP * len(bands[-1])
        if taken + column[1] > width and len(bands[-1]) > 1:
            bands.append([first])
        bands[-1].append((column[0], min(column[1], width - GAP - widths[0])))
    return bands


def _set(
    rows: Sequence[Sequence[Sequence[str]]],
    widths: Sequence[int],
    *,
    left: int,
    dimmed: Sequence[set[int]] | None = None,
) -> list[str]:
    """Lines of rows whose cells have lines. ``dimmed``: for each row the columns whose last line is small print."""
    lines = []
    for number, row in enumerate(rows):
        for at, pieces in enumerate(zip_longest(*row, fillvalue="")):
            line = ""
            for i, (piece, size) in enumerate(zip(pieces, widths, strict=True)):
                blank = " " * (size - _width(piece))
                shown = piece
                if dimmed is not None and i in dimmed[number] and at == len(row[i]) - 1:
                    shown = f"\x1b[2m{piece}\x1b[0m"
                line += (" " * GAP if i else "") + (shown + blank if i < left else blank + shown)
            lines.append(line.rstrip())
    return lines


def _whole(text: str) -> int:
    """Columns that a cell of figures needs: a figure and its interval stay whole, words may be wrapped."""
    return _width(text) if any(map(str.isdigit, text)) else max(map(_width, text.split(" ")))


def _width(text: str) -> int:
    """Columns that a text takes: two for a letter of Chinese, Japanese or Korean, none for a combining mark."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )  # fmt: skip
