"""Places: where a bundle lies and what it is called: a folder or zip, a stage's artifact, or what a run left.

A run leaves ``run.json`` beside its bundle: the recipe as it was resolved, and where its models lie in the store. So
``explain out/NAME`` finds teacher, bundle and data by itself. The file holds this machine's paths and doesn't ship.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.measure.table import INT8_ONLY
from edgemm.pipeline.own_code import look_beside_
from edgemm.recipe import Recipe, recipe_from_values, recipe_values
from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import InputError
from edgemm.runtime.fields import json_value

RUN = "run.json"
_MARK = "edgemm run"


@dataclass(frozen=True, slots=True)
class Left:
    """What a run left in ``folder``.

    Args:
        recipe: as plain values.
        models: name -> folder of its bundle in the store.
        file: where the recipe lay; None in what an older version left.
    """

    folder: Path
    recipe: Mapping[str, Any]
    models: Mapping[str, Path]
    file: Path | None = None

    def model(self, name: str) -> Path:
        """Return the bundle of that model. Raises InputError where the store no longer has it."""
        path = self.models[name]
        if not (path / "manifest.json").is_file():
            raise InputError(
                f"{self.folder}: its {name} is no longer in the store ({path}); run the recipe again, or give the "
                f"bundles themselves, {self.folder / 'bundle'}"
            )
        return path


def leave_run(out: Path, recipe: Recipe, models: Mapping[str, Path], *, file: Path) -> None:
    """Write what ``run_left_in`` reads, whole or not at all.

    Args:
        file: the recipe's, beside which its own code lies.
        models: name of a stage run, ``"capture:teacher"``, -> the folder that it made; others are left out.
    """
    named = {
        INT8_ONLY if node == "quantize:teacher" else node.partition(":")[2]: str(path.absolute())
        for node, path in models.items()
        if ":" in node and (path / "manifest.json").is_file()
    }
    said = {
        "made_by": _MARK, "version": __version__, "file": str(file.absolute()), "recipe": recipe_values(recipe),
        "models": named,
    }  # fmt: skip
    with replacing(out / RUN) as partial:
        partial.write_text(json.dumps(said, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def is_run(place: Path) -> bool:
    """Return whether a file is the record of a run."""
    try:
        return bool(json_value(place.read_text(encoding="utf-8"))["made_by"] == _MARK)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_left_in(folder: Path) -> Left | None:
    """Return what a run left there; None where there is no record of one.

    Raises:
        InputError: a record that can't be read.
    """
    record = folder / RUN
    if not record.is_file() or not is_run(record):
        return None
    try:
        said = json_value(record.read_text(encoding="utf-8"))
        models = {str(name): Path(path) for name, path in said["models"].items()}
        file = Path(said["file"]) if "file" in said else None
        return Left(folder, dict(said["recipe"]), models, file)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{record}: not the record of a run ({error}); run the recipe again") from error


def recipe_left(paths: Sequence[Path], overrides: Sequence[str], *, option: str) -> Recipe:
    """Return the recipe of the run that one of these places belongs to, its own code to be found as the run found it.

    Raises:
        InputError: a place that isn't there, which no model of a run is called either; no run left anything there;
            names the option that gives a recipe.
    """
    require_there(paths)
    for path in paths:
        for folder in (path, path.parent):
            if (left := run_left_in(folder)) is not None:
                recipe = recipe_from_values(dict(left.recipe), str(folder / RUN), overrides)
                if left.file is not None:
                    look_beside_(recipe, left.file)
                return recipe
    raise InputError(f"{paths[0]}: no run left its recipe there; name one with {option} RECIPE")


def require_there(paths: Sequence[Path]) -> None:
    """Raise InputError where nothing is at a place, and no run beside it has a model to be called so."""
    for path in paths:
        if not path.exists() and run_left_in(path.parent) is None:
            raise InputError(
                f"{path}: no such file or folder; expected a bundle's folder or its .zip, or the out folder of a run"
            )


def bundles_at(paths: Sequence[Path], *, every: bool = False) -> dict[str, Path]:
    """Bundles by names that tell them apart, in the order given.

    A bundle's folder or zip, or an artifact of a store, is one. So is ``RUN/MODEL``, a model of a run by its name, as
    ``out/NAME/student``. The out folder of a run is its bundle; given alone it is the teacher before it as well, or
    ``every`` model of the run.

    Raises:
        InputError: a model that a run hasn't, or one that is no longer in the store.
    """
    places: list[tuple[str, Path]] = []
    for path in paths:
        left = run_left_in(path)
        if left is not None and len(paths) == 1:
            places += [(name, left.model(name)) for name in left.models if every or name == "teacher"]
        places.append(_bundle_at(path) if left is None else (path.resolve().name, path / "bundle"))
    return _told_apart(places)


def _bundle_at(path: Path) -> tuple[str, Path]:
    record = path / "artifact.json"
    if record.is_file() and (path / "content" / "manifest.json").is_file():
        try:
            stage: Any = json_value(record.read_text(encoding="utf-8"))["stage"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{record}: not the record of a stage ({error})") from error
        return str(stage).rpartition(":")[2], path / "content"
    if path.name == "content" and (path.parent / "artifact.json").is_file():
        return _bundle_at(path.parent)
    if not path.exists() and (left := run_left_in(path.parent)) is not None:
        if path.name not in left.models:
            raise InputError(f"{path}: that run has no model '{path.name}'; it has {', '.join(left.models)}")
        return path.name, left.model(path.name)
    return path.stem if path.stem != "bundle" else path.resolve().parent.name or path.stem, path


def _told_apart(places: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    """Names of their own: of two of one name each has its folder before it, of one bundle given twice a number."""
    found: dict[str, Path] = {}
    for name, path in places:
        own, folders = name, _folders(path)
        others = [_folders(other) for n, other in places if n == name and other.resolve() != path.resolve()]
        for depth in range(1, len(folders) + 1) if others else ():
            if all(other[-depth:] != folders[-depth:] for other in others):
                own = "/".join([*folders[-depth:], name])
                break
        number = 2
        unique = own
        while unique in found:
            unique, number = f"{own} ({number})", number + 1
        found[unique] = path
    return found


def _folders(path: Path) -> tuple[str, ...]:
    """Return the folders that a bundle's name stands in: of ``y/x/bundle``, which is called x, those down to y."""
    return path.resolve().parts[: -2 if path.name == "bundle" else -1]
