"""Call reader: the function that ``data.kind`` names, what it is given, and what one of the user's own may give back.

A reader takes the data's section first. By name it takes whichever of these its signature names: ``cache`` (a folder
for files of its own), ``progress``, ``broken`` (what counts samples that are left out); all its further parameters are
what ``data.options`` may say. It returns a ``Dataset``.
"""

from __future__ import annotations

import inspect
import json
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from edgemm.data.broken import Broken
from edgemm.data.dataset import UNLABELLED, Dataset, Pair, Sample
from edgemm.data.splits import split_of
from edgemm.recipe import DataConfig
from edgemm.recipe.data_kinds import reader_of
from edgemm.recipe.import_named import resolve
from edgemm.recipe.messages import or_nearest, problem_line
from edgemm.recipe.section import Section
from edgemm.runtime.errors import DataError, EdgemmError, ModelError
from edgemm.runtime.fields import one_line
from edgemm.stage import Progress


def read(config: DataConfig, *, cache: Path, broken: Broken, progress: Progress) -> Dataset:
    """Return what the reader of ``data.kind`` makes of the section, its files not yet checked.

    Raises:
        DataError: a reader that isn't there, fails, doesn't know an option, or returns something else.
        EdgemmError: whatever the reader itself raises of that.
    """
    own = config.own_reader
    where = f"data.kind '{config.kind}'"
    line = reader_of(config.kind)
    try:
        reader = resolve(line.read_by, what="data.kind")
    except ModelError as error:
        raise DataError(f"{error}, or beside the recipe") from error
    if line.root is not None:
        root_of(config, line.root)
    known = _parameters(reader, where=where)
    given: dict[str, object] = {"cache": cache, "broken": broken, "progress": progress}
    given = {name: value for name, value in given.items() if name in known}
    if own is None:
        if config.options:
            raise DataError(f"data.options: for a reader of your own; kind '{config.kind}' takes none, leave them out")
        found: Dataset = reader(config, **given)
        return found
    options = _options(config.options, {name: p for name, p in known.items() if name not in given}, where=where)
    try:
        made = reader(config, **given, **options)
    except EdgemmError:
        raise
    except Exception as error:  # the user's own code may raise anything
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules.get(reader.__module__), "__file__", None)
        at = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
        raise DataError(
            f"{where}: the reader failed with {type(error).__name__}: {one_line(error)} ({at.filename}, line "
            f"{at.lineno}); mend it there, or what it reads"
        ) from error
    if not isinstance(made, Dataset):
        raise DataError(
            f"{where}: returned {type(made).__name__}, expected an edgemm.data.Dataset; "
            "from_splits({'train': [Sample(...), ...]}) makes one"
        )
    if problem := next(_problems(made), None):
        raise DataError(f"{where}: returned {problem}")
    return made


def root_of(config: DataConfig, expected: str) -> Path:
    """Return ``data.root``; ``expected`` says what it has to be.

    Raises:
        DataError: the recipe names none.
    """
    if config.root is None:
        raise DataError(
            f"data.root: missing; data of kind '{config.kind}' take {expected}: add --set data.root=PATH, or write it "
            "into the recipe"
        )
    return Path(config.root)


