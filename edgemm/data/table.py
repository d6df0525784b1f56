"""One's own data: a CSV, JSONL or Parquet file with a row per sample, files named relative to it.

What a cell may be, and what an empty one means, is said in ``edgemm.data.rows``.
"""

from __future__ import annotations

from pathlib import Path

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample, from_splits
from edgemm.data.rowfiles import read_rows
from edgemm.data.rows import RowReader, mapped_columns, unread_columns
from edgemm.data.splits import spelling_notes, split_of
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError


def table(config: DataConfig, *, cache: Path, broken: Broken) -> Dataset:
    """Splits as the split column says (all ``train`` without one).

    ``data.columns`` maps our names to the file's; a name that isn't mapped is looked up as it is.

    Raises:
        DataError: a file or column that is missing, naming the row, or too many broken rows.
    """
    path = Path(str(config.root))
    splits: dict[str, list[Sample]] = {}
    spelt: dict[str, None] = {}
    present: set[str] = set()
    reader: RowReader | None = None
    for number, row in read_rows(path, key="data.root"):
        if reader is None:
            present = set(row)
            columns = mapped_columns(config, sorted(present), where=str(path))
            broken.columns += unread_columns(columns, sorted(present), where=str(path))
            reader = RowReader(columns, config.tensors, lambda name: path.parent / name, cache)
        if set(row) != present:
            different = ", ".join(sorted(set(row) ^ present))
            raise DataError(f"{path}, row {number}: not the same columns as in the first row: {different}")
        try:
            split, sample = reader.sample(row, str(number))
        except DataError as error:
            broken.add(f"{path}, row {number}: {error}")
            continue
        spelt[split] = None
        splits.setdefault(split_of(split), []).append(sample)
    broken.columns += spelling_notes(spelt, where=str(path))
    if "train" not in splits:
        raise DataError(f"{path}: no row of split 'train'; found {', '.join(splits) or 'no row at all'}")
    return from_splits(splits)
