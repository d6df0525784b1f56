"""Rows: one row of a table or a stream becomes a sample, its files on disk.

What a cell may be:

- ``image``, ``audio`` and every column of ``data.tensors``: a path; the bytes of the file; ``{bytes, path}`` as Hugging
  Face writes it. A tensor may also be a (nested) list of numbers.
- ``text``: a string.
- ``synonyms``: other texts that name the label, a list, or one string with ``|`` between; may be empty.
- ``label``, ``group``, ``cluster``, ``split``: a string, a number or a date. ``value``: a finite number. ``labels``: a
  list, or one string with ``|`` between; an empty one says that no class is right. Labels, groups and clusters that
  differ only in how Unicode composes their letters are one.

An empty or null ``image``, ``audio``, ``text`` or tensor is a modality that the sample lacks (a text of white space is
none, and broken). A sample that lacks all is broken, and so is one whose ``label``, ``labels`` or ``value`` is empty
though there is a column for it; in the split ``unlabelled`` it may be.
"""

from __future__ import annotations

import io
import math
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from pathlib import Path

import numpy as np

from edgemm.data.dataset import UNLABELLED, Sample, unique_texts
from edgemm.data.files import keep_bytes
from edgemm.data.splits import split_of
from edgemm.recipe import DataConfig
from edgemm.recipe.messages import nearest, or_nearest
from edgemm.runtime.errors import DataError

MODALITIES = ("image", "text", "audio")
COLUMNS = (*MODALITIES, "label", "labels", "value", "group", "cluster", "synonyms", "split")


@dataclass(frozen=True)
class RowReader:
    """Turns rows into samples.

    Args:
        columns: our name -> the row's; only those that the rows have.
        tensors: which of ours are tensors.
        locate: the file that a path in a cell means.
        cache: where bytes are kept.
    """

    columns: Mapping[str, str]
    tensors: Sequence[str]
    locate: Callable[[str], Path]
    cache: Path

    def sample(self, row: Mapping[str, object], name: str) -> tuple[str, Sample]:
        """Split, as the row spells it, and sample of a row.

        Args:
            name: id of the sample.

        Raises:
            DataError: a cell that is something else; the message says which, the caller says where.
        """
        cells = {ours: cell_of(row, theirs) for ours, theirs in self.columns.items()}
        split = plain("split", cells.get("split")) or "train"
        if split_of(split) == UNLABELLED:
            cells = {ours: cell for ours, cell in cells.items() if ours not in ("label", "labels", "value", "synonyms")}
        tensors = {t: path for t in self.tensors if (path := self._file(t, _listed(cells.get(t)))) is not None}
        sample = Sample(
            id=name,
            image=self._file("image", cells.get("image")),
            text=_text(cells.get("text")),
            audio=self._file("audio", cells.get("audio")),
            tensors=tensors,
            label=_needed("label", cells["label"]) if "label" in cells else None,
            labels=_labels(cells["labels"]) if "labels" in cells else (),
            value=_number(cells["value"]) if "value" in cells else None,
            group=_named("group", cells.get("group")),
            cluster=_named("cluster", cells.get("cluster")),
            synonyms=_synonyms(cells.get("synonyms")) if "label" in cells else (),
        )
        if sample.image is None and sample.audio is None and sample.text is None and not tensors:
            empty = [ours for ours in cells if ours in MODALITIES or ours in self.tensors]
            raise DataError(f"{' and '.join(empty)} {'is' if len(empty) == 1 else 'are'} empty; a sample needs one")
        return split, sample

    def _file(self, ours: str, cell: object) -> Path | None:
        if isinstance(cell, Mapping) and set(cell) <= {"bytes", "path"}:
            cell = cell.get("path") if cell.get("bytes") is None else cell.get("bytes")
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return None
        if isinstance(cell, bytes):
            return keep_bytes(cell, self.cache)
        if isinstance(cell, str):
            if "\0" in cell:
                raise DataError(f"{ours}: {cell!r:.60} holds a NUL, which no path does")
            return self.locate(cell)
        raise DataError(f"{ours}: got {type(cell).__name__}, expected a path or the bytes of a file")


def mapped_columns(config: DataConfig, present: Sequence[str], *, where: str) -> dict[str, str]:
    """Our name -> the data's, for what the data has.

    Raises:
        DataError: a name in ``data.columns`` or ``data.tensors`` that is unknown or not there, or no modality at all.
    """
    names = (*COLUMNS, *config.tensors)
    if doubled := sorted(name for name in config.tensors if name in COLUMNS or config.tensors.count(name) > 1):
        raise DataError(f"data.tensors: '{doubled[0]}' has a meaning already; map the column to another name")
    if unknown := sorted(set(config.columns) - set(names)):
        raise DataError(f"data.columns: unknown '{unknown[0]}'{or_nearest(unknown[0], names)}")
    check_padded(names, present, mapped=config.columns.values(), where=where)
    found = {}
    for ours in names:
        theirs = config.columns.get(ours, ours)
        if theirs in present or theirs.partition(".")[0] in present:
            found[ours] = theirs
        elif ours in config.columns or ours in config.tensors:
            raise DataError(f"{where}: no column '{theirs}'; it has {', '.join(sorted(present))}")
    if not {*MODALITIES, *config.tensors} & set(found):
        raise DataError(
            f"{where}: no column image, text or audio; map yours in data.columns, or name data.tensors; "
            f"it has {', '.join(sorted(present))}"
        )
    if "label" in found and "labels" in found:
        raise DataError(f"{where}: columns label and labels; a sample has one class or several, map one of them away")
    if "label" not in found and "synonyms" in config.columns:
        raise DataError(f"data.columns.synonyms: they name a label, and {where} has no column label; map yours as well")
    return {ours: theirs for ours, theirs in found.items() if ours != "synonyms" or "label" in found}


