"""Explain: what one model does, or two side by side; from bundles and samples to the page and the terminal's tables."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgemm.graph.attention import patch_grid, with_attention_outputs
from edgemm.measure import contribution, swapped_towers
from edgemm.measure.attention import Watched
from edgemm.measure.contribution import Contributions
from edgemm.measure.outputs import answer_among, name_of
from edgemm.measure.retrieval import distinct, embedded
from edgemm.measure.swapped_towers import Embedded, Search
from edgemm.measure.table import Cell
from edgemm.pipeline.announce import default_store
from edgemm.pipeline.explained_samples import Viewer, answer_cases, search_cases
from edgemm.pipeline.listing import print_cells
from edgemm.pipeline.own_code import load_with_code
from edgemm.pipeline.places import bundles_at, recipe_left, require_there, run_left_in
from edgemm.pipeline.progress import progress_for
from edgemm.pipeline.runs import cache_in_use
from edgemm.pipeline.store import writing_out
from edgemm.report.explain import Explanation, Section, write_explanation
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.engine_onnxruntime import ORTSession
from edgemm.runtime.engines import PORTABLE, Loading
from edgemm.runtime.errors import InputError
from edgemm.runtime.onnx_wire import require_whole_graph
from edgemm.runtime.readers import AudioInput
from edgemm.stage import Progress

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

PAGE: Final = "explain.html"


def explain(
    paths: Sequence[Path], recipe: Path | None, overrides: Sequence[str], *, split: str | None, out: Path | None
) -> dict[str, Any]:
    """The verb: explain one bundle or two on a recipe's data, and write ``explain.html`` into the folder ``out``.

    Args:
        paths: as ``bundles_at`` takes them; the reference first.
        recipe: on whose data; None: the one that a run left beside one of them.
        split: of the data; None takes those that the recipe evaluates on.
        out: None: the out folder of the run, where that is what is explained.

    Raises:
        InputError: more than two bundles, one that isn't there, or two of different families; no run's folder where
            one is needed.
    """
    from edgemm.data import open_dataset

    if len(paths) > 2:
        raise InputError(f"{paths[2]}: a third bundle; explain shows one, or two side by side")
    require_there(paths)
    if out is None and run_left_in(paths[0]) is None:
        raise InputError(f"{paths[0]}: not the out folder of a run; name a folder for the page with --out")
    out = paths[0] if out is None else out
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file; name a folder with --out")
    loaded = load_with_code(recipe, overrides) if recipe else recipe_left(paths, overrides, option="--data")
    bundles = _opened(bundles_at(paths))
    progress = progress_for()
    dataset = open_dataset(loaded.data, cache=cache_in_use(default_store()), progress=progress, recipe=recipe)
    names = (split,) if split else dataset.evaluate
    splits = {name: dataset.split(name) for name in names}
    found = explain_bundles(bundles, splits, shown_groups=dataset.shown_groups, progress=progress)
    for table in found.tables():
        print(f"\n{table.title}")
        print_cells(table.header, [[Cell(*cell) for cell in row] for row in table.rows])
    for note in found.notes:
        progress.say(note)
    with writing_out(out):
        out.mkdir(parents=True, exist_ok=True)
        write_explanation(out / PAGE, found)
    print(f"\npage     {out / PAGE}")
    tables = [
        {"title": t.title, "header": list(t.header), "rows": [list(row) for row in t.rows]} for t in found.tables()
    ]
    return {"page": str(out / PAGE), "tables": tables, "notes": list(found.notes)}


def explain_bundles(
    bundles: Mapping[str, Bundle],
    splits: Mapping[str, Sequence[Sample]],
    *,
    shown_groups: Sequence[str],
    progress: Progress,
) -> Explanation:
    """Measure what one or two open bundles do, and collect the samples to look at; the first is the reference.

    Args:
        bundles: name -> open bundle.
        splits: name -> samples; the first is the one whose samples are shown.
        shown_groups: groups whose pictures and sounds may be shown; empty: all.

    Raises:
        DataError: samples that lack what the bundles need.
        BundleError: two bundles of different spaces or tasks, or outputs that are not finite.
    """
    first = next(iter(bundles.values()))
    kinds = {name: _kind(bundle) for name, bundle in bundles.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"'{name}' is a {kind}" for name, kind in kinds.items())
        raise InputError(f"{said}; expected two bundles of one task")
    modalities = {name: sorted(bundle.manifest.inputs) for name, bundle in bundles.items()}
    if len({tuple(inputs) for inputs in modalities.values()}) > 1:
        said = ", ".join(f"'{name}' takes {' and '.join(inputs)}" for name, inputs in modalities.items())
        raise InputError(f"{said}; expected two bundles of one kind of input")
    kind = kinds[next(iter(bundles))]
    viewers = {
        name: Viewer(f"{number}", bundle, watch(bundle)) for number, (name, bundle) in enumerate(bundles.items())
    }
    notes = [
        f"“{name}”: no attention found in its graphs, so no maps of where it looks."
        for name, viewer in viewers.items()
        if not viewer.watched
    ]
    if kind == "embedder":
        notes.append("An embedder has one modality, so there is no contribution to split.")
    contributions: dict[str, dict[str, Contributions]] = {}
    searches: dict[str, tuple[list[Search], list[str]]] = {}
    sections: list[Section] = []
    for split, samples in splits.items():
        shown = split == next(iter(splits))
        if answer_among(first.outputs) is not None:
            contributions[split] = {}
            for name, bundle in bundles.items():
                total = contribution.steps(bundle, split, samples)
                with progress.task(f"{split}, {name}", total=total) as task:
                    contributions[split][name] = contribution.contributions(
                        bundle, split, samples, advance=task.advance
                    )
            if shown:
                sections = answer_cases(
                    viewers, contributions[split], samples, shown_groups=shown_groups, progress=progress
                )
            continue
        vectors: dict[str, Mapping[str, Embedded]] = {}
        for name, bundle in bundles.items():
            total = sum(len(distinct(samples, m).raws) for m in swapped_towers.modalities_of(bundle, samples))
            with progress.task(f"{split}, {name}", total=total) as task:
                vectors[name] = swapped_towers.embed(bundle, split, samples, advance=task.advance)
        found = swapped_towers.searches(vectors, shown_groups=shown_groups)
        searches[split] = (found, list(bundles))
        if shown:
            sections = search_cases(viewers, found, vectors, shown_groups=shown_groups, progress=progress)
    return Explanation(
        title=f"What {' and '.join(bundles)} {'does' if len(bundles) == 1 else 'do'}",
        family=first.manifest.family,
        variants={name: hashlib.sha256(bundle.manifest.to_bytes()).hexdigest() for name, bundle in bundles.items()},
        contributions=contributions,
        searches=searches,
        sections=sections,
        notes=notes,
    )


def _kind(bundle: Bundle) -> str:
    """Return what a bundle is, for messages and for what can be explained of it."""
    if (found := answer_among(bundle.outputs)) is not None:
        return name_of(found[1])
    return "embedder" if len(embedded(bundle)) == 1 else "retriever"


def watch(bundle: Bundle) -> dict[str, Watched]:
    """Return every part of a bundle that attends, with its maps as further outputs, on onnxruntime.

    Parts that are compiled plans are left out: nothing can be added to them.
    """
    found: dict[str, Watched] = {}
    for part in bundle.parts:
        if part.entry.role == "frontend" or not part.file.endswith(".onnx"):
            continue
        what = f"bundle '{bundle.manifest.name}', part '{part.name}'"
        graph = bundle.archive.read(part.file)
        require_whole_graph(graph, what=what)  # a graph that names other files would have them read
        data, maps = with_attention_outputs(graph, what=what)
        if maps:
            hears = isinstance(bundle.manifest.inputs.get(part.entry.modality or ""), AudioInput)
            patches = patch_grid(data) if hears else None
            found[part.name] = Watched(ORTSession(data, Loading(PORTABLE, bundle.threads, what)), maps, patches)
    return found


def _opened(places: Mapping[str, Path]) -> dict[str, Bundle]:
    """Open bundles of one family."""
    opened = {name: Bundle.open(path) for name, path in places.items()}
    families = {bundle.manifest.family for bundle in opened.values()}
    if len(families) > 1:
        other = list(places.values())[1]
        raise InputError(f"{other}: bundles of different families, {sorted(families)}; give two of one model")
    return opened
