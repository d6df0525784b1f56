"""Sections: what every part of a recipe shares, and the kinds of values that several have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticKnownError

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
LocalPath = Annotated[str, Field(json_schema_extra={"format": "path"})]
MAY_NAME_CODE = "may name code of the user's own"
"""In the metadata of a field: a text that begins with ``python:`` names a module."""


class Section(BaseModel):
    """What every section shares: unknown keys are fatal, values keep their TOML type, nothing changes after."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation holds, through ``| None``, ``tuple[…]`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := section_of(inner):
            return found
    return None


def known_in(table: Mapping[str, object]) -> Callable[[str], str]:
    """Return the check that a value is a line of ``table``, as it is when asked; the message is that of a Literal."""

    def check(name: str) -> str:
        if name not in table:
            raise PydanticKnownError("literal_error", {"expected": ", ".join(repr(known) for known in table)})
        return name

    return check


class Line(Protocol):
    """A line of a table that a recipe's values are from."""

    @property
    def about(self) -> str:
        """What it is, for the reference."""


def listed(table: Mapping[str, Line]) -> Callable[[dict[str, Any]], None]:
    """What writes the lines of ``table`` as they are when asked into a JSON schema: for editors and the reference."""

    def extend_(schema: dict[str, Any]) -> None:
        schema["enum"] = list(table)
        schema["description"] = "; ".join(f"{name}: {line.about}" for name, line in table.items())

    return extend_
