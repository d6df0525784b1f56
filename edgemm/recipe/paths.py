"""Paths in a recipe: relative to its file, and found again in its sections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgemm.recipe.section import section_of


def anchor_paths_(values: Any, model: type[BaseModel], folder: Path) -> None:
    """Make the relative paths of a recipe file relative to its folder, in place."""
    if not isinstance(values, dict):
        return
    for name, info in model.model_fields.items():
        value = values.get(name)
        if inner := section_of(info.annotation):
            for item in value if isinstance(value, list) else [value]:
                anchor_paths_(item, inner, folder)
        elif "'format': 'path'" in repr(info):
            if isinstance(value, str):
                values[name] = _anchored(value, folder)
            elif isinstance(value, dict):
                values[name] = {k: _anchored(v, folder) if isinstance(v, str) else v for k, v in value.items()}


def _anchored(value: str, folder: Path) -> str:
    """``value`` under ``folder`` where it is a relative path, or one behind 'file:' or 'folder:'.

    One behind 'hf:' may be a name on the hub as well: it is a path where there is such a folder.
    """
    scheme, colon, rest = value.partition(":")
    if not colon:
        return str(folder / value) if value else value
    is_path = scheme in ("file", "folder") or (scheme == "hf" and rest and (folder / rest).is_dir())
    return f"{scheme}:{folder / rest}" if is_path else value


def path_fields(section: BaseModel) -> Iterator[tuple[tuple[str, ...], str]]:
    """Keys and text of every field of a section, and of those below, that names a place on this machine."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        held = value if isinstance(value, dict) else {}
        if isinstance(value, BaseModel):
            yield from (((name, *keys), text) for keys, text in path_fields(value))
        elif inner := {key: item for key, item in held.items() if isinstance(item, BaseModel)}:
            for key, item in inner.items():
                yield from (((name, key, *keys), text) for keys, text in path_fields(item))
        elif isinstance(value, str) and "'format': 'path'" in repr(info):
            yield (name,), value
