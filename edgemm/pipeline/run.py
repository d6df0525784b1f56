"""Run: a recipe from its file to a bundle in the out folder, with a line for every finished stage."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from edgemm.measure import as_text
from edgemm.measure.cost import cost_lines, costs
from edgemm.measure.measurement import read_measurements
from edgemm.measure.row import Row
from edgemm.measure.table import default_row, headline_score, reference_row, rows
from edgemm.pipeline.announce import duration
from edgemm.pipeline.json_answers import rows_as_json, stages_as_json
from edgemm.pipeline.launch import process_count, process_rank
from edgemm.pipeline.listing import print_results
from edgemm.pipeline.outlook import kept_of, outlook
from edgemm.pipeline.own_code import load_with_code
from edgemm.pipeline.pack import RAW
from edgemm.pipeline.places import RUN, is_run, leave_run
from edgemm.pipeline.planned_stage import PlannedStage, run_stages
from edgemm.pipeline.progress import progress_for
from edgemm.pipeline.runs import reading_caches, running
from edgemm.pipeline.store import Record, Store, writing_out
from edgemm.recipe import STAGES, Recipe, nearest
from edgemm.recipe.families import searches
from edgemm.runtime.archive import open_archive
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.disk import beside, put_in_place, replacing
from edgemm.runtime.engines import require_engine
from edgemm.runtime.errors import BundleError, EdgemmError, InputError, StoreError
from edgemm.runtime.manifest import GoldenSample, Manifest
from edgemm.runtime.shipped import bundle_bytes, shipped_bytes
from edgemm.stage import Progress, Silent

if TYPE_CHECKING:
    from edgemm.data import Dataset

REPORT = "report.html"
REPORT_MARK = b"edgemm report</title>"  # in the head of every report


def run_recipe(
    path: Path,
    overrides: Sequence[str],
    *,
    store: Path,
    out: Path | None,
    targets: Sequence[str],
    first: str | None,
    last: str | None,
) -> dict[str, Any] | None:
    """Run a recipe, print what comes of it, and return that; nothing in all but the first process of a launch.

    Args:
        path: the recipe.
        overrides: ``KEY=VALUE`` over the file.
        store: folder of the store.
        out: folder for bundle, zip and report; ``out/<name>`` by default.
        targets: names of the recipe's targets to make; empty: all.
        first: stage to make again, with all after it, even where cached.
        last: stage to stop after.

    Raises:
        EdgemmError: anything a user can mend.
        KeyboardInterrupt: whose text says how to go on.
    """
    recipe = with_targets(load_with_code(path, overrides), targets)
    for name in (first, last):
        check_stage(name, recipe)
    out = out or Path("out") / recipe.name
    if first is not None and last is not None and STAGES.index(first) > STAGES.index(last):
        raise InputError(f"--from {first} comes after --until {last}; nothing would be made again")
    check_engines(recipe)
    opened = Store(store)  # before the out folder is made: an unusable store leaves none
    leads = process_rank() == 0
    if leads:  # the folder that one process tries would be gone for another
        check_out(out, recipe.name)
    progress: Progress = progress_for() if leads else Silent()

    from edgemm.data import open_dataset
    from edgemm.pipeline.data_checks import data_notes
    from edgemm.pipeline.stages import planned_stages

    with reading_caches(opened):
        dataset = open_dataset(recipe.data, cache=opened.cache, progress=progress, recipe=path)
        notes = data_notes(recipe, dataset)
        for line in notes:
            progress.say(line)
        nodes = planned_stages(recipe, dataset)
        if last is not None:
            nodes = [node for node in nodes if STAGES.index(node.stage) <= STAGES.index(last)]
        again = [n.name for n in nodes if first is not None and STAGES.index(n.stage) >= STAGES.index(first)]

        if last is None and leads:
            kept = kept_of(nodes, store, say=lambda _: None)  # the run itself says what is damaged
            progress.say(outlook(nodes, kept, store, name=recipe.name, again=again, announced=True))
        started = time.monotonic()
        count = iter(range(1, len(nodes) + 1))

        def finished(node: PlannedStage, record: Record) -> None:
            how = "cached" if record.cached else duration(record.seconds)
            size = as_text.size(record.bytes)
            progress.say(f"{node.name:<18} {how:>12} {size:>9}   {node.makes} ({next(count)} of {len(nodes)})")

        with _ends_on_signals():
            if leads:
                with running(opened, recipe.name, recipe=str(path), overrides=overrides) as run:
                    _run_of_all(run.id)
                    made = run_stages(
                        nodes, store=opened, run=run, progress=progress, again=again, on_finished=finished
                    )
            else:
                run_stages(nodes, store=opened, run=_run_of_all(""), progress=progress)
                return None
            progress.say(f"{'total':<18} {duration(time.monotonic() - started):>12}")
            found = _conclude(
                recipe, dataset, made, out, progress, path=path, command=_run_command(path, overrides, targets),
                notes=notes, makes={node.name: node.makes for node in nodes},
            )  # fmt: skip
            return {"name": recipe.name, "run": run.id, "stages": stages_as_json(made), **found}


def with_targets(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """Return the recipe with only the named targets, in the recipe's order. Raises RecipeError for a name it hasn't."""
    if not names:
        return recipe
    chosen = {recipe.target(name).name for name in names}
    return recipe.model_copy(update={"targets": tuple(t for t in recipe.targets if t.name in chosen)})


def check_stage(name: str | None, recipe: Recipe) -> None:
    """Raise InputError where a stage named on the command line isn't one of the recipe's."""
    if name is None or name in recipe.stages:
        return
    close = nearest(name, list(STAGES))
    if name in STAGES:
        raise InputError(f"stage '{name}' is not in this recipe's stages: {', '.join(recipe.stages)}")
    advice = f"did you mean '{close}'?" if close else f"there are {', '.join(STAGES)}"
    raise InputError(f"no stage '{name}'; {advice}")


def check_engines(recipe: Recipe) -> None:
    """Raise EngineNotInstalled for the first target whose engine isn't there; before anything runs."""
    for target in recipe.targets:
        require_engine(target.engine, what=f"target '{target.name}'")


