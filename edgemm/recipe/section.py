"""Sections: what every part of a recipe shares, and the kinds of values that several have."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
LocalPath = Annotated[str, Field(json_schema_extra={"format": "path"})]


class Section(BaseModel):
    """What every section shares: unknown keys are fatal, values keep their TOML type, nothing changes after."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that an annotation holds, through ``| None``, ``tuple[…]`` and the like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if found := section_of(inner):
            return found
    return None
