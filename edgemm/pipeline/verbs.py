"""Verbs: one stage alone, on a model's folder, a bundle or an ONNX file, for those who want one step only.

They are the same stages as in a run, without the store: what they write is complete or not there at all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.pipeline.announce import default_store
from edgemm.pipeline.json_answers import rows_as_json
from edgemm.pipeline.listing import print_results
from edgemm.pipeline.own_code import load_with_code, look_in_
from edgemm.pipeline.places import bundles_at, recipe_left
from edgemm.pipeline.progress import progress_for
from edgemm.pipeline.runs import cache_in_use
from edgemm.pipeline.store import writing_out
from edgemm.recipe import MeasureConfig
from edgemm.runtime.disk import beside
from edgemm.runtime.errors import BundleError, InputError
from edgemm.runtime.outputs import Classes
from edgemm.stage import Context

Answer = dict[str, Any]
"""What a verb answers with ``--json``."""

if TYPE_CHECKING:
    from edgemm.compress.training import Training
    from edgemm.data import Dataset
    from edgemm.graph.likeness import Likeness
    from edgemm.recipe import Recipe


def teach(path: Path, overrides: Sequence[str], out: Path) -> Answer:
    """Make the recipe's teacher and write its folder."""
    from edgemm.compress import teach as stage

    recipe, dataset = _recipe(path, overrides)
    with _folder(out) as (folder, context):
        training = _training(recipe, dataset, context)
        stage.run(recipe.teach, training, folder, teacher=recipe.teacher, family=recipe.family, task=recipe.task)
    print(f"teacher  {out}")
    return {"out": str(out)}


def distill(path: Path, overrides: Sequence[str], teacher: Path, out: Path) -> Answer:
    """Distil a teacher's folder into the recipe's student."""
    from edgemm.compress import distill as stage

    recipe, dataset = _recipe(path, overrides)
    _check_model(teacher, recipe, dataset)
    with _folder(out) as (folder, context):
        training = _training(recipe, dataset, context)
        stage.run(
            recipe.distill,
            training,
            folder,
            teacher=teacher,
            student=recipe.student,
            family=recipe.family,
            factories=recipe.factories,
        )
    print(f"student  {out}")
    return {"out": str(out)}


def prune(path: Path, overrides: Sequence[str], student: Path, teacher: Path, out: Path) -> Answer:
    """Prune a student's folder and recover it from its teacher."""
    from edgemm.compress import prune as stage

    recipe, dataset = _recipe(path, overrides)
    for model in (student, teacher):
        _check_model(model, recipe, dataset)
    with _folder(out) as (folder, context):
        training = _training(recipe, dataset, context)
        stage.run(
            recipe.prune,
            training,
            folder,
            teacher=teacher,
            student=student,
            distill=recipe.distill,
            factories=recipe.factories,
        )
    print(f"pruned   {out}")
    return {"out": str(out)}


def capture(model: str, out: Path, samples: Path | None, *, factories: Sequence[str] = ()) -> Answer:
    """Export a model as a bundle's folder, compared on real values where they are given.

    Args:
        model: a folder that a stage wrote, or a source as ``teacher.source`` takes it. A ``folder:PATH`` is one from
            elsewhere, whose parts may name no Python code.
        factories: the Python factories that the parts of a folder may come from; see ``load_model``.
    """
    from edgemm.data.arrays import read_arrays, rows_of
    from edgemm.graph.capture import capture_model
    from edgemm.models.store import load_model

    if factories or model.startswith("python:"):
        look_in_(Path())
    if model.startswith(("hf:", "python:", "folder:")):
        from edgemm.models.outside import teacher_from_source

        loaded = teacher_from_source(model)
    else:
        _check_folder(Path(model))
        loaded = load_model(Path(model), factories=factories)
    values = list(rows_of(read_arrays(samples))) if samples else [_random_values(loaded.chain, loaded.inputs)]
    with _folder(out) as (folder, context):
        capture_model(loaded, values, folder, name=_bundle_name(out) or loaded.family, context=context)
    print(f"bundle   {out}")
    return {"out": str(out)}


