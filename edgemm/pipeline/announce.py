"""The first line of a verb that takes long: what it is about to do and for how long, before anything heavy is imported.

Standard library only, and nothing is checked: a recipe that can't be read is an error of the verb, a moment later.
"""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from edgemm.runtime.fields import json_value, printable

_told_to: ContextVar[TextIO | None] = ContextVar("told_to", default=None)


@contextmanager
def results_unprinted() -> Iterator[None]:
    """Print no results, which are returned; progress and warnings go to standard error (``--json``)."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        token = _told_to.set(sys.stderr)
        try:
            yield
        finally:
            _told_to.reset(token)


def progress_stream() -> TextIO:
    """Where progress and warnings go: standard output, beside the results, or standard error where none are printed."""
    return _told_to.get() or sys.stdout


_UNKNOWN = "first run here: no estimate"


def default_store() -> Path:
    """Where the store is when nobody says: ``$EDGEMM_STORE``, or ``.edgemm`` in the working folder."""
    return Path(os.environ.get("EDGEMM_STORE") or ".edgemm")


def announce(verb: str, what: str) -> None:
    """Print the line of a verb that makes no run: nothing is known of how long it took before."""
    if _leads():
        print(f"{verb}: {printable(what)}", file=progress_stream(), flush=True)


def announce_recipe(verb: str, recipe: Path, *, store: Path, stage: str | None = None, takes: str = "") -> None:
    """Print what a verb does with a recipe, and how long that takes.

    Args:
        stage: the verb takes this stage alone; None: the whole recipe.
        takes: how long it takes; empty: as long as the last run of the recipe that the store knows.
    """
    name = _name(recipe)
    if name is None or not _leads():
        return
    run = None if takes else last_run(store, name)
    if takes:
        length = takes
    elif run is None:
        length = _UNKNOWN
    else:
        took = stage_seconds(run)
        kept = sum((store / "artifacts" / str(made.get("key"))).is_dir() for made in _stages(run))
        length = f"its last run took {duration(sum(took.values()))}"
        if stage is not None:
            seconds = sum(s for node, s in took.items() if node.partition(":")[0] == stage)
            length = f"stage {stage} of its last run took {duration(seconds)}" if seconds else _UNKNOWN
        elif kept:
            stages = "stage is" if len(took) == 1 else "stages are"
            length += f", of which {kept} of {len(took)} {stages} kept: seconds for those that nothing changed"
    print(f"{verb}: {printable(name)}, {printable(str(recipe))}; {length}", file=progress_stream(), flush=True)


def last_run(store: Path, name: str) -> Mapping[str, Any] | None:
    """Return what is known of the latest run of a recipe that went through; None where there is none."""
    for path in sorted((store / "runs").glob(f"*-{name}-*.json"), reverse=True):
        try:
            run = json_value(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(run, dict) and run.get("name") == name and run.get("status") == "done" and _stages(run):
            return run
    return None


def stage_seconds(run: Mapping[str, Any]) -> dict[str, float]:
    """PlannedStage -> seconds that it took when it was made."""
    return {str(stage.get("node")): float(stage.get("seconds", 0.0)) for stage in _stages(run)}


def duration(seconds: float) -> str:
    """``"0.4 s"``, ``"12 s"``, ``"3 min 05 s"``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _leads() -> bool:
    """Whether this is the only process, or the first of a launch; ``launch.process_rank`` takes longer to import."""
    return os.environ.get("RANK", "0") == "0"


def _stages(run: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    stages = run.get("stages")
    return [stage for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []


def _name(recipe: Path) -> str | None:
    """Return the name that a recipe gives itself, or None where it can't be read."""
    try:
        if not recipe.is_file():
            return None
        name = tomllib.loads(recipe.read_text(encoding="utf-8")).get("name")
    except (OSError, ValueError, RecursionError):
        return None
    return name if isinstance(name, str) else None