def check_out(out: Path, name: str) -> None:
    """See that a run may write to the out folder, so that a wrong one shows before a day of training.

    A folder that isn't there yet isn't made for the try: another run may just be making it.

    Raises:
        StoreError: it can't be written.
        InputError: what a run would replace there is not a former run's.
    """
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise StoreError(f"{out}: can't write there ({error.strerror}); choose another with --out") from error
    for place, is_ours in (
        (out / "bundle", is_bundle),
        (out / f"{name}.zip", is_bundle),
        (out / REPORT, _is_report),
        (out / RAW, _is_raw),
        (out / RUN, is_run),
    ):
        if place.is_symlink() or (place.exists() and not is_ours(place)):
            raise InputError(f"{place}: not of a former run, and would be replaced; move it, or choose another --out")


def is_bundle(place: Path) -> bool:
    """Return whether a folder or zip is a bundle and nothing else; an empty folder is as good."""
    if place.is_dir() and not any(place.iterdir()):
        return True
    try:
        return not open_archive(place).unlisted()
    except BundleError:
        return False


def _run_of_all(run_id: str) -> str:
    """Return the id of the first process's run, in every process of a launch."""
    if process_count() == 1:
        return run_id
    from edgemm.compress.trainer import told_by_first  # with torch

    return told_by_first(run_id)


def _is_report(place: Path) -> bool:
    return place.is_file() and REPORT_MARK in place.read_bytes()[:4096]


def _is_raw(place: Path) -> bool:
    """Return whether a file holds measurements: their first line is an environment's record."""
    if not place.is_file():
        return False
    with place.open("rb") as file:
        return b'"record":"environment"' in file.readline(1 << 20).replace(b" ", b"")