def quantize(
    source: Path, calibration: Path, out: Path, *, engine: str, compute_capability: str | None = None
) -> Answer:
    """Quantize an ONNX file, or every graph of a bundle, on the samples of an ``.npz``; build a bundle's plans.

    Args:
        out: a new folder; of an ONNX file also the new file itself, where it ends in ``.onnx``.
        compute_capability: of the GPU that a TensorRT engine builds a bundle's plans for, ``"8.6"``.
    """
    from edgemm.data.arrays import read_arrays, rows_of
    from edgemm.graph.build import build_bundle, import_builder
    from edgemm.graph.bundle import quantize_bundle
    from edgemm.graph.onnx_file import quantize_file
    from edgemm.graph.quantize import Quantization
    from edgemm.measure.conditions import busy
    from edgemm.measure.golden import add_golden_outputs
    from edgemm.runtime.archive import open_archive, seal
    from edgemm.runtime.engines import compiles
    from edgemm.runtime.environment import environment
    from edgemm.runtime.manifest import TargetEntry

    config = Quantization(engine=engine)
    config.scheme  # noqa: B018  (an unknown engine is an error before anything is read)
    builds = compiles(engine) and source.suffix != ".onnx"
    if builds != (compute_capability is not None):
        raise InputError(
            f"{source}: engine '{engine}' builds a bundle's plans for one kind of GPU; add --compute-capability 8.6 or "
            "the like"
            if builds
            else f"--compute-capability {compute_capability}: only where a bundle is built for tensorrt or tensorrt-rtx"
        )
    if out.suffix == ".onnx" and source.suffix != ".onnx":
        raise InputError(f"{out}: a bundle is written as a folder; name one with --out {out.with_suffix('')}")
    warnings = busy(environment())  # before the calibration, which is a load as well
    if source.suffix == ".onnx":
        graph = out if out.suffix == ".onnx" else out / source.name
        with _file(out) if graph == out else _folder(out) as (folder, context):
            found = quantize_file(source, calibration, folder, context=context, config=config)
        _print_likeness([found], warnings)
        print(f"graph    {graph}")
        return {"out": str(graph), "engine": engine, "parts": [asdict(found)], "warnings": warnings}
    if source.is_file() and source.suffix != ".zip":
        raise InputError(
            f"{source}: neither a graph nor a bundle; expected an .onnx file, a bundle's folder or its .zip"
        )
    open_archive(source)
    rows = list(rows_of(read_arrays(calibration)))
    entry = TargetEntry(f"{engine}-int8", engine, "int8", {})
    if builds:
        import_builder(engine)  # one that is missing shows before the calibration
    with _folder(out) as (folder, context):
        graphs = context.scratch / "graphs" if builds else folder
        parts = quantize_bundle(source, rows, graphs, targets=[entry], context=context, config=config, compare=True)
        if compute_capability is not None:
            build_bundle(graphs, folder, compute_capabilities={entry.name: compute_capability}, context=context)
        manifest = open_archive(folder).manifest
        targets = tuple(replace(t, name=f"{engine}-{t.precision}") for t in manifest.targets)
        named = seal(folder, replace(manifest, name=_bundle_name(out), targets=targets))
        seal(folder, add_golden_outputs(folder, named))
    _print_likeness(parts, warnings)
    print(f"bundle   {out} ({', '.join(target.label for target in targets)})")
    return {"out": str(out), "engine": engine, "parts": [asdict(part) for part in parts], "warnings": warnings}


def measure(
    places: Sequence[Path],
    out: Path,
    recipe: Path | None,
    overrides: Sequence[str],
    *,
    threads: int | None = None,
) -> Answer:
    """Measure bundles side by side on a recipe's evaluation splits; the first is the reference.

    Args:
        places: as ``bundles_at`` takes them.
        recipe: on whose data; None: the one that a run left beside one of the bundles.
        threads: CPU threads of every target; None: the first number that a target names, so that all compare at one.
    """
    from edgemm.measure.examples import read_examples
    from edgemm.measure.stage import measure_bundles
    from edgemm.measure.table import rows
    from edgemm.report.page import write_report
    from edgemm.runtime.archive import open_archive

    loaded = load_with_code(recipe, overrides) if recipe else recipe_left(places, overrides, option="--recipe")
    variants = bundles_at(places, every=True)
    bundles = list(variants.values())
    manifests = {path: open_archive(path).manifest for path in bundles}
    families = {path: manifest.family for path, manifest in manifests.items()}
    family = families[bundles[0]]
    if other := next((path for path in bundles if families[path] != family), None):
        raise InputError(
            f"{other}: a bundle of family '{families[other]}', and {bundles[0]} of '{family}'; compare bundles of one"
        )
    dataset = _opened(loaded, recipe)
    config: MeasureConfig = loaded.measure
    if threads is None:
        threads = next((t.threads for path in bundles for t in manifests[path].targets if t.threads), 0)
    with _folder(out) as (folder, context):
        measured = measure_bundles(
            variants,
            splits={name: dataset.split(name) for name in dataset.evaluate},
            config=config,
            out=folder,
            context=context,
            threads_of_all=threads,
            shown_groups=dataset.shown_groups,
            checksums=dataset.checksums,
            pairs=dataset.pairs,
        )
        table = rows(measured)
        write_report(
            folder / "report.html",
            title=", ".join(variants),
            family=family,
            rows=table,
            measurements=measured,
            examples=read_examples(folder),
        )
    print_results(table, measured)
    print(f"\nreport   {out / 'report.html'}")
    return {"out": str(out), "report": str(out / "report.html"), "rows": rows_as_json(table)}


