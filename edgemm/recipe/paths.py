"""Paths in a recipe, and code that it names: relative to its file, and found again in its sections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from edgemm.recipe.section import MAY_NAME_CODE, section_of


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
    """Yield keys and text of every field of a section, and of those below, that names a place or code of the user's."""
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        held = value if isinstance(value, dict) else {}
        if isinstance(value, BaseModel):
            yield from (((name, *keys), text) for keys, text in path_fields(value))
        elif inner := {key: item for key, item in held.items() if isinstance(item, BaseModel)}:
            for key, item in inner.items():
                yield from (((name, key, *keys), text) for keys, text in path_fields(item))
        elif "'format': 'path'" in repr(info):
            yield from (((name, key), text) for key, text in held.items())
            yield from [((name,), value)] if isinstance(value, str) else []
        elif MAY_NAME_CODE in info.metadata and value.startswith("python:"):
            yield (name,), value


def files_matching(pattern: str) -> dict[str, Path]:
    """Return the files that a path with wildcards names, by their place under the folder above the first wildcard."""
    base = fixed_part(pattern)
    found = base.glob(str(Path(pattern).relative_to(base)))
    return {path.relative_to(base).as_posix(): path for path in sorted(found) if path.is_file()}


def fixed_part(pattern: str) -> Path:
    """Return the folder above the first wildcard of a pattern: ``a/b`` of ``a/b/*.tar`` and of ``a/b/c.tar``."""
    parts = Path(pattern).parts
    first = next((index for index, part in enumerate(parts) if set(part) & set("*?[")), len(parts) - 1)
    return Path(*parts[:first])
