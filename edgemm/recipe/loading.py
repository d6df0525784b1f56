"""Loading: a TOML file and what ``--set`` puts over it become a Recipe, or every problem at once."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgemm.recipe.contradictions import contradictions
from edgemm.recipe.messages import problem_line
from edgemm.recipe.paths import anchor_paths_
from edgemm.recipe.recipe import Recipe
from edgemm.runtime.errors import RecipeError


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: the TOML file.
        overrides: ``"a.b=value"`` with a TOML value (a bare word is a string), applied over the file.

    Raises:
        RecipeError: one line for each problem, all problems at once.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise RecipeError(f"{path}: not a regular file; a recipe is a TOML file")  # a device or a pipe may have no end
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe file") from None
    except IsADirectoryError:
        raise RecipeError(f"{path}: is a folder; give the recipe's TOML file") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a TOML file") from error
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: not valid TOML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{path}: arrays nested deeper than any recipe's") from error
    anchor_paths_(values, Recipe, path.parent)
    return recipe_from_values(values, str(path), overrides)


def recipe_from_values(values: dict[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's plain values, with ``overrides`` put over them; ``where`` begins messages.

    Raises:
        RecipeError: one line for each problem, all problems at once.
    """
    origins: dict[str, str] = {}
    for override in overrides:
        _apply_override(values, override, origins)
    return _validate(values, where, origins)


def recipe_values(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values of JSON: what was given, relative paths made absolute from the working folder.

    Law: ``recipe_from_values(recipe_values(recipe), where)`` is that recipe, in whatever folder.
    """
    values = recipe.model_dump(mode="json", exclude_unset=True)
    anchor_paths_(values, Recipe, Path.cwd())
    return values


def _validate(values: dict[str, Any], where: str, origins: Mapping[str, str]) -> Recipe:
    try:
        # Through JSON, since there strict mode takes a list for a tuple and yet no "3" for a 3.
        recipe = Recipe.model_validate_json(json.dumps(values, default=str), strict=True)
    except ValidationError as error:
        problems = error.errors()
        # pydantic calls a list too short as well where an item of it is wrong
        inner = {problem["loc"][:n] for problem in problems for n in range(len(problem["loc"]))}
        lines = [problem_line(problem, where, origins, Recipe) for problem in problems if problem["loc"] not in inner]
        raise RecipeError(*lines) from error
    if found := list(contradictions(recipe)):
        raise RecipeError(*(f"{where}: {problem}" for problem in found))
    return recipe


def _apply_override(values: dict[str, Any], override: str, origins: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise RecipeError(f"--set {override}: expected KEY=VALUE, e.g. --set distill.epochs=3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        value = text
    steps = key.split(".")
    node: Any = values
    for step in steps[:-1]:
        if isinstance(node, list):
            node = _item(node, step, override)
            continue
        node = node.setdefault(step, {})
        if not isinstance(node, dict | list):
            raise RecipeError(f"--set {override}: '{step}' is not a section")
    if isinstance(node, list):
        _item(node, steps[-1], override)
        node[int(steps[-1])] = value
    else:
        node[steps[-1]] = value
    origins[key] = f"--set {override}"


def _item(node: list[Any], step: str, override: str) -> Any:
    if not step.isdigit() or int(step) >= len(node):
        raise RecipeError(f"--set {override}: '{step}' is no index of a list of {len(node)}")
    return node[int(step)]
