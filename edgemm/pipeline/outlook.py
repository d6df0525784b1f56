"""Outlook: which stages of a run are there already, and how long the others will take, by the recipe's last run."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path

from edgemm.pipeline.announce import duration, last_run, stage_seconds
from edgemm.pipeline.planned_stage import PlannedStage, key_of
from edgemm.pipeline.store import Damaged, Record, Store


def kept_of(nodes: Sequence[PlannedStage], store: Path, *, say: Callable[[str], None]) -> dict[str, Record]:
    """PlannedStage -> its record, of those that the store holds; ``say`` is told of those that are damaged.

    What follows a stage that is to do is to do as well, since its input isn't known yet.
    """
    if not (store / "artifacts").is_dir():
        return {}
    opened = Store(store, only_read=True)
    made: dict[str, Record] = {}
    for node in nodes:
        if all(name in made for name in node.inputs.values()):
            try:
                record = opened.find(key_of(node, made)[0], check=False)
            except Damaged as error:
                say(f"note: {error.what}; a run makes it again")
                continue
            if record is not None:
                made[node.name] = record
    return made


def outlook(
    nodes: Sequence[PlannedStage],
    made: Mapping[str, Record],
    store: Path,
    *,
    name: str,
    again: Container[str] = (),
    announced: bool = False,
) -> str:
    """Return one line: how many stages are there, how many are to do, and how long those took in the last run.

    Args:
        made: those that are there, of ``kept_of``.
        name: of the recipe.
        again: names of nodes that are made even where they are there.
        announced: the verb's first line has said that there is no earlier run.
    """
    to_do = [node.name for node in nodes if node.name not in made or node.name in again]
    stages = "1 stage" if len(nodes) == 1 else f"{len(nodes)} stages"
    if not to_do:
        return f"{stages}, all of them cached: seconds" if len(nodes) > 1 else "1 stage, cached: seconds"
    line = f"{stages}: {len(nodes) - len(to_do)} cached, {len(to_do)} to do"
    run = last_run(store, name)
    if run is None:
        return line if announced else f"{line}; no earlier run to estimate from"
    took = stage_seconds(run)
    known = [took[node] for node in to_do if node in took]
    if not known:
        return f"{line}; the last run had none of them"
    others = f", {len(to_do) - len(known)} of them not in it" if len(known) < len(to_do) else ""
    return f"{line}, about {duration(sum(known))} by the last run{others}"
