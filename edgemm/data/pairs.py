"""Pairs: which samples verification compares, named in a file, as benchmarks of faces give them (LFW's ``pairs.txt``).

A row names two files as the data does (``a``, ``b``) and says whether they are of one identity (``same``, 0 or 1);
``split`` where several are evaluated, and ``fold``, the part of a cross-validation that the pair is in, are optional.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from edgemm.data.dataset import Dataset, Pair, Sample
from edgemm.data.rowfiles import read_rows
from edgemm.data.rows import check_padded, plain
from edgemm.data.splits import split_of
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError

COLUMNS = ("a", "b", "same", "split", "fold")

Files = Mapping[str, Mapping[Path, Sample]]  # evaluated split -> file -> its sample


def with_pairs(dataset: Dataset, config: DataConfig) -> Dataset:
    """Return the dataset with the pairs of ``data.pairs``; as it is without.

    Raises:
        DataError: naming the row: a cell that is missing or something else, a file that is no sample of an evaluated
            split, two of one sample, labels that say otherwise than ``same``. Or a split whose pairs are all of one
            kind, or of which some have a fold and some have not.
    """
    if config.pairs is None:
        return dataset
    path, root = Path(config.pairs), Path(str(config.root))
    base = root if root.is_dir() else root.parent
    files = {
        split: {file: sample for sample in reversed(dataset.split(split)) for file in _files(sample)}
        for split in dataset.evaluate
    }
    found: dict[str, list[Pair]] = {}
    for number, row in read_rows(path, key="data.pairs"):
        if number == 1:
            check_padded(COLUMNS, row, where=str(path))
        try:
            split, pair = _pair({name: plain(name, row.get(name)) for name in COLUMNS}, base, files)
        except DataError as error:
            raise DataError(f"{path}, row {number}: {error}") from error
        found.setdefault(split, []).append(pair)
    if not found:
        raise DataError(f"{path}: no pair in it; expected rows of a, b and same")
    for split, pairs in found.items():
        _check(f"{path}, split '{split}'", pairs)
    return replace(dataset, pairs={split: tuple(pairs) for split, pairs in found.items()})


def _files(sample: Sample) -> list[Path]:
    return [file for modality in sample.modalities() if (file := sample.file(modality)) is not None]


def _pair(cells: Mapping[str, str | None], base: Path, files: Files) -> tuple[str, Pair]:
    """Split and pair of a row."""
    for name in ("a", "b", "same"):
        if cells[name] is None:
            raise DataError(f"no {name}; expected columns a, b and same, and none of them empty")
    if cells["split"] is None and len(files) > 1:
        raise DataError(f"no split, and {', '.join(files)} are evaluated; name one in a column 'split'")
    split = split_of(cells["split"]) if cells["split"] else next(iter(files))
    if split not in files:
        raise DataError(f"split '{split}' is not evaluated; expected {', '.join(files)}, or name it in data.evaluate")
    one, other = (_sample(str(cells[side]), base, split, files) for side in ("a", "b"))
    if one.id == other.id:
        raise DataError(f"a and b are one sample, '{cells['a']}'; take the row out")
    same = {"0": False, "1": True, "False": False, "True": True}.get(str(cells["same"]))
    if same is None:
        raise DataError(f"same: got '{cells['same']}', expected 0 or 1")
    if same != (one.label is not None and one.label == other.label):
        raise DataError(f"same is {cells['same']}, and the labels are '{one.label}' and '{other.label}'; mend either")
    return split, Pair(one.id, other.id, same, cells["fold"])


def _sample(name: str, base: Path, split: str, files: Files) -> Sample:
    path = base / name
    if path in files[split]:
        return files[split][path]
    mend = "write it as the data does, or take the row out"
    if path.is_file():
        mend = "it is of another split, or left out as broken or by data.limit; mend that, or take the row out"
    if elsewhere := next((other for other, held in files.items() if path in held), None):
        mend = f"it is one of '{elsewhere}', say so in a column 'split'"
    raise DataError(f"'{name}' is no sample of split '{split}', which is evaluated; {mend}")


def _check(where: str, pairs: Sequence[Pair]) -> None:
    if len({pair.same for pair in pairs}) < 2:
        kind = "one identity" if pairs[0].same else "two identities"
        raise DataError(f"{where}: every pair is of {kind}; verification needs pairs of both kinds")
    folds = {pair.fold for pair in pairs}
    if folds != {None} and (None in folds or len(folds) < 2):
        said = ", ".join(sorted(fold or "none" for fold in folds))
        raise DataError(f"{where}: folds {said}; expected two at least, and one for each pair")
