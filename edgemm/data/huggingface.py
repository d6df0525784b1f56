"""Hugging Face ``datasets``: names on the hub, local folders, and the library's own builders (tar shards, Parquet ...).

Tables, also those on the hub, and tar shards that lie here are found by the library and read by edgemm's own readers,
so that a table gives the same samples however it is opened. The rest is read as a stream, undecoded: bytes are kept as
the same bytes. The library runs no code from a dataset's repository (since its version 4), and nothing is unpickled.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample, from_splits
from edgemm.data.files import keep_bytes
from edgemm.data.rowfiles import named, rows_of_kind
from edgemm.data.rows import COLUMNS, RowReader, cell_of, mapped_columns, plain, unread_columns
from edgemm.data.shards import Shards
from edgemm.data.splits import find_split, spelling_notes, split_of
from edgemm.recipe import DataConfig
from edgemm.recipe.paths import fixed_part
from edgemm.runtime.errors import DataError, EdgemmError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.stage import Progress

BUILDERS = ("imagefolder", "audiofolder", "webdataset", "parquet", "json", "csv")
_TABLES = ("parquet", "json", "csv")
# With an owner: bare words are builders, and one of the library's further ones ("pandas") unpickles.
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_TIMEOUT_S = 5.0
_PARQUET_ROWS = 16  # in memory at a time; else it is a row group


@dataclass(frozen=True)
class Source:
    """The rows of one split.

    Args:
        columns: every column that a row may have; None: those of the first row.
        features: of ``datasets``, by column.
        notes: asked when all rows are read: lines on what they hold that nothing reads.
    """

    rows: Callable[[], Iterable[Mapping[str, object]]]
    columns: Sequence[str] | None = None
    features: Mapping[str, Any] = field(default_factory=dict)
    notes: Callable[[], list[str]] = list


def huggingface(config: DataConfig, *, cache: Path, broken: Broken, progress: Progress) -> Dataset:
    """Splits as ``data.splits`` maps them (ours -> the data's), or as they are called there.

    Of data that has one split, a column ``split`` says which rows are of which. Integers of a ClassLabel become its
    names. A path in a cell must lie in the data's own folder.

    Raises:
        DataError: a hub that doesn't answer, data that can't be read, a split or column that isn't there, or too many
            broken rows.
    """
    sources = _sources(config)
    splits: dict[str, list[Sample]] = {}
    spelt: dict[str, None] = {}
    for ours, theirs in (config.splits or {name: name for name in sources}).items():
        try:
            theirs = find_split(theirs, tuple(sources))
        except DataError:
            known = ", ".join(sources)
            raise DataError(f"data.splits.{ours}: no split '{theirs}' in the data; there are {known}") from None
        by_column = len(sources) == 1 and not config.splits
        found = _samples(
            config,
            sources[theirs],
            split=ours,
            by_column=by_column,
            spelt=spelt,
            cache=cache,
            broken=broken,
            progress=progress,
        )
        broken.columns += sources[theirs].notes()
        for name, samples in found.items():
            splits.setdefault(name, []).extend(samples)
    broken.columns += spelling_notes(spelt, where="data")
    if "train" not in splits:
        raise DataError(f"data.splits: no split 'train' among {', '.join(splits)}; map one: train = \"...\"")
    return from_splits(splits)


def _is_on_hub(config: DataConfig) -> bool:
    return config.name is not None and config.name not in BUILDERS


def _sources(config: DataConfig) -> Mapping[str, Source]:
    """Split -> its rows: of tables and tars that lie here by our own readers, of anything else as a stream."""
    if config.name is None and config.root is None:
        raise DataError("data.name: datasets needs a name on the hub or a builder, or data.root a folder")
    if config.name in BUILDERS and config.root is None and not config.files:
        raise DataError(f"data.files: {config.name} needs data.files or data.root")
    for split, pattern in config.files.items():
        if not any(fixed_part(pattern).glob(str(Path(pattern).relative_to(fixed_part(pattern))) or "*")):
            raise DataError(f"data.files.{split}: no file matches {pattern}")
    if config.root is not None and not Path(config.root).is_dir():
        raise DataError(f"data.root: {config.root} is no folder; give a name on the hub as data.name")
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data.kind: datasets is not installed; {pip_install('datasets')}") from error
    if _is_on_hub(config):
        _check_hub(config)
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)  # what it would say becomes one line of ours
    from datasets.packaged_modules.webdataset.webdataset import WebDataset
    from datasets.utils.file_utils import xPath

    for ending in ("npy", "npz", "pth"):  # arrays stay the bytes they are; the last would be unpickled, if carefully
        WebDataset.DECODERS.pop(ending, None)
    where = config.name or config.root
    options: dict[str, Any] = {"data_files": dict(config.files)} if config.files else {}
    if config.name is not None and config.root is not None:
        options["data_dir"] = config.root
    if config.name == "parquet":
        options["batch_size"] = _PARQUET_ROWS
    try:
        builder = datasets.load_dataset_builder(where, config.subset, **options)
        files = {str(split): [xPath(str(file)) for file in found] for split, found in builder.config.data_files.items()}
        kind, on_hub = str(builder.info.builder_name), _is_on_hub(config)
        if kind == "webdataset" and not on_hub and _is_plain(builder, files):
            asked = [config.columns.get(ours, ours) for ours in (*COLUMNS, *config.tensors)]
            return {split: _from_tars(paths, asked, split) for split, paths in files.items()}
        features = (builder.info.features or {}) if on_hub else {}
        typed = kind == "csv" and features  # a card that says what the words of a table mean
        if kind in _TABLES and not typed and _is_plain(builder, files):
            most = config.limit if on_hub else None  # more is not fetched
            return {split: _from_tables(paths, kind, split, features, most) for split, paths in files.items()}
        if hasattr(builder, "_read_metadata"):  # of a folder of pictures or sounds: by our reader, as a table's
            builder._read_metadata = _metadata
        streams = {str(name): _undecoded(stream) for name, stream in builder.as_streaming_dataset().items()}
    except EdgemmError:
        raise
    except Exception as error:  # every builder and file system has its own kinds
        raise DataError(f"data: can't open '{where}' with Hugging Face datasets ({one_line(error)})") from error

    def rows(name: str) -> Iterator[Mapping[str, object]]:
        found = _rows(streams[name], name)
        return itertools.islice(found, config.limit) if on_hub else found

    return {name: Source(partial(rows, name), features=stream.features or {}) for name, stream in streams.items()}


def _is_plain(builder: Any, files: Mapping[str, Sequence[Path]]) -> bool:
    """Return whether files lie here and the data's card asks for no options of the library's own reader."""
    kinds = {"sep": (",", None), "delimiter": (None,), "names": (None,), "field": (None,), "columns": (None,),
             "filters": (None,), "features": (None,), "header": ("infer",), "skiprows": (None,), "quotechar": ('"',),
             "skipinitialspace": (False,), "encoding": (None, "utf-8")}  # fmt: skip
    plain = all(getattr(builder.config, name, usual[0]) in usual for name, usual in kinds.items())
    return plain and all(path.suffix != ".zip" for paths in files.values() for path in paths)


def _from_tables(paths: Sequence[Path], kind: str, split: str, features: Mapping[str, Any], most: int | None) -> Source:
    """Yield the rows of a split's tables, here or on the hub; ``most`` at most."""

    def rows() -> Iterator[Mapping[str, object]]:
        return _rows(itertools.islice(every_row(), most), split)

    def every_row() -> Iterator[Mapping[str, object]]:
        present: set[str] | None = None
        for path in paths:
            for number, row in rows_of_kind(path, kind, key="data.files"):
                present = set(row) if present is None else present
                if kind != "json" and set(row) != present:
                    different = ", ".join(sorted(set(row) ^ present))
                    raise DataError(f"{path}, row {number}: not the same columns as in the first row: {different}")
                yield row

    # an object may lack keys, and have some that the first has not
    columns = None if kind != "json" else list(dict.fromkeys(name for row in rows() for name in row))
    return Source(rows, columns, features)


def _from_tars(paths: Sequence[Path], asked: Sequence[str], split: str) -> Source:
    shards = Shards(paths, asked, where=f"data: split '{split}' can't be read")

    def notes() -> list[str]:
        return [
            f"split '{split}': {count} samples lack a column and have '{ending}', which none is mapped to; map one in "
            "data.columns"
            for ending, count in sorted(shards.unread.items())
        ]

    return Source(shards.rows, shards.endings, notes=notes)


def _metadata(file: str, metadata_ext: str = "") -> Iterator[Any]:
    """What ``_read_metadata`` of the folder builders gives, a table of Arrow, without guesses at what a cell means."""
    import pyarrow

    kind = metadata_ext.removeprefix(".").replace("jsonl", "json")
    rows = [dict(row) for _, row in rows_of_kind(Path(file), kind, key="data.root")]
    yield pyarrow.Table.from_pylist(rows)


def _undecoded(stream: Any) -> Any:
    """Return the stream with images and sounds as ``{bytes, path}``.

    ``Audio(decode=False)`` won't do: it needs torchcodec all the same. ``Image(decode=False)`` takes the bare paths of
    the folder builders, whatever lies there; but given bytes it prefers a local file of the same name to them.
    """
    import datasets

    bare = stream.info.builder_name in ("imagefolder", "audiofolder")
    plain: Any = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    for column, feature in (stream.features or {}).items():
        if isinstance(feature, datasets.Image | datasets.Audio):
            stream = stream.cast_column(column, datasets.Image(decode=False) if bare else plain)
    return stream


def _check_hub(config: DataConfig) -> None:
    """A name that can only be the hub's; then one quick question, where the library would ask for half a minute."""
    name = str(config.name)
    if not _HUB_NAME.fullmatch(name):
        raise DataError(f"data.name: got '{name}', expected OWNER/NAME on the hub, or {', '.join(BUILDERS)}")
    if config.root is not None or config.files:
        key = "files" if config.files else "root"
        raise DataError(f"data.{key}: '{name}' on the hub brings its own files; leave out data.{key}")
    if Path(name).exists():
        raise DataError(f"data.name: '{name}' is also a folder here; give it as data.root, or run somewhere else")
    import requests
    from huggingface_hub import constants

    mend = "download it where there is one, and give its folder as data.root"
    if constants.HF_HUB_OFFLINE:
        raise DataError(f"data.name: '{name}' is on the hub, and HF_HUB_OFFLINE is set; unset it, or {mend}")
    try:
        requests.head(constants.ENDPOINT, timeout=_HUB_TIMEOUT_S)
    except requests.RequestException as error:
        raise DataError(f"data.name: '{name}' can't be reached, {constants.ENDPOINT} doesn't answer; {mend}") from error


def _rows(stream: Any, split: str) -> Iterator[Mapping[str, object]]:
    number = 0
    try:
        for row in stream:
            number += 1
            yield row
    except EdgemmError:
        raise
    except Exception as error:
        raise DataError(f"data: split '{split}' can't be read after sample {number} ({one_line(error)})") from error


def _samples(
    config: DataConfig,
    source: Source,
    *,
    split: str,
    by_column: bool,
    spelt: dict[str, None],
    cache: Path,
    broken: Broken,
    progress: Progress,
) -> dict[str, list[Sample]]:
    """Split -> samples; all of ``split`` unless a column says otherwise and counts. ``spelt`` gets the names."""
    found: dict[str, list[Sample]] = {}
    names: set[str] = set()
    columns: dict[str, str] | None = None
    locate = _locator(config, cache)
    others: Counter[str] = Counter()
    with progress.task(f"reading split '{split}'", total=0) as task:
        for number, row in enumerate(source.rows()):
            if columns is None:
                where = f"split '{split}'"
                present = list(row) if source.columns is None else list(source.columns)
                columns = mapped_columns(config, present, where=where)
                broken.columns += unread_columns(columns, present, where=where)
            cells = {ours: named(cell_of(row, theirs), source.features.get(theirs)) for ours, theirs in columns.items()}
            name = f"{split}/{row.get('__key__', number)}"
            while name in names:  # a shard's keys may be another's
                name = f"{name}#{number}"
            names.add(name)
            try:
                said = plain("split", cells.get("split")) or split
                if not by_column:
                    others[said] += split_of(said) != split_of(split)
                cells["split"] = said if by_column else split
                reader = RowReader({ours: ours for ours in cells}, config.tensors, locate, cache)
                own, sample = reader.sample(cells, name)
                spelt[own] = None
                found.setdefault(split_of(own), []).append(sample)
            except DataError as error:
                broken.add(f"sample '{name}': {error}")
            task.advance()
    broken.columns += [
        f"note: split '{split}': {count} rows whose column says split '{said}' are read as '{split}'; the column "
        "counts only where the data has one split"
        for said, count in others.items()
        if count
    ]
    if not found:
        raise DataError(f"split '{split}' has no readable sample")
    return found


def _locator(config: DataConfig, cache: Path) -> Callable[[str], Path]:
    """Return what finds the file of a path in a cell, inside the data's own folder and nowhere else."""
    given = [Path(config.root)] if config.root is not None else []
    given += [fixed_part(pattern) for pattern in config.files.values()]
    bases = [base for folder in given for base in (Path(os.path.normpath(folder.absolute())), folder.resolve())]

    def inside(name: str) -> Path | None:
        paths = [Path(os.path.normpath(base / name)) for base in bases]
        found = [path for path, base in zip(paths, bases, strict=True) if path.is_relative_to(base)]
        return next((path for path in found if os.path.exists(path)), found[0] if found else None)  # noqa: PTH110  never raises

    def locate(name: str) -> Path:
        if _is_on_hub(config) and name.rpartition("::")[2].startswith("hf://"):
            from datasets.utils.file_utils import xopen

            with xopen(name, "rb") as file:
                return keep_bytes(file.read(), cache)
        path = None if "://" in name else inside(name)
        if path is None:
            raise DataError(f"'{name}' is not in the data's own folder")
        return path

    return locate
