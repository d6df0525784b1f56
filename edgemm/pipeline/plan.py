"""Plan: what a run would do, and whether it can: tiny random models of the same kind through the whole corridor.

Why a dry run: an operator that can't be exported, an engine that refuses a graph or a target that can't be calibrated
should fail in the first minute, not after a day of training. It takes the product's own stages with one step of
training each: towers keep their kind and their widths but lose depth, weights are random, and a few samples stand for
the data.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from edgemm.data import Dataset, Sample, open_dataset
from edgemm.data.dataset import strided_samples
from edgemm.measure import as_text
from edgemm.pipeline.announce import duration
from edgemm.pipeline.data_checks import data_notes
from edgemm.pipeline.listing import print_table
from edgemm.pipeline.outlook import kept_of, outlook
from edgemm.pipeline.own_code import load_with_code
from edgemm.pipeline.planned_stage import PlannedStage, key_of
from edgemm.pipeline.progress import progress_for
from edgemm.pipeline.run import check_engines, with_targets
from edgemm.pipeline.runs import cache_in_use, running
from edgemm.pipeline.stages import planned_stages
from edgemm.pipeline.store import Record, Store
from edgemm.recipe import (
    AudioTower,
    DistillConfig,
    ImageTower,
    ModelSection,
    PruneConfig,
    Recipe,
    TeachConfig,
    TextTower,
)
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.engines import compiles
from edgemm.runtime.errors import EdgemmError
from edgemm.runtime.outputs import answer_of
from edgemm.stage import Context, Inputs, Silent

_Section = TypeVar("_Section", bound=ModelSection)
_Training = TypeVar("_Training", TeachConfig, DistillConfig, PruneConfig)

SAMPLES = 8
"""Samples of each split that the dry run keeps: one batch for every stage that needs one."""


def plan_recipe(
    path: Path, overrides: Sequence[str], *, store: Path, targets: Sequence[str], dry_run: bool
) -> dict[str, Any]:
    """Print the stages of a recipe, cached or to do, take random models through them, and return what was found.

    Raises:
        EdgemmError: whatever would stop the run.
    """
    recipe = with_targets(load_with_code(path, overrides), targets)
    check_engines(recipe)
    progress = progress_for()
    dataset = open_dataset(recipe.data, cache=cache_in_use(store), progress=progress, recipe=path)
    splits = ", ".join(f"{name} {len(samples)}" for name, samples in dataset.splits.items())
    print(f"{recipe.name}: {recipe.family}, seed {recipe.seed}; samples: {splits}")
    notes = list(data_notes(recipe, dataset))
    for line in notes:
        progress.say(line)
    nodes = planned_stages(recipe, dataset)
    made = kept_of(nodes, store, say=progress.say)
    stages = print_plan(nodes, made)
    print(outlook(nodes, made, store, name=recipe.name))
    found: dict[str, Any] = {"name": recipe.name, "family": recipe.family, "notes": notes, "stages": stages}
    found["samples"] = {name: len(samples) for name, samples in dataset.splits.items()}
    if dry_run:
        progress.say("")
        progress.say("dry run: random models of the same kind through every stage")
        started = time.monotonic()
        try_out(recipe, dataset)
        found["dry_run_seconds"] = time.monotonic() - started
        print(f"dry run passed in {duration(found['dry_run_seconds'])}")
    return found


def print_plan(nodes: Sequence[PlannedStage], made: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Print one line per stage run, cached (it is in ``made``) or to do, and return them."""
    lines, found = [], []
    for node in nodes:
        record = made.get(node.name)
        size = as_text.size(record.bytes) if record else "-"
        took = duration(record.seconds) if record else "-"
        reads = ", ".join(dict.fromkeys(node.inputs.values())) or "data"
        lines.append([node.name, "cached" if record else "to do", node.makes, size, took])
        found.append({"node": node.name, "cached": record is not None, "makes": node.makes, "reads": reads})
        found[-1] |= {"key": record.artifact.key, "bytes": record.bytes, "seconds": record.seconds} if record else {}
    print_table(["stage", "", "makes", "size", "took"], lines, left=3)
    return found


