"""One's own data: a CSV or JSONL file with a row per sample, files named relative to it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from edgemm.data.dataset import Dataset, Sample, distinct_labels, unique_texts
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError

COLUMNS = ("image", "text", "audio", "label", "group", "split")


def table(config: DataConfig) -> Dataset:
    """Splits as the split column says (all ``train`` without one).

    ``data.columns`` maps our names to the file's; a name that isn't mapped is looked up as it is.

    Raises:
        DataError: a file, column or value that is missing, naming the row.
    """
    if config.root is None:
        raise DataError("data.root: table needs the path of a .csv or .jsonl file")
    path = Path(config.root)
    if unknown := sorted(set(config.columns) - set(COLUMNS)):
        raise DataError(f"data.columns: unknown '{unknown[0]}'; expected some of {', '.join(COLUMNS)}")
    splits: dict[str, list[Sample]] = {}
    present: set[str] | None = None
    for number, row in _rows(path):
        if present is None:
            present = set(row)
            if missing := [c for c in config.columns.values() if c not in present]:
                raise DataError(f"{path}: no column '{missing[0]}'; it has {', '.join(sorted(present))}")
            if not present & {config.columns.get(c, c) for c in ("image", "text", "audio")}:
                raise DataError(f"{path}: no column image, text or audio; map yours in data.columns")
        if set(row) != present:
            different = ", ".join(sorted(set(row) ^ present))
            raise DataError(f"{path}, row {number}: not the same columns as in the first row: {different}")
        split, sample = _sample(path, number, {c: row.get(config.columns.get(c, c)) for c in COLUMNS})
        splits.setdefault(split, []).append(sample)
    if "train" not in splits:
        raise DataError(f"{path}: no row of split 'train'; found {', '.join(splits) or 'no row at all'}")
    return Dataset(
        splits,
        labels=distinct_labels(splits["train"]),
        evaluate=tuple(name for name in splits if name != "train") or ("train",),
        texts=_texts(splits),
    )


def _texts(splits: Mapping[str, list[Sample]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for samples in splits.values():
        for sample in samples:
            if sample.label is not None and sample.text is not None:
                found.setdefault(sample.label, []).append(sample.text)
    return {label: unique_texts(texts) for label, texts in found.items()}


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Rows with their number (1 is the first sample)."""
    if path.suffix not in (".csv", ".jsonl"):
        raise DataError(f"data.root: got {path}, expected a .csv or .jsonl file")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if path.suffix == ".csv":
                for number, row in enumerate(csv.DictReader(file), 1):
                    if None in row or None in row.values():
                        raise DataError(f"{path}, row {number}: more or fewer cells than the header has names")
                    yield number, row
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
        raise DataError(f"data.root: can't read {path} ({error.strerror})") from error


def _sample(path: Path, number: int, row: Mapping[str, object]) -> tuple[str, Sample]:
    for column in ("image", "text", "audio"):
        value = row[column]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise DataError(f"{path}, row {number}: {column} is empty or no string: {value!r}")
    optional = {c: None if row[c] is None else str(row[c]).strip() for c in ("label", "group", "split")}
    if optional["label"] == "":
        raise DataError(f"{path}, row {number}: label is empty")
    return optional["split"] or "train", Sample(
        id=str(number),
        image=path.parent / str(row["image"]) if row["image"] is not None else None,
        text=str(row["text"]).strip() if row["text"] is not None else None,
        audio=path.parent / str(row["audio"]) if row["audio"] is not None else None,
        label=optional["label"],
        group=optional["group"],
    )
