"""Messages: what is wrong with a recipe, in one line each, with the nearest name that there is."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from edgemm.recipe.section import section_of


def nearest(name: str, known: Sequence[str], *, at_least: float = 0.55) -> str | None:
    """Return the known name most like ``name``, whole or by one of its words ('siez' -> 'input_size'), or None.

    Args:
        at_least: likeness in 0..1, of one letter in five exchanged 0.8.
    """

    def likeness(candidate: str) -> float:
        words = [(candidate, 1.0), *((word, 0.9) for word in candidate.replace("-", "_").split("_"))]
        return max(weight * difflib.SequenceMatcher(None, name, word).ratio() for word, weight in words)

    best = max(known, key=likeness, default=None)
    return best if best is not None and likeness(best) >= at_least else None


def or_nearest(name: str, known: Sequence[str]) -> str:
    """Return how a message about an unknown name ends: with the nearest, or with all that there are."""
    close = nearest(name, known)
    return f"; did you mean '{close}'?" if close else f"; there are {', '.join(known)}"


def _fields_at(steps: Sequence[str | int], model: type[BaseModel] | None) -> list[str]:
    for step in steps:
        if isinstance(step, int) or model is None:
            continue
        info = model.model_fields.get(step)
        model = section_of(info.annotation) if info else None
    return list(model.model_fields) if model else []


def problem_line(problem: Any, where: str, origins: Mapping[str, str], model: type[BaseModel]) -> str:
    """Return one line: file (or --set), key, got, expected, nearest name.

    Args:
        problem: one of pydantic's ``ValidationError.errors()``.
        where: the file.
        origins: key -> the ``--set`` that put it there.
        model: the section whose fields the problem's keys are looked up in.
    """
    steps: tuple[str | int, ...] = problem["loc"]
    key = ".".join(str(step) for step in steps)
    where = next((origin for set_key, origin in origins.items() if f"{key}.".startswith(f"{set_key}.")), where)
    kind, context, got = problem["type"], problem.get("ctx", {}), problem.get("input")
    if kind == "extra_forbidden":
        return f"{where}: {key}: unknown key{or_nearest(str(steps[-1]), _fields_at(steps[:-1], model))}"
    if kind == "missing":
        return f"{where}: {key}: missing, and needed"
    if kind == "literal_error":
        choices = [c.strip().strip("'") for c in str(context["expected"]).replace(" or ", ", ").split(",")]
        close = nearest(str(got), choices)
        hint = f"; did you mean '{close}'?" if close else ""
        return f"{where}: {key}: expected one of {', '.join(choices)}, got {got!r}{hint}"
    if kind == "string_pattern_mismatch":
        return f"{where}: {key}: expected a text that matches {context['pattern']}, got {got!r}"
    expected = {
        "int_type": "an integer",
        "float_type": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "tuple_type": "a list",
        "list_type": "a list",
        "dict_type": "a section",
        "model_type": "a section",
        "model_attributes_type": "a section",
        "int_from_float": "an integer",
        "greater_than": f"more than {context.get('gt')}",
        "greater_than_equal": f"at least {context.get('ge')}",
        "less_than": f"less than {context.get('lt')}",
        "less_than_equal": f"at most {context.get('le')}",
        "finite_number": "a finite number",
        "too_short": f"at least {context.get('min_length')}",
    }.get(kind)
    shown = json.dumps(got, default=str, ensure_ascii=False)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    if expected:
        return f"{where}: {key}: expected {expected}, got {shown}"
    return f"{where}: {key}: {problem['msg'][:1].lower()}{problem['msg'][1:]}, got {shown}"
