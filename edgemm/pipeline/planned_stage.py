"""Planned stage: a stage that a recipe will run, and how such stages are run in order through the store.

Why: ``capture`` runs three times in one recipe, ``quantize`` twice. A planned stage names one such run, those whose
output it reads, and everything that its own output depends on; running is the same for all of them. They come in an
order in which each finds its inputs made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgemm import __version__
from edgemm.pipeline.code_digest import code_digest
from edgemm.pipeline.hashing import content_key, library_versions
from edgemm.pipeline.launch import follow, process_count
from edgemm.pipeline.runs import Run
from edgemm.pipeline.store import Record, Store, remove
from edgemm.stage import Artifact, Context, Progress

Work = Callable[[Mapping[str, Artifact], Path, Context], None]


@dataclass(frozen=True)
class PlannedStage:
    """One stage run.

    Args:
        name: unique in a recipe, ``"capture:student"``.
        stage: the stage it belongs to, for ``--from`` and ``--until``.
        inputs: role -> name of the node whose artifact it reads.
        config: everything else its output depends on, JSON-able and free of paths.
        work: writes the output; a function at the top of a module, or a ``partial`` of one, whose code is in the key.
        libraries: distributions whose version its output depends on.
        own_code: the user's own code that its output depends on, as ``key_inputs.own_code`` writes it.
        collective: in a launch of several processes every one works on it; otherwise only the first does.
        makes: what it makes, in a few words, for the plan.
        cached_with: functions whose stages read and fill the same caches, its own among them; empty: it alone does.
    """

    name: str
    stage: str
    inputs: Mapping[str, str]
    config: Mapping[str, Any]
    work: Work = field(compare=False)
    libraries: tuple[str, ...] = ()
    own_code: Sequence[Sequence[str]] = ()
    collective: bool = False
    makes: str = ""
    cached_with: tuple[Work, ...] = field(default=(), compare=False)

    def code(self) -> dict[str, Any]:
        """What computes its output: digest of edgemm's own code, versions of the libraries, the user's own code."""
        own = {"own_code": self.own_code} if self.own_code else {}
        return {"sources": code_digest(self.work), "libraries": library_versions(self.libraries), **own}

    def caches(self) -> str:
        """Return name of the folder of its caches: a digest of the code that fills it."""
        filled_by = sorted({code_digest(work) for work in self.cached_with or (self.work,)})
        return content_key({**self.code(), "sources": filled_by})

    def facts(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """Return what the key is made from; ``digests`` are those of the inputs by role."""
        return {
            "edgemm": __version__,
            "node": self.name.partition(":")[0],
            **self.code(),
            "config": self.config,
            "inputs": dict(digests),
            # gradients of several processes are summed in another order than those of one
            "processes": process_count() if self.collective else 1,
        }


def key_of(node: PlannedStage, made: Mapping[str, Record]) -> tuple[str, dict[str, Any]]:
    """Return key of a node whose inputs are made, and the facts it comes from."""
    facts = node.facts({role: made[name].artifact.digest for role, name in node.inputs.items()})
    return content_key(facts), facts


def run_stages(
    nodes: Sequence[PlannedStage],
    *,
    store: Store,
    run: Run | str,
    progress: Progress,
    again: Iterable[str] = (),
    on_finished: Callable[[PlannedStage, Record], None] | None = None,
) -> dict[str, Record]:
    """Execute nodes in order; what the store has already is taken from there.

    Args:
        nodes: in an order in which each finds its inputs made.
        store: where artifacts are found and published.
        run: notes what came of each; in all but the first process of a launch, the id of the first one's run.
        progress: where stages report.
        again: names of nodes to make even where they are there.
        on_finished: called after each.
    """
    made: dict[str, Record] = {}
    again = set(again)
    dropped: set[Path] = set()
    for node in nodes:
        key, facts = key_of(node, made)
        inputs = {role: made[name].artifact for role, name in node.inputs.items()}

        def work(
            out: Path, scratch: Path, node: PlannedStage = node, key: str = key, inputs: Mapping[str, Artifact] = inputs
        ) -> None:
            cache = store.cache / node.caches()  # rows and scores that other code computed are not found
            if node.own_code and node.name in again and cache not in dropped:
                remove(cache)  # asked for since something that it imports has changed, which no key knows
                dropped.add(cache)
            if node.collective and isinstance(run, Run):
                run.write(making=key)  # the other processes of a launch join in
            node.work(inputs, out, Context(scratch=scratch, progress=progress, cache=cache))

        if isinstance(run, Run):
            run.pin(key)
            record = store.make(key, node.name, work, facts=facts, say=progress.say, again=node.name in again)
            if not record.cached:
                run.drop_superseded(key)
            run.finished(node.name, record)
        else:
            record = follow(store, run, key, node=node.name, work=work)
        made[node.name] = record
        if on_finished is not None:
            on_finished(node, record)
    return made
