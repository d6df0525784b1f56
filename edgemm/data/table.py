"""One's own data: a CSV, JSONL or Parquet file with a row per sample, files named relative to it.

What a cell may be, and what an empty one means, is said in ``edgemm.data.rows``.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample, from_splits
from edgemm.data.rows import RowReader, mapped_columns, misspelt_columns
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install

_ENDINGS = (".csv", ".jsonl", ".parquet")
_PARQUET_ROWS = 16  # in memory at a time
_LONGEST_CELL = 2**31 - 1  # characters; csv's own limit, 131072, is below an honest text's


def table(config: DataConfig, *, cache: Path, broken: Broken) -> Dataset:
    """Splits as the split column says (all ``train`` without one).

    ``data.columns`` maps our names to the file's; a name that isn't mapped is looked up as it is.

    Raises:
        DataError: a file or column that is missing, naming the row, or too many broken rows.
    """
    if config.root is None:
        raise DataError("data.root: table needs the path of a .csv, .jsonl or .parquet file")
    path = Path(config.root)
    splits: dict[str, list[Sample]] = {}
    present: set[str] = set()
    reader: RowReader | None = None
    for number, row in read_rows(path, key="data.root"):
        if reader is None:
            present = set(row)
            columns = mapped_columns(config, sorted(present), where=str(path))
            broken.columns += misspelt_columns(columns, sorted(present), where=str(path))
            reader = RowReader(columns, config.tensors, lambda name: path.parent / name, cache)
        if set(row) != present:
            different = ", ".join(sorted(set(row) ^ present))
            raise DataError(f"{path}, row {number}: not the same columns as in the first row: {different}")
        try:
            split, sample = reader.sample(row, str(number))
        except DataError as error:
            broken.add(f"{path}, row {number}: {error}")
            continue
        splits.setdefault(split, []).append(sample)
    if "train" not in splits:
        raise DataError(f"{path}: no row of split 'train'; found {', '.join(splits) or 'no row at all'}")
    return from_splits(splits)


def read_rows(path: Path, *, key: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows of a file with their number, from 1.

    Args:
        key: of the recipe, that names the file.

    Raises:
        DataError: a file that can't be read, or two columns of one name.
    """
    if path.suffix not in _ENDINGS:
        raise DataError(f"{key}: got {path}, expected a .csv, .jsonl or .parquet file")
    try:
        if path.suffix == ".parquet":
            yield from _parquet_rows(path)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                yield from _csv_rows(file, path)
                return
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, row {number}: not JSON ({error})") from error
                if not isinstance(value, dict):
                    raise DataError(f"{path}, row {number}: got {type(value).__name__}, expected an object")
                yield number, value
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error})") from error
    except OSError as error:
        raise DataError(f"{key}: can't read {path} ({error.strerror or one_line(error)})") from error


def _csv_rows(file: Iterable[str], path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    csv.field_size_limit(_LONGEST_CELL)
    reader, number = csv.DictReader(file, strict=True), 0
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


def _parquet_rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    try:
        import pyarrow.lib
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"{path}: reading it needs pyarrow; {pip_install('pyarrow')}") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_names(file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pyarrow.lib.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a whole Parquet file, after row {number} ({one_line(error)})") from error