def _parameters(reader: Callable[..., Any], *, where: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of a reader but for its first."""
    try:
        first, *others = inspect.signature(reader, eval_str=True).parameters.values()
    except Exception as error:  # an annotation is the user's code as well
        raise DataError(
            f"{where}: can't take a data section ({one_line(error)}); expected def read(config, *, OPTIONS) -> Dataset"
        ) from error
    if first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        raise DataError(f"{where}: its first parameter is '{first}', expected one that takes the data section")
    return {other.name: other for other in others if other.kind in (other.POSITIONAL_OR_KEYWORD, other.KEYWORD_ONLY)}


def _options(values: Mapping[str, Any], known: Mapping[str, inspect.Parameter], *, where: str) -> dict[str, Any]:
    """``data.options`` as the annotations of the reader's parameters have them, held to them as a section is."""
    for name in values:
        if name not in known:
            takes = or_nearest(name, list(known)) if known else "; it takes none"
            raise DataError(f"{where}: data.options.{name}: the reader has no such parameter{takes}")
    found: dict[str, Any] = {}
    for name, parameter in known.items():
        if name not in values:
            if parameter.default is parameter.empty:
                raise DataError(f"{where}: data.options.{name}: missing, and needed; the reader has no default for it")
            continue
        kind = Any if parameter.annotation is parameter.empty else parameter.annotation
        try:
            # through JSON, as a recipe is: a list for a tuple, and yet no "3" for a 3
            found[name] = TypeAdapter(kind).validate_json(json.dumps(values[name], default=str), strict=True)
        except ValidationError as error:
            problem: Any = error.errors()[0]
            problem["loc"] = ("data", "options", name, *problem["loc"])
            raise DataError(problem_line(problem, where, {}, Section)) from error
        except Exception as error:  # no type that a recipe can hold
            raise DataError(f"{where}: data.options.{name}: its type can't be checked ({one_line(error)})") from error
    return found


_FIELDS: Mapping[str, tuple[type, ...]] = {
    "id": (str,), "image": (Path,), "text": (str,), "audio": (Path,), "label": (str,), "value": (int, float),
    "group": (str,), "cluster": (str,),
}  # fmt: skip


def _problems(dataset: Dataset) -> Iterator[str]:
    """Whatever is not as the rest of edgemm takes it to be."""
    if not isinstance(dataset.splits, Mapping) or not dataset.splits.get("train"):
        named = ", ".join(map(repr, dataset.splits)) or "none"
        yield f"splits {named}; expected some samples in 'train'"
        return
    for name, samples in dataset.splits.items():
        if not isinstance(name, str) or split_of(name) != name:
            yield f"a split called {name!r}; expected {split_of(str(name))!r}"
        elif not isinstance(samples, list) or not samples:
            yield f"split '{name}' as {samples!r:.60}; expected a list of samples"
        else:
            yield from _problems_of(name, samples)
    yield from _wrong_texts("labels", dataset.labels)
    yield from _wrong_texts("shown_groups", dataset.shown_groups)
    yield from _wrong_texts("broken", dataset.broken)
    if not dataset.evaluate or not set(dataset.evaluate) <= set(dataset.splits):
        yield f"evaluate {dataset.evaluate!r}; expected names of its splits ({', '.join(dataset.splits)})"
    for what in ("texts", "pairs", "checksums"):
        if not isinstance(getattr(dataset, what), Mapping):
            yield f"{what} {getattr(dataset, what)!r:.60}; expected a dict"
            return
    for label, texts in dataset.texts.items():
        yield from _wrong_texts(f"texts[{label!r}]", texts)
    for name, pairs in dataset.pairs.items():
        ids = {sample.id for sample in dataset.splits.get(name, ())}
        strange = [pair for pair in pairs if not isinstance(pair, Pair) or not {pair.a, pair.b} <= ids]
        if strange:
            yield f"pairs of split '{name}' with {strange[0]!r:.100}; expected Pairs of ids of its samples"


def _problems_of(split: str, samples: list[Sample]) -> Iterator[str]:
    seen: set[str] = set()
    for sample in samples:
        if not isinstance(sample, Sample):
            yield f"{sample!r:.60} in split '{split}'; expected an edgemm.data.Sample"
            continue
        where = f"sample {sample.id!r:.60} of split '{split}' with"
        for name, kinds in _FIELDS.items():
            value = getattr(sample, name)
            if (value is not None or name == "id") and (not isinstance(value, kinds) or isinstance(value, bool)):
                expected = "pathlib.Path" if kinds == (Path,) else kinds[-1].__name__
                yield f"{where} {name} {value!r:.60} ({type(value).__name__}); expected {expected}"
            elif isinstance(value, str) and not _encodes(value):
                yield f"{where} {name} {value!r:.60}, which holds half a character (a lone surrogate)"
        if isinstance(sample.value, int | float) and not abs(sample.value) <= sys.float_info.max:
            yield f"{where} a value that is infinite, no number, or beyond float64; expected a finite number"
        tensors = sample.tensors if isinstance(sample.tensors, Mapping) else {None: None}
        if any(not isinstance(name, str) or not isinstance(path, Path) for name, path in tensors.items()):
            yield f"{where} tensors {sample.tensors!r:.60}; expected the path of a .npy of each name"
        yield from _wrong_texts(f"{where} labels", sample.labels)
        yield from _wrong_texts(f"{where} synonyms", sample.synonyms)
        if split == UNLABELLED and (sample.label is not None or sample.labels or sample.value is not None):
            yield f"{where} a truth; expected none in '{UNLABELLED}', or another split"
        if sample.id in seen:
            yield f"two samples {sample.id!r:.60} in split '{split}'; expected an id of its own for each"
        seen.add(sample.id)


def _wrong_texts(what: str, texts: object) -> Iterator[str]:
    if not isinstance(texts, tuple) or not all(isinstance(text, str) and _encodes(text) for text in texts):
        yield f"{what} {texts!r:.60}; expected a tuple of str"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