def check_padded(names: Sequence[str], present: Iterable[str], *, mapped: Iterable[str] = (), where: str) -> None:
    """Raise DataError where a column is one of ``names`` but for white space around it, as of ``text, label``.

    White space is part of a column's name in every format, and a table with it after each comma means its quotes
    otherwise too; so it is for the data's owner to take out.

    Args:
        mapped: columns that the recipe names as they are.
    """
    for name in sorted(set(present) - set(mapped)):
        if name != name.strip() and name.strip() in names:
            raise DataError(
                f"{where}: column {name!r} has white space around its name, expected {name.strip()!r}; take it out of "
                "the file, also after its commas"
            )


def unread_columns(columns: Mapping[str, str], present: Sequence[str], *, where: str) -> list[str]:
    """Return a line for each column that is not read and may be meant.

    That is one whose name is a slip away from one that is known and not there, and synonyms without a label to name.

    Args:
        columns: as ``mapped_columns`` found them.
        present: the data's columns.
    """
    read = {name for theirs in columns.values() for name in (theirs, theirs.partition(".")[0])}
    classes = {"label", "labels"}  # data has one of them
    absent = [name for name in COLUMNS if name not in columns and not (name in classes and classes & set(columns))]
    unread = [name for name in present if name not in read]
    near = {name: nearest(name, absent, at_least=0.8) for name in unread if name != "synonyms"}
    lines = [f"{where}: column '{name}'; did you mean '{ours}'?" for name, ours in near.items() if ours]
    if "synonyms" in unread and "label" not in columns:
        lines.append(f"{where}: column 'synonyms', since there is no column 'label' that they name")
    return lines


def cell_of(row: Mapping[str, object], column: str) -> object:
    """Return the cell of a column; ``"json.caption"`` is ``caption`` inside ``json``."""
    if column in row or "." not in column:
        return row.get(column)
    head, _, rest = column.partition(".")
    inner = row.get(head)
    return cell_of(inner, rest) if isinstance(inner, Mapping) else None


def _listed(cell: object) -> object:
    """Return a list of numbers as the bytes of a ``.npy`` (float32); anything else as it is."""
    if not isinstance(cell, (list, np.ndarray)):
        return cell
    try:
        array = np.asarray(cell, np.float32)
    except (TypeError, ValueError) as error:
        raise DataError("a list that is not of numbers, or whose rows differ in length") from error
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _text(cell: object, ours: str = "text") -> str | None:
    if cell is None or cell != cell:
        return None
    if not isinstance(cell, str):
        raise DataError(f"{ours} is no string: {cell!r:.60}")
    _check_characters(ours, cell)
    if cell and not cell.strip():
        raise DataError(f"{ours} is nothing but white space; leave the cell empty where a sample has no text")
    return cell.strip() or None


def plain(ours: str, cell: object) -> str | None:
    """Return a string or a number as a string; None where the cell is empty. Raises DataError for anything else."""
    if cell is None or cell != cell:  # a table's empty cell may read as NaN
        return None
    if not isinstance(cell, (str, int, float, Decimal, date, time)):  # a datetime is a date
        raise DataError(f"{ours}: got {type(cell).__name__}, expected a string or a number")
    if isinstance(cell, str):
        _check_characters(ours, cell)
    if isinstance(cell, float) and math.isinf(cell):
        raise DataError(f"{ours}: a number that is infinite, or too large for a float64; write it as a string")
    if isinstance(cell, float) and cell.is_integer():  # a column with empty cells reads whole numbers as 7.0
        cell = int(cell)
    return str(cell).strip() or None


def _check_characters(ours: str, text: str) -> None:
    """Raise DataError where a string holds half a character, which JSON may and no encoding can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{ours}: {text!r:.60} holds half a character (a lone surrogate)") from error


def _named(ours: str, cell: object) -> str | None:
    found = plain(ours, cell)
    return None if found is None else unicodedata.normalize("NFC", found)


def _needed(ours: str, cell: object) -> str:
    found = _named(ours, cell)
    if found is None:
        raise DataError(f"{ours} is empty")
    return found


def _synonyms(cell: object) -> tuple[str, ...]:
    if cell is None or cell != cell or (isinstance(cell, str) and not cell.strip()):
        return ()
    items = cell.split("|") if isinstance(cell, str) else cell
    if not isinstance(items, (list, tuple)):
        raise DataError(f"synonyms: got {type(cell).__name__}, expected a list of texts, or one text with | between")
    texts = [_text(item, "a text of synonyms") for item in items]
    if None in texts:
        raise DataError("a text of synonyms is empty")
    return unique_texts(text for text in texts if text is not None)


def _labels(cell: object) -> tuple[str, ...]:
    if cell is None:
        raise DataError("labels is empty; [] says that no class is right")
    items = cell.split("|") if isinstance(cell, str) and cell.strip() else [] if isinstance(cell, str) else cell
    if not isinstance(items, (list, tuple)):
        raise DataError(f"labels: got {type(cell).__name__}, expected a list")
    return tuple(dict.fromkeys(_needed("a label of labels", item) for item in items))


def _number(cell: object) -> float:
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise DataError("value is empty")
    known = isinstance(cell, (str, int, float, Decimal)) and not isinstance(cell, bool)
    try:
        number = math.nan if not known or (isinstance(cell, str) and "_" in cell) else float(cell)  # type: ignore[arg-type]
    except (ValueError, OverflowError):  # an integer of hundreds of digits
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"value: got {cell!r:.60}, expected a finite number")
    return number
