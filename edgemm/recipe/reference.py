"""The reference: the JSON schema for editors, and ``docs/recipe.md`` made from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from edgemm.recipe.recipe import Recipe


def recipe_schema() -> dict[str, Any]:
    """JSON schema of a recipe, for editors."""
    schema = Recipe.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "edgemm recipe"}


def docs_from_schema() -> str:
    """Return the recipe reference as markdown: one table of keys for each section, made from the schema."""
    schema = recipe_schema()
    sections: dict[str, Any] = schema["$defs"]
    lines = [
        "# Recipe reference",
        "",
        "Made from the schema by `edgemm schema --markdown`; don't edit by hand.",
        "",
        "Paths in a recipe are relative to its file; paths given with `--set` to the working folder.",
    ]

    def table(title: str, section: Mapping[str, Any]) -> None:
        required = set(section.get("required", ()))
        about = str(section.get("description", "")).split("\n\n")[0].replace("\n", " ")
        lines.extend(["", title, "", about, "", "| key | type | default | meaning |", "|---|---|---|---|"])
        nested: list[tuple[str, str]] = []
        for name, field in section["properties"].items():
            reference, suffix = _reference(field)
            if reference:
                nested.append((name + suffix, reference))
                continue
            default = "**needed**" if name in required else f"`{json.dumps(field.get('default'), ensure_ascii=False)}`"
            lines.append(f"| `{name}` | {_type_name(field)} | {default} | {field.get('description', '')} |")
        prefix = title.removeprefix("## ").strip("`[]")
        for name, reference in nested:
            path = name if prefix == "Top level" else f"{prefix}.{name}"
            heading = f"## `[[{path.removesuffix('[]')}]]`" if name.endswith("[]") else f"## `[{path}]`"
            table(heading, sections[reference])

    table("## Top level", schema)
    return "\n".join(lines) + "\n"


def _reference(field: Mapping[str, Any]) -> tuple[str | None, str]:
    """The section that a field holds, and what its heading ends in where it holds several: a list, or by name."""
    for candidate in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        for inner, suffix in (("", ""), ("items", "[]"), ("additionalProperties", ".NAME")):
            held = candidate.get(inner) if inner else candidate
            if isinstance(held, dict) and "$ref" in held:
                return held["$ref"].rsplit("/", 1)[1], suffix
    return None, ""


def _type_name(field: Mapping[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type_name(f) for f in field["anyOf"] if f.get("type") != "null")
    if "enum" in field:
        return " \\| ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    kind = str(field.get("type", "any"))
    if kind == "array":
        return f"list of {_type_name(field.get('items', {}))}"
    if kind == "object":
        held = field.get("additionalProperties", {})
        return f"table of {_type_name(held) if isinstance(held, dict) else 'any values'}"
    limits = []
    for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")):
        if key in field:
            limits.append(f"{sign} {field[key]}")
    if field.get("format") == "path":
        kind = "path"
    return kind + (f" ({', '.join(limits)})" if limits else "")