def try_out(recipe: Recipe, dataset: Dataset) -> None:
    """Take tiny random models through every stage but measuring, and ask the bundle on every target that runs here.

    Raises:
        EdgemmError: the first stage that can't be done, by name.
    """
    small, few = smaller(recipe), few_samples(dataset)
    progress = progress_for()
    with tempfile.TemporaryDirectory(prefix="edgemm-plan-") as folder:
        store = Store(folder)
        made: dict[str, Record] = {}
        nodes = [_untrained(node, small, few) for node in planned_stages(small, few)]
        skipped = {"pack", "quantize:teacher"}  # the latter, to compare with, may be refused without harm
        if "prune" in small.stages:  # the pruned student has the same operators, and exporting takes longest
            skipped.add("capture:student")
        nodes = [node for node in nodes if node.name not in skipped]
        with running(store, recipe.name, recipe="plan", overrides=()):
            for node in nodes:
                key, facts = key_of(node, made)
                inputs = {role: made[name].artifact for role, name in node.inputs.items()}

                def work(out: Path, scratch: Path, node: PlannedStage = node, inputs: Inputs = inputs) -> None:
                    node.work(inputs, out, Context(scratch=scratch, progress=Silent(), cache=store.cache))

                try:
                    made[node.name] = store.make(key, node.name, work, facts=facts, say=progress.say)
                except EdgemmError as error:
                    raise type(error)(f"dry run, stage {node.name}: {error}") from error
                progress.say(f"  {node.name:<18} ok  {duration(made[node.name].seconds)}")
        if "draft" in made:
            for target in recipe.targets:
                if not compiles(target.engine):
                    Bundle.open(made["draft"].artifact.path, target=target.name).run_golden()
                    progress.say(f"  {'target ' + target.name:<18} answers")
                else:
                    progress.say(f"  {'target ' + target.name:<18} built, not run here")


def smaller(recipe: Recipe) -> Recipe:
    """The recipe with a step to train, little depth and few samples; the same kinds of parts, stages and targets."""

    def step(section: _Training, **changes: object) -> _Training:  # none where the recipe trains nothing
        return section.model_copy(update={"epochs": min(1, section.epochs), "batch": SAMPLES, **changes})

    return recipe.model_copy(
        update={
            "teacher": _shallow(recipe.teacher, loads=False),
            "student": _shallow(recipe.student, loads=True),
            "teach": step(recipe.teach, views=1),
            "distill": step(recipe.distill, views=1, extra_texts=0),
            "prune": step(recipe.prune, batches=1),
            "capture": recipe.capture.model_copy(update={"samples": 2}),
            "quantize": recipe.quantize.model_copy(update={"samples": 4, "rollback": False}),
            "pack": recipe.pack.model_copy(update={"golden": 1, "gallery": "none"}),
            "stages": tuple(
                "pack" if stage == "measure" else stage for stage in recipe.stages
            ),  # on few is no measuring
        }
    )


def few_samples(dataset: Dataset) -> Dataset:
    """Return a few samples of each split, of those that may ship where there are any; evaluated on those to train on.

    An even stride of each kind that there is: of what modalities a sample has, and whether a class is right.
    """
    splits = {}
    for name, all_samples in dataset.splits.items():
        kinds: dict[tuple[object, ...], list[Sample]] = {}
        for sample in [s for s in all_samples if s.group in dataset.shown_groups] or all_samples:
            kinds.setdefault((sample.modalities(), bool(sample.labels)), []).append(sample)
        each = max(2, SAMPLES // len(kinds))
        splits[name] = [sample for samples in kinds.values() for sample in strided_samples(samples, each)]
    return replace(dataset, splits=splits, pairs={}, evaluate=("train",))


def _shallow(section: _Section, *, loads: bool) -> _Section:
    """One block in each of the first stages of a CNN and one transformer layer, of the widths that the section has.

    Three stages hold every kind of block there is, and tracing takes time by the block. A tower of Hugging Face's
    stays as it is.

    Args:
        loads: weights are loaded, so that towers that have some stay as they are too.
    """
    changed: dict[str, ImageTower | AudioTower | TextTower] = {}
    for name, tower in (("image", section.image), ("audio", section.audio)):
        if tower is not None and not (loads and tower.weights):
            stages = min(3, len(tower.blocks)) if tower.blocks else 3
            sizes = {
                "blocks": (1,) * stages,
                "channels": tower.channels and tower.channels[:stages],
                "expand": tower.expand and tower.expand[:stages],
                "depth": 1.0,
            }
            changed[name] = tower.model_copy(update=sizes)
    if section.text is not None and not (loads and section.text.weights):
        changed["text"] = section.text.model_copy(update={"layers": 1})
    return section.model_copy(update=changed)


def _untrained(node: PlannedStage, recipe: Recipe, dataset: Dataset) -> PlannedStage:
    """The node, where it teaches from parts replaced by one that loads no weights; all else goes on from its result."""
    if node.name != "teach" or recipe.teacher.source is not None:
        return node

    def draw(inputs: Inputs, out: Path, context: Context) -> None:  # noqa: ARG001
        from edgemm.compress.teach import answer_in_units_of_, see_in_range_of_, teach_
        from edgemm.compress.training import Training
        from edgemm.models.builders import build_model
        from edgemm.models.store import save_model
        from edgemm.models.towers import weightless

        section, tokenizer = weightless(recipe.teacher)
        model = build_model(
            section,
            family=recipe.family,
            answer=answer_of(recipe.task, dataset.labels),
            texts=dataset.all_texts(),
            tokenizer_json=tokenizer,
            seed=recipe.seed,
        )
        # the recipe's own section, which says what comes with weights and is frozen
        see_in_range_of_(model, dataset)
        answer_in_units_of_(model, dataset)
        teach_(model, recipe.teach, Training(dataset, context, recipe.seed), section=recipe.teacher)
        save_model(model, out)

    return replace(node, work=draw)
