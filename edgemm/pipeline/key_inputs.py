"""Key inputs: what of recipe, data and machine a stage's output depends on, as plain values without a path.

Why: a key made of paths would find nothing on another machine, and a wrong result where a file has changed.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from edgemm.data import Dataset
from edgemm.data.dataset import UNLABELLED
from edgemm.pipeline.hashing import file_sha256, files_digest, folder_files
from edgemm.recipe import (
    FAMILIES,
    FUSIONS,
    TOWERS,
    Compared,
    DistillConfig,
    ModelSection,
    TargetConfig,
    TextTower,
    path_fields,
)
from edgemm.recipe.paths import files_matching
from edgemm.runtime.engine_tensorrt import gpu_here
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.environment import environment
from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import one_line
from edgemm.runtime.readers import READERS


def dataset_facts(dataset: Dataset, *, unlabelled: bool = False, pairs: bool = False) -> dict[str, Any]:
    """Return what of the data an output depends on; no path among it.

    Args:
        unlabelled: samples without a label among it, which only a student learns from.
        pairs: and those that verification compares.
    """
    seen = dataset  # whose digest is kept: most data has neither
    if dataset.unlabelled and not unlabelled:
        seen = replace(seen, splits={name: found for name, found in seen.splits.items() if name != UNLABELLED})
    if dataset.pairs and not pairs:
        seen = replace(seen, pairs={})
    return {"digest": seen.digest, "shown_groups": list(dataset.shown_groups)}


def portable(section: BaseModel) -> dict[str, Any]:
    """Return a section as plain values, where every path gave way to the digest of what lies there."""
    values = section.model_dump(mode="json")
    for keys, text in path_fields(section):
        node = values
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = _content_of(text)
    return values


def own_code(family: str, *sections: ModelSection | DistillConfig) -> list[list[str]]:
    """What of the user's own makes these models: ``"module:name"``, sha256 of the module's file, options given to it.

    Families, fusions and towers by their lines in the tables, losses that have a weight, factories; edgemm's own are
    left out, being in a key already. Of a module its own file counts, and not what it imports or reads.

    Raises:
        ModelError: a line that names a module that isn't there.
    """
    found = own_readers()
    of_family = [(f"family '{family}'", path, ()) for path in FAMILIES[family].makers]
    for section in sections:
        if isinstance(section, ModelSection):
            found += ([_content_of(f"python:{factory}")] for factory in section.factories)
        for key, path, given in [*of_family, *_makers(section)]:
            if not _ours(path):
                found.append([path, _file_digest(path, where=key), *sorted(given)])
    return found


def own_engines(targets: Sequence[TargetConfig]) -> list[list[str]]:
    """Return what of the user's own runs these targets: sessions and readers, as ``own_code`` writes them."""
    sessions = dict.fromkeys((t.engine, ENGINES[t.engine].session) for t in targets)
    own = [[path, _file_digest(path, where=f"engine '{engine}'")] for engine, path in sessions if not _ours(path)]
    return [*own, *own_readers()]


def own_readers() -> list[list[str]]:
    """Return the user's own modalities, as ``own_code`` writes them."""
    paths = [f"{raw.__module__}:{raw.__qualname__}" for raw in READERS.values() if not _ours(raw.__module__)]
    return [[path, _file_digest(path, where="modality")] for path in paths]


def _ours(module: str) -> bool:
    return module.startswith("edgemm.")


def _file_digest(path: str, *, where: str) -> str:
    """Return the sha256 of the file that ``"module:name"`` stands in; "" of a module without one."""
    origin = _module(path.partition(":")[0], where=f"{where}: '{path}'").origin
    return file_sha256(Path(origin)) if origin and Path(origin).is_file() else ""


def _makers(section: ModelSection | DistillConfig) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Key, ``"module:name"`` of what it stands for, and the options that were given: an own class has own defaults."""
    if isinstance(section, DistillConfig):
        for of in get_args(Compared):
            yield from ((f"distill.{key}", path, ()) for key, _, path in section.losses(of))
        return
    fusion, lines = section.fusion, {kind: line for table in TOWERS.values() for kind, line in table.items()}
    if path := FUSIONS[fusion.mode].made_by:
        yield f"fusion.mode '{fusion.mode}'", path, ()
    for modality, tower in section.towers.items():
        if not isinstance(tower, TextTower):
            yield f"{modality}.kind '{tower.kind}'", lines[tower.kind].made_by, tower.model_fields_set


def machine() -> dict[str, Any]:
    """Return what makes a measurement this machine's: one taken on another is not found in the store."""
    known = environment()
    cores = len(known["affinity"] or []) or known["cores"]
    same = {key: known[key] for key in ("cpu", "flags", "machine")}
    return {"system": platform.system(), **same, "cores": cores, "gpu": gpu_here()}


def _module(module: str, *, where: str) -> ModuleSpec:
    """Where a module lies. Raises ModelError where it isn't there."""
    try:
        spec = importlib.util.find_spec(module)
        reason = f"No module named '{module}'"
    except Exception as error:  # a package around the module is imported, and may raise anything
        spec, reason = None, one_line(error)
    if spec is None:
        raise ModelError(f"{where}: can't import '{module}' ({reason}); is its folder on PYTHONPATH?")
    return spec


def _content_of(text: str) -> str:
    """A source as what it holds: a path or a pattern as the digest of what lies there, a hub's name as its snapshot.

    The snapshot is fetched where the cache lacks it, before anything runs: a key made without it would be another one
    the next time.

    ``package:`` stays as it is, the packages' versions being in the key; of ``python:`` the module's own file counts,
    and not what it imports or reads.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "python":
        origin = _module(rest.partition(":")[0], where=f"'{text}'").origin
        return f"{text} {file_sha256(Path(origin))}" if origin and Path(origin).is_file() else text
    path = Path(rest if colon and scheme in ("file", "folder", "hf") else text)
    if path.is_file():
        return file_sha256(path)
    if path.is_dir() and scheme != "package":
        return files_digest({name: file_sha256(path / name) for name in folder_files(path)})
    if not colon and set(text) & set("*?["):
        return files_digest({name: file_sha256(path) for name, path in files_matching(text).items()})
    if scheme == "hf":
        from edgemm.models.hub import snapshot

        return f"{text}@{snapshot(rest).name}"  # a snapshot's folder is named after its commit
    return text
