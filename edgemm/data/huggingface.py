"""Hugging Face ``datasets``: names on the hub, local folders, and the library's own builders (tar shards, Parquet ...).

Read as a stream, one sample at a time, undecoded: what comes as bytes is kept as the same bytes. The library runs no
code from a dataset's repository (since its version 4), and nothing is unpickled.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgemm.data.broken import Broken
from edgemm.data.dataset import Dataset, Sample, from_splits
from edgemm.data.files import keep_bytes
from edgemm.data.rows import RowReader, cell_of, mapped_columns, misspelt_columns
from edgemm.recipe import DataConfig
from edgemm.runtime.errors import DataError, EdgemmError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.stage import Progress

BUILDERS = ("imagefolder", "audiofolder", "webdataset", "parquet", "json", "csv")
# With an owner: bare words are builders, and one of the library's further ones ("pandas") unpickles.
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_TIMEOUT_S = 5.0
_PARQUET_ROWS = 16  # in memory at a time; else it is a row group


def huggingface(config: DataConfig, *, cache: Path, broken: Broken, progress: Progress) -> Dataset:
    """Splits as ``data.splits`` maps them (ours -> the data's), or as they are called there.

    Integers of a ClassLabel become its names. A path in a cell must lie in the data's own folder.

    Raises:
        DataError: a hub that doesn't answer, data that can't be read, a split or column that isn't there, or too many
            broken rows.
    """
    streams = _streams(config)
    wanted = config.splits or {name: name for name in streams}
    splits: dict[str, list[Sample]] = {}
    for ours, theirs in wanted.items():
        if theirs not in streams:
            raise DataError(f"data.splits.{ours}: no split '{theirs}' in the data; there are {', '.join(streams)}")
        rows = _rows(streams[theirs], theirs)
        if _is_on_hub(config):
            rows = itertools.islice(rows, config.limit)  # what lies behind the limit is not fetched
        features = streams[theirs].features or {}
        splits[ours] = _samples(config, rows, features, split=ours, cache=cache, broken=broken, progress=progress)
    if "train" not in splits:
        raise DataError(f"data.splits: no split 'train' among {', '.join(splits)}; map one: train = \"...\"")
    return from_splits(splits)


def _is_on_hub(config: DataConfig) -> bool:
    return config.name is not None and config.name not in BUILDERS


def _streams(config: DataConfig) -> Mapping[str, Any]:
    """Split -> ``IterableDataset``."""
    if config.name is None and config.root is None:
        raise DataError("data.name: datasets needs a name on the hub or a builder, or data.root a folder")
    if config.name in BUILDERS and config.root is None and not config.files:
        raise DataError(f"data.files: {config.name} needs data.files or data.root")
    for split, pattern in config.files.items():
        if not any(_fixed_part(pattern).glob(str(Path(pattern).relative_to(_fixed_part(pattern))) or "*")):
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

    for ending in ("npy", "npz", "pth"):  # arrays stay the bytes they are; the last would be unpickled, if carefully
        WebDataset.DECODERS.pop(ending, None)
    where = config.name or config.root
    options: dict[str, Any] = {"data_files": dict(config.files)} if config.files else {}
    if config.name is not None and config.root is not None:
        options["data_dir"] = config.root
    if config.name == "parquet":
        options["batch_size"] = _PARQUET_ROWS
    try:
        found = datasets.load_dataset(where, config.subset, streaming=True, **options)
        return {str(name): _undecoded(stream) for name, stream in found.items()}
    except Exception as error:  # every builder and file system has its own kinds
        raise DataError(f"data: can't open '{where}' with Hugging Face datasets ({one_line(error)})") from error


def _undecoded(stream: Any) -> Any:
    """The stream with images and sounds as ``{bytes, path}``.

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
    rows: Iterator[Mapping[str, object]],
    features: Mapping[str, Any],
    *,
    split: str,
    cache: Path,
    broken: Broken,
    progress: Progress,
) -> list[Sample]:
    samples: list[Sample] = []
    names: set[str] = set()
    columns: dict[str, str] | None = None
    locate = _locator(config, cache)
    with progress.task(f"reading split '{split}'", total=0) as task:
        for number, row in enumerate(rows):
            if columns is None:
                where = f"split '{split}'"
                columns = mapped_columns(config, list(row), where=where)
                broken.columns += misspelt_columns(columns, list(row), where=where)
            named = {ours: _named(cell_of(row, theirs), features.get(theirs)) for ours, theirs in columns.items()}
            named["split"] = split  # which one a row is of is said by the data's own
            name = f"{split}/{row.get('__key__', number)}"
            while name in names:  # a shard's keys may be another's
                name = f"{name}#{number}"
            names.add(name)
            try:
                reader = RowReader({ours: ours for ours in named}, config.tensors, locate, cache)
                samples.append(reader.sample(named, name)[1])
            except DataError as error:
                broken.add(f"sample '{name}': {error}")
            task.advance()
    if not samples:
        raise DataError(f"split '{split}' has no readable sample")
    return samples


def _named(cell: object, feature: Any) -> object:
    """A class's integer as its name, -1 (unlabelled) as None; lists of them likewise; anything else as it is."""
    if isinstance(cell, list):
        inner = getattr(feature, "feature", None)
        return [_named(item, inner) for item in cell] if inner is not None else cell
    names = getattr(feature, "names", None)
    if not names or not isinstance(cell, int):
        return cell
    return names[cell] if 0 <= cell < len(names) else None


def _locator(config: DataConfig, cache: Path) -> Callable[[str], Path]:
    """What finds the file of a path in a cell, inside the data's own folder and nowhere else."""
    given = [Path(config.root)] if config.root is not None else []
    given += [_fixed_part(pattern) for pattern in config.files.values()]
    bases = [base for folder in given for base in (Path(os.path.normpath(folder.absolute())), folder.resolve())]

    def inside(name: str) -> Path | None:
        paths = [Path(os.path.normpath(base / name)) for base in bases]
        found = [path for path, base in zip(paths, bases, strict=True) if path.is_relative_to(base)]
        return next((path for path in found if path.exists()), found[0] if found else None)

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


def _fixed_part(pattern: str) -> Path:
    """The folder above the first wildcard of a pattern: ``a/b`` of ``a/b/*.tar`` and of ``a/b/c.tar``."""
    parts = Path(pattern).parts
    first = next((index for index, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    return Path(*parts[:first])
