"""Own code: where Python looks for a factory or a reader that the user named.

Why: an installed ``edgemm`` script doesn't look in the working folder as ``python`` does, so a file beside the recipe
would not be found.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from edgemm.recipe import Recipe, load_recipe


def load_with_code(path: Path, overrides: Sequence[str]) -> Recipe:
    """Return the recipe of a file, whose own code Python then finds.

    Raises:
        RecipeError: one line for each problem of the recipe.
    """
    recipe = load_recipe(path, overrides)
    look_beside_(recipe, path)
    return recipe


def look_beside_(recipe: Recipe, file: Path) -> None:
    """Let Python find the code that a recipe names in the working folder and beside the recipe's file."""
    if recipe.factories or recipe.data.own_reader is not None:
        look_in_(Path(), file.parent)


def look_in_(*folders: Path) -> None:
    """Add folders to ``sys.path``, last, so that a file of the user's hides no installed package."""
    for folder in folders:
        place = str(folder.resolve())
        if place not in sys.path:
            sys.path.append(place)