@contextmanager
def _ends_on_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run at once; what is finished is kept, and a long stage left its checkpoint."""

    def terminate(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt("run the same command again to go on from here") from interrupt
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_command(path: Path, overrides: Sequence[str], targets: Sequence[str]) -> str:
    """Return the command that makes the same bundle and report again, from the same folder."""
    command = ["edgemm", "run", str(path)]
    for flag, values in (("--target", targets), ("--set", overrides)):
        for value in values:
            command += [flag, value]
    return shlex.join(command)


def _conclude(
    recipe: Recipe,
    dataset: Dataset,
    made: dict[str, Record],
    out: Path,
    progress: Progress,
    *,
    path: Path,
    command: str,
    notes: Sequence[str],
    makes: Mapping[str, str],
) -> dict[str, Any]:
    """Copy what the user keeps into ``out``, print table, paths and a line to try, and return them."""
    if "pack" not in made:
        node, record = list(made.items())[-1]
        print()
        progress.say(f"stopped after {node}: {record.artifact.path}")
        return {"stopped_after": node, "path": str(record.artifact.path)}
    check_out(out, recipe.name)  # again: a run can take a day
    packed = made["pack"].artifact.path
    measured = packed / RAW
    measurements = read_measurements(measured) if measured.exists() else None
    table = rows(measurements) if measurements else ()
    verdicts = (over_budget(recipe, table) or far_below(table)) if table else []
    modalities = list(open_archive(packed / "bundle").manifest.inputs)
    right = right_names(dataset, modalities, recipe.pack.golden)
    with writing_out(out):
        out.mkdir(parents=True, exist_ok=True)
        bundle = replace_with_copy(packed / "bundle", out / "bundle")
        replace_with_copy(packed / f"{recipe.name}.zip", out / f"{recipe.name}.zip")
        if measured.exists():
            replace_with_copy(measured, out / RAW)
        ask = infer_line(bundle, right)
        if "report" in made:
            from edgemm.report.run import Run, place_report  # with jinja2

            stages = [
                (name, "cached" if r.cached else duration(r.seconds), as_text.size(r.bytes), makes[name])
                for name, r in made.items()
            ]
            run = Run(
                command, recipe=path.read_text(encoding="utf-8"), stages=stages, said=[*notes, *verdicts], ask=ask
            )
            place_report(made["report"].artifact.path / REPORT, out / REPORT, run)
        leave_run(out, recipe, {name: record.artifact.path for name, record in made.items()}, file=path)
    sys.stdout.flush()
    if measurements:
        print()
        print_results(table, measurements)
        for line in verdicts:
            progress.say(line)
        print_costs(table, reported="report" in made)
    print()
    if "report" in made:
        print(f"report   {out / REPORT}")
    zipped = out / f"{recipe.name}.zip"
    archive = open_archive(bundle)
    manifest = archive.manifest
    first, count = manifest.targets[0], len(manifest.targets)
    ships = {target.name: shipped_bytes(manifest, target) for target in manifest.targets}
    whole = f"{as_text.size(bundle_bytes(archive))} with samples" + (f" and all {count} targets" if count > 1 else "")
    print(f"bundle   {bundle} ({as_text.size(ships[first.name])} ships for {first.name}; {whole})")
    print(f"zip      {zipped} ({as_text.size(zipped.stat().st_size)}: the whole bundle, compressed)")
    if measurements:
        print(f"samples  {out / RAW} (raw, of every measurement; they do not ship)")
    print(f"try      {ask}")
    places = {"out": str(out), "bundle": str(bundle), "ships_bytes": ships, "zip": str(zipped)}
    places |= {"report": str(out / REPORT)} if "report" in made else {}
    return {**places, "rows": rows_as_json(table), "warnings": [*notes, *verdicts], "try": ask}


def print_costs(table: Sequence[Row], *, reported: bool) -> None:
    """The three tasks that lose most by more than chance, each in the metric that does, and how many figures more."""
    found = costs(table)
    where = "; the report lists all" if reported else ""
    shown = cost_lines(found, most=3)
    if found.worse and not shown:
        shown = [f"{len(found.worse)} of {found.compared} figures, none of them as it ships{where}"]
    for i, line in enumerate(shown):
        print(f"{'' if i else chr(10)}{'costs':<8} {line}")
    if (more := len(found.worse) - len(shown)) and found.leading:
        print(f"{'':<8} and {more} more of {found.compared} figures{where}")


def replace_with_copy(source: Path, place: Path) -> Path:
    """Copy a file or folder to ``place``, whole or not at all; what was there before is replaced in one step."""
    if source.is_dir():
        with beside(place) as folder:
            put_in_place(shutil.copytree(source, folder / place.name, copy_function=shutil.copyfile), place)
    else:
        with replacing(place) as partial:
            shutil.copyfile(source, partial)
    return place


_NEAR = 50  # names that are tried for the line to paste


def infer_line(bundle: Path, right: Sequence[Container[str]] = ()) -> str:
    """Return a command that asks the bundle about a golden sample and works when pasted into this shell.

    Args:
        bundle: its folder.
        right: for each golden sample the names that are right; the first sample that the bundle answers with one of
            them is taken, else the first name near the first sample that it finds when asked for it, else that sample.
    """
    manifest = open_archive(bundle).manifest
    golden = list(manifest.golden)
    near: str | None = None
    try:
        opened = Bundle.open(bundle)
        for sample, names in zip(golden, right, strict=False):
            given = opened.golden_inputs(sample)
            matches = opened.predict(top=1, **{m: given[m] for m in _asked(manifest, sample)}).matches
            if matches is not None and matches[0][0][0] in names:
                golden = [sample]
                break
        else:
            asked = _asked(manifest, golden[0]) if right and golden else []
            if len(asked) == 1 and manifest.inputs[asked[0]].inline:
                names = _found(opened, asked[0], golden[0].inputs[asked[0]], _NEAR)
                near = next((name for name in names if name in _found(opened, asked[0], name, 1)), None)
    except EdgemmError:
        pass  # a target of another machine: the first sample is as good as any
    command = [*_this_command(), "infer", str(bundle)]
    for modality in _asked(manifest, golden[0]) if golden else ():
        held, raw = golden[0].inputs[modality], manifest.inputs[modality]
        command += raw.options(modality, (near or held) if raw.inline else str(bundle / held))
    return shlex.join(command)


def _found(bundle: Bundle, modality: str, text: str, top: int) -> list[str]:
    """Return the names that a bundle finds for a text, the nearest first."""
    given: dict[str, Any] = {modality: text}
    return [name for name, _ in (bundle.predict(top=top, **given).matches or [[]])[0]]


def _asked(manifest: Manifest, sample: GoldenSample) -> list[str]:
    """The modalities of a golden sample that a question needs: one is enough to search with, a text if there is one."""
    if not searches(manifest.family):
        return list(sample.inputs)
    texts = [m for m in sample.inputs if manifest.inputs[m].inline]
    return (texts or list(sample.inputs))[:1]


def right_names(dataset: Dataset, modalities: Sequence[str], count: int) -> list[set[str]]:
    """Return for each golden sample of a bundle the names that answer it, as ``infer_line`` takes them."""
    from edgemm.pipeline.pack import chosen_golden

    return [{*sample.labels, *([sample.label] if sample.label is not None else [])}
            for sample in chosen_golden(dataset, modalities, count)]  # fmt: skip


def _this_command() -> list[str]:
    program = Path(sys.argv[0])
    if program.name == "edgemm":
        found = shutil.which("edgemm")
        if found and Path(found).resolve() == program.resolve():
            return ["edgemm"]
        return [os.path.relpath(program)]
    return [sys.executable, "-m", "edgemm"]


def over_budget(recipe: Recipe, table: Sequence[Row]) -> list[str]:
    """Return one line for each limit of the budget that what ships does not keep."""
    row, reference = default_row(table), reference_row(table)
    budget = recipe.budget
    lines = []
    if row is None or reference is None:
        if budget.latency_ms is not None or budget.drop is not None:
            lines.append("budget: what ships was not run here, so its latency and accuracy are not known")
        row = reference = next(r for r in table if r.variant == table[-1].variant)
    for request in row.requests:
        p50, asked = request.latency.p50, f" of {request.name}" if request.name else ""
        if budget.latency_ms is not None and p50 is not None and p50.value_ms > budget.latency_ms:
            lines.append(
                f"over budget: p50{asked} {as_text.milliseconds(p50.value_ms)}, allowed {budget.latency_ms} ms"
            )
    if budget.size_bytes is not None and row.size_bytes > budget.size_bytes:
        lines.append(f"over budget: {as_text.size(row.size_bytes)}, allowed {as_text.size(budget.size_bytes)}")
    score = headline_score(row)
    if budget.drop is not None and score is not None and score.difference is not None:
        drop = -100 * score.difference.value
        if drop > budget.drop:
            unsure = "" if score.difference.is_beyond_chance else "; these samples can't tell it from no difference"
            lost = f"{score.metric} {drop:.1f} points below {reference.variant}"
            lines.append(f"over budget: {lost}, allowed {budget.drop}{unsure}")
    return lines


FAR_POINTS = 10


def far_below(table: Sequence[Row]) -> list[str]:
    """Return one line where what ships answers like chance and the reference doesn't, or is far below it; else none."""
    row, reference = default_row(table), reference_row(table)
    if row is None or reference is None or row is reference:
        return []
    score, best = headline_score(row), headline_score(reference)
    if score is None or best is None or score.difference is None:
        return []
    what = f"{score.metric} {'' if score.task == 'answers' else f'{score.task} '}on '{score.split}'"
    advice = "see in which row it was lost, and give that stage more epochs or a smaller batch"
    at_chance = score.chance is not None and score.estimate.low <= score.chance < best.estimate.low
    drop = -100 * score.difference.value
    if not at_chance and (drop <= FAR_POINTS or not score.difference.is_beyond_chance):
        return []
    like = f", no better than chance ({100 * (score.chance or 0):.0f} %)" if at_chance else ""
    return [
        f"warning: {row.variant}, {row.target}: {what} is {drop:.1f} points below {reference.variant}{like}; {advice}"
    ]
