"""Row files: the rows of a CSV, JSON, JSONL or Parquet file, the same cells from each of them.

Why not a library's readers: pandas takes ``None``, ``null`` and ``NA`` for empty and ``01`` for 1, pyarrow makes dates
of strings that look like some; a text, a class or an identity is then another one than in the file.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value, one_line
from edgemm.runtime.hints import pip_install

Row = Mapping[str, object]

ENDINGS = (".csv", ".jsonl", ".parquet")
_PARQUET_ROWS = 16  # in memory at a time
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit, 131072, is below an honest text's
_UNPACKED: Mapping[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_rows(path: Path, *, key: str) -> Iterator[tuple[int, Row]]:
    """Yield rows of a file with their number, from 1; blank lines don't count.

    Integers of a Parquet column that Hugging Face says to be a class become its name.

    Args:
        key: of the recipe, that names the file.

    Raises:
        DataError: a file that can't be read, or two columns of one name.
    """
    if (ending := path.suffix.lower()) not in ENDINGS:
        raise DataError(f"{key}: got {path}, expected a .csv, .jsonl or .parquet file")
    yield from rows_of_kind(path, ending.removeprefix("."), key=key)


def rows_of_kind(path: Path, kind: str, *, key: str) -> Iterator[tuple[int, Row]]:
    """``read_rows`` of a ``csv``, ``jsonl``, ``parquet`` or ``json`` (a list, or a line each), whatever its name.

    Args:
        path: of a file here, or of one elsewhere that opens as a path does (``xPath`` of Hugging Face datasets).
    """
    try:
        if kind == "parquet":
            with path.open("rb") as packed:
                yield from _parquet_rows(packed, path)
            return
        with _opened(path) as file:
            if kind == "csv":
                yield from _csv_rows(file, path)
            elif kind == "json" and file.read(64).lstrip().startswith("["):
                file.seek(0)
                yield from _listed_rows(file.read(), path)
            else:
                file.seek(0)
                yield from _line_rows(file, path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from error
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise DataError(f"{key}: can't read {path} ({getattr(error, 'strerror', None) or one_line(error)})") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    unpacked = _UNPACKED.get(path.suffix.lower())
    with path.open("rb") as file, file if unpacked is None else unpacked(file) as data:
        yield io.TextIOWrapper(data, encoding="utf-8-sig", newline="")


def _line_rows(file: Iterable[str], path: Path) -> Iterator[tuple[int, Row]]:
    number = 0
    for line in file:
        if line.strip():
            number += 1
            yield number, _row(_parsed(line, f"{path}, row {number}"), f"{path}, row {number}")


def _listed_rows(text: str, path: Path) -> Iterator[tuple[int, Row]]:
    rows = _parsed(text, str(path))
    assert isinstance(rows, list)
    for number, row in enumerate(rows, 1):
        yield number, _row(row, f"{path}, row {number}")


def _parsed(text: str, where: str) -> object:
    try:
        return json_value(text, object_pairs_hook=_unique)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({one_line(error)})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' is there twice")
    return found


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {type(value).__name__}, expected an object")
    return value


def _csv_rows(file: Iterable[str], path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(_LONGEST_CELL)
    named_first = dropwhile(lambda line: not line.strip(), file)  # csv takes a blank first line for the names
    reader, number = csv.DictReader(named_first, strict=True), 0
    try:
        _check_names(reader.fieldnames or (), path)
        for number, row in enumerate(reader, 1):
            if None in row or None in row.values():
                raise DataError(f"{path}, row {number}: more or fewer cells than the header has names")
            yield number, row
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number + 1}: not CSV ({error}); close every quote, and double one that is inside quotes"
        ) from error


def _check_names(names: Sequence[str], path: Path) -> None:
    if doubled := sorted(name for name in set(names) if name and names.count(name) > 1):  # empty ones are never read
        raise DataError(f"{path}: two columns are called '{doubled[0]}'; rename one, or take it out")


def _parquet_rows(packed: IO[bytes], path: Path) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: reading it needs pyarrow; {pip_install('pyarrow')}") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(packed) as file:
            _check_names(file.schema_arrow.names, path)
            features = _features(file.schema_arrow.metadata)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in _shortest_floats(batch).to_pylist():
                    number += 1
                    yield number, {name: named(cell, features.get(name)) for name, cell in row.items()}
    except (pyarrow.lib.ArrowException, ValueError, OverflowError) as error:  # or a date that Python has not
        raise DataError(f"{path}: not a whole Parquet file, after row {number} ({one_line(error)})") from error


def _shortest_floats(batch: Any) -> Any:
    """A batch of Arrow whose float32 numbers, also in lists and structs, are the float64 of their shortest spelling.

    The float32 nearest to .1 is 0.10000000149011612 as a float64; a table in words says 0.1, and so does Python of it.
    """
    import pyarrow

    def retyped(kind: Any, to: Any) -> Any:
        if pyarrow.types.is_dictionary(kind):
            return retyped(kind.value_type, to)
        if pyarrow.types.is_float32(kind):
            return to
        if pyarrow.types.is_list(kind):
            return pyarrow.list_(retyped(kind.value_type, to))
        if pyarrow.types.is_large_list(kind):
            return pyarrow.large_list(retyped(kind.value_type, to))
        if pyarrow.types.is_fixed_size_list(kind):
            return pyarrow.list_(retyped(kind.value_type, to), kind.list_size)
        if pyarrow.types.is_struct(kind):
            return pyarrow.struct([pyarrow.field(part.name, retyped(part.type, to)) for part in kind])
        return kind

    columns = []
    for column in batch.columns:
        if pyarrow.types.is_float16(column.type):
            column = pyarrow.array([None if v is None else float(str(np.float16(v))) for v in column.to_pylist()])
        elif (words := retyped(column.type, pyarrow.string())) != retyped(column.type, pyarrow.float64()):
            column = column.cast(words).cast(retyped(column.type, pyarrow.float64()))
        columns.append(column)
    return pyarrow.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _features(metadata: Mapping[bytes, bytes] | None) -> Mapping[str, Any]:
    """Return what Hugging Face writes of the columns into a Parquet file; empty where it did not."""
    try:
        found = json_value((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def named(cell: object, feature: Any) -> object:
    """Return a class's integer as its name, -1 (unlabelled) as None; lists of them likewise; anything else as it is.

    Args:
        feature: of ``datasets``, or as it is written as JSON.
    """
    if isinstance(cell, list):
        inner = feature.get("feature") if isinstance(feature, Mapping) else getattr(feature, "feature", None)
        if isinstance(feature, list) and len(feature) == 1:
            inner = feature[0]
        return [named(item, inner) for item in cell] if inner is not None else cell
    names = feature.get("names") if isinstance(feature, Mapping) else getattr(feature, "names", None)
    if not isinstance(names, list) or not names or type(cell) is not int:
        return cell
    return names[cell] if 0 <= cell < len(names) else None