def pack(bundle: Path, out: Path) -> Answer:
    """Check a bundle's folder and zip it; of what is at ``out`` only a bundle's zip is replaced."""
    from edgemm.measure import as_text
    from edgemm.pipeline.run import is_bundle
    from edgemm.runtime.archive import open_archive
    from edgemm.runtime.zips import zip_bundle

    if not bundle.is_dir():
        raise InputError(f"{bundle}: not a folder; pack takes a bundle's folder and writes a zip")
    if problems := open_archive(bundle).problems():
        raise BundleError(*problems)
    if out.is_dir():
        raise InputError(f"{out}: a folder; pack writes one zip, name it with --out")
    if out.is_symlink() or (out.exists() and not is_bundle(out)):
        raise InputError(f"{out}: not a bundle, and would be replaced; move it, or choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    zip_bundle(bundle, out)
    print(f"bundle   {out} ({as_text.size(out.stat().st_size)})")
    return {"out": str(out), "bytes": out.stat().st_size}


# --- what they share -------------------------------------------------------------------------------------------------


def _print_likeness(parts: Sequence[Likeness], warnings: Sequence[str]) -> None:
    """What became of each part, and what is to be known of its time."""
    from edgemm.graph.likeness import likeness_lines

    for part in parts:
        print("\n".join(likeness_lines(part)))
    for line in warnings:
        progress_for().say(line)


def _bundle_name(out: Path) -> str:
    """Return a bundle that a verb writes is named as its folder."""
    return out.name.lower()


def _recipe(path: Path, overrides: Sequence[str]) -> tuple[Recipe, Dataset]:
    recipe = load_with_code(path, overrides)
    return recipe, _opened(recipe, path)


def _training(recipe: Recipe, dataset: Dataset, context: Context) -> Training:
    from edgemm.compress.training import Training

    return Training(dataset, context, recipe.seed, recipe.threads)


def _opened(recipe: Recipe, path: Path | None) -> Dataset:
    """Return the recipe's data; files of samples that come as bytes are kept where a run would keep them."""
    from edgemm.data import open_dataset

    return open_dataset(recipe.data, cache=cache_in_use(default_store()), progress=progress_for(), recipe=path)


@contextmanager
def _folder(out: Path) -> Iterator[tuple[Path, Context]]:
    """A folder that becomes ``out`` when the block ends well, and a context beside it; else nothing is left."""
    out = Path(os.path.normpath(out))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; name a new folder with --out, or remove it")
    if out.is_symlink() or os.path.ismount(out):
        kind = "a link" if out.is_symlink() else "where a disk is mounted"
        raise InputError(f"{out}: {kind}, which can't be replaced; name a folder inside, --out {out / 'NAME'}")
    with _beside(out) as (folder, context):
        yield folder, context
        folder.replace(out)  # at most an empty folder is there


@contextmanager
def _file(out: Path) -> Iterator[tuple[Path, Context]]:
    """Yield a folder whose one file becomes ``out`` when the block ends well, and a context; else leave nothing."""
    out = Path(os.path.normpath(out))
    if out.exists() or out.is_symlink():
        raise InputError(f"{out}: exists already; name a new file with --out, or remove it")
    with _beside(out) as (folder, context):
        yield folder, context
        (made,) = folder.iterdir()
        made.rename(out)


@contextmanager
def _beside(out: Path) -> Iterator[tuple[Path, Context]]:
    """Yield an empty folder beside ``out``, which is gone after the block unless it was moved, and a context."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with writing_out(out), beside(out) as work:
        folder, scratch = work / "out", work / "scratch"
        folder.mkdir()
        scratch.mkdir()
        yield folder, Context(scratch=scratch, progress=progress_for(), cache=scratch)


def _check_folder(path: Path) -> None:
    """Raise InputError where a path isn't a model's folder."""
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; expected a model's folder with model.json")
    if not (path / "model.json").is_file():
        hint = "; this is a bundle, give the model it came from" if (path / "manifest.json").is_file() else ""
        raise InputError(f"{path}: no model.json in it; expected a folder that a stage or save_model wrote{hint}")


def _check_model(path: Path, recipe: Recipe, dataset: Dataset) -> None:
    """Raise InputError where a path isn't a model's folder, or holds another model than the recipe's."""
    from edgemm.models.store import load_model

    _check_folder(path)
    model = load_model(path, factories=recipe.factories)
    if model.family != recipe.family:
        raise InputError(f"{path}: a model of family '{model.family}', the recipe says '{recipe.family}'")
    for output in model.outputs.values():
        if isinstance(output, Classes) and (odd := sorted(set(output.labels) ^ set(dataset.labels))):
            raise InputError(
                f"{path}: the classes that it answers with are not those of the data; only one of them has '{odd[0]}'"
            )


def _random_values(chain: Sequence[Any], inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values for every raw input of a model, drawn with seed 0: noise for pictures and sounds, small ids for texts."""
    rng = np.random.default_rng(0)
    raw = {name for given in inputs.values() for name in given.values}
    values: dict[str, np.ndarray] = {}
    for part in chain:
        for spec in part.signature.inputs:
            if spec.name not in raw or spec.name in values:
                continue
            dims = part.signature.dims
            shape = [dim if isinstance(dim, int) else 2 if dim == "batch" else dims[dim].opt for dim in spec.shape]
            if spec.dtype == "uint8":
                values[spec.name] = rng.integers(0, 256, shape, dtype=np.uint8)
            elif spec.dtype.startswith("int"):
                values[spec.name] = np.ones(shape, spec.dtype)
            else:
                values[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    return values
