"""Pack: what ships. Graphs of every target joined in one bundle, with samples to verify it by, and its measurements.

Two steps, so that what is measured is what ships: ``assemble`` makes a whole bundle with graphs, gallery and golden
samples; measuring opens that; ``finish`` adds measurements and provenance and changes no other byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.data.dataset import Dataset, Sample, strided_samples
from edgemm.measure.encode import BATCH
from edgemm.measure.golden import add_golden_outputs
from edgemm.recipe import PackConfig
from edgemm.runtime.archive import Archive, open_archive, seal
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.disk import write_array
from edgemm.runtime.engines import compiles
from edgemm.runtime.errors import BundleError, DataError
from edgemm.runtime.manifest import Gallery, GoldenSample, Manifest, TargetEntry
from edgemm.runtime.outputs import embeddings_in
from edgemm.runtime.paths import MANIFEST
from edgemm.runtime.zips import zip_bundle
from edgemm.stage import Progress, Silent

RAW, SUMMARY = "measurements.jsonl", "measurements.json"


@dataclass(frozen=True, slots=True)
class Source:
    """A target of the bundle to be: its name there, and the folder and target that its files come from."""

    name: str
    folder: Path
    target: str
    threads: int = 0


def assemble(
    name: str,
    sources: Sequence[Source],
    out: Path,
    *,
    config: PackConfig,
    dataset: Dataset | None,
    encoder: Path | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Write a bundle folder with every source's graphs, golden samples and, where there is one, a gallery.

    Args:
        name: of the bundle.
        sources: the first becomes the default target; all must have the same parts.
        out: an empty folder.
        config: how many golden samples, which gallery.
        dataset: where both come from; None for neither.
        encoder: the bundle that embeds the gallery; None: the one that is written.
        progress: where to report.

    Raises:
        BundleError: sources of different models, or outputs that are not finite.
        DataError: no sample that may be shipped.
    """
    progress = progress or Silent()
    first = open_archive(sources[0].folder)
    manifest = replace(_join(first, sources, out), name=name)
    seal(out, manifest)  # from here on it opens, so that gallery and golden outputs come from its own bytes
    if dataset is not None:
        runs_here = [t.name for t in manifest.targets if not compiles(t.engine)]
        if runs_here and config.gallery != "none" and len(embeddings_in(manifest.outputs)) > 1:
            manifest = _add_gallery(
                out,
                manifest,
                dataset,
                config,
                bundle=Bundle.open(encoder) if encoder is not None else Bundle.open(out, target=runs_here[0]),
                progress=progress,
            )
            seal(out, manifest)
        manifest = _add_golden(out, manifest, dataset, config)
        seal(out, manifest)
        with progress.task("golden outputs", total=len(manifest.targets)) as task:
            manifest = add_golden_outputs(out, manifest, advance=task.advance)
    return seal(out, manifest)


def finish(
    draft: Path,
    out: Path,
    *,
    measurements: Path | None,
    summary: Mapping[str, Any] | None,
    provenance: Mapping[str, Any],
    zip_name: str | None = None,
) -> Path:
    """Return the bundle that ships: the draft's bytes, its measurements and where it comes from; a folder and one zip.

    Raw samples lie beside the bundle, in ``measurements.jsonl``, and their summary in it: a device needs no samples.

    Args:
        draft: what ``assemble`` wrote.
        out: an empty folder; gets ``bundle/``, ``<name>.zip`` and, where there are any, ``measurements.jsonl``.
        measurements: JSONL of raw measurements of the draft.
        summary: what ships of them, JSON-able; None ships the raw ones.
        provenance: JSON-able.
        zip_name: without ending; the bundle's name by default.

    Returns:
        The zip.
    """
    archive = open_archive(draft)
    folder = out / "bundle"
    shutil.copytree(draft, folder)
    (folder / MANIFEST).unlink()
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shipped: str | None = None
    if measurements is not None:
        shutil.copyfile(measurements, out / RAW)
        shipped = RAW if summary is None else SUMMARY
        if summary is None:
            shutil.copyfile(measurements, folder / RAW)
        else:
            text = json.dumps(summary, ensure_ascii=False, indent=1) + "\n"
            (folder / SUMMARY).write_text(text, encoding="utf-8")
    manifest = replace(archive.manifest, measurements=shipped, provenance=dict(provenance))
    seal(folder, manifest)
    return zip_bundle(folder, out / f"{zip_name or manifest.name}.zip")


# --- joining ---------------------------------------------------------------------------------------------------------


def _join(first: Archive, sources: Sequence[Source], out: Path) -> Manifest:
    """Copy what every source's target runs; two files of one path and different bytes get a folder per target."""
    manifest = first.manifest
    digests: dict[str, str] = {}
    targets: list[TargetEntry] = []
    for source in sources:
        archive = open_archive(source.folder)
        if [(p.name, p.signature) for p in archive.manifest.parts] != [(p.name, p.signature) for p in manifest.parts]:
            raise BundleError(
                f"{source.folder}: its parts differ from those of {first.path}; a bundle's targets carry the same model"
            )
        entry = archive.manifest.target(source.target)
        files = {part: _copy(archive, path, out, digests, apart=source.name) for part, path in entry.files.items()}
        targets.append(replace(entry, name=source.name, files=files, threads=source.threads))
        if compiles(entry.engine):  # the portable graphs ship beside a plan that only one kind of GPU can load
            for path in archive.manifest.files:
                if path.endswith(".onnx"):
                    _copy(archive, path, out, digests, apart=source.name)
    read = [path for raw in manifest.inputs.values() for path in raw.files.values()]
    labels = manifest.labels.values()
    for path in [*read, *labels, *manifest.placeholders.values()]:
        if _copy(first, path, out, digests, apart="") != path:
            raise BundleError(f"{path}: taken by a graph; no other file can share its name")
    return replace(
        manifest,
        targets=tuple(targets),
        golden=(),
        golden_outputs={},
        galleries={},
        measurements=None,
        provenance={},
        files={},
    )


def _copy(archive: Archive, path: str, out: Path, digests: dict[str, str], *, apart: str) -> str:
    """Copy one file of a bundle; returns its path in ``out``."""
    sha256 = archive.manifest.files[path].sha256
    place = path if digests.get(path, sha256) == sha256 else f"{apart}/{path}"
    if place not in digests:
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        (out / place).write_bytes(archive.read(path))
        digests[place] = sha256
    return place


# --- gallery and golden samples --------------------------------------------------------------------------------------


def _may_ship(dataset: Dataset, sample: Sample) -> bool:
    return not dataset.shown_groups or sample.group in dataset.shown_groups


def gallery_samples(dataset: Dataset, config: PackConfig) -> dict[str, Any]:
    """Return the raw sample that stands for each label in the gallery. Raises DataError where there is none."""
    found: dict[str, Any] = {}
    for split in config.gallery_splits or tuple(dataset.splits):
        for sample in dataset.split(split):
            raw = sample.raw(config.gallery)
            if raw is not None and sample.label is not None and _may_ship(dataset, sample):
                found.setdefault(sample.label, raw)
    if not found:
        raise DataError(
            f"pack.gallery: no {config.gallery} with a label in {list(config.gallery_splits or dataset.splits)}; "
            'give samples a label, or set pack.gallery = "none"'
        )
    return found


def golden_samples(dataset: Dataset, modalities: Sequence[str]) -> list[Sample]:
    """Return the samples that a bundle can be verified with. Raises DataError where there is none."""
    split = dataset.evaluate[0]
    usable = [
        sample
        for sample in dataset.split(split)
        if _may_ship(dataset, sample) and all(sample.raw(m) is not None for m in modalities)
    ]
    if not usable:
        lacking = [m for m in modalities if all(sample.raw(m) is None for sample in dataset.split(split))]
        why = f"; none has {' or '.join(lacking)}" if lacking else ""
        raise DataError(f"split '{split}': no sample has {' and '.join(modalities)} and may be shipped{why}")
    return usable


def chosen_golden(dataset: Dataset, modalities: Sequence[str], count: int) -> list[Sample]:
    """At most ``count`` of ``golden_samples``, an even stride over them. Raises DataError where there is none."""
    return strided_samples(golden_samples(dataset, modalities), count)


def _add_gallery(
    out: Path, manifest: Manifest, dataset: Dataset, config: PackConfig, *, bundle: Bundle, progress: Progress
) -> Manifest:
    """Embed one raw sample of every label by ``bundle``: the bytes that ship, or the teacher's."""
    modality: str = config.gallery
    if modality not in manifest.inputs:
        raise DataError(f"pack.gallery: '{modality}' is no modality of this bundle; it has {list(manifest.inputs)}")
    found = gallery_samples(dataset, config)
    labels = sorted(found)
    rows: list[np.ndarray] = []
    with progress.task("gallery", total=len(labels)) as task:
        for start in range(0, len(labels), BATCH):
            chunk = [found[label] for label in labels[start : start + BATCH]]
            given: dict[str, Any] = {modality: chunk}
            made = bundle.predict(**given).outputs
            name = next(name for name in embeddings_in(bundle.manifest.outputs) if name in made)
            rows.append(made[name])
            task.advance(len(chunk))
    embeddings = np.concatenate(rows)
    if not np.isfinite(embeddings).all():
        raise BundleError(f"pack.gallery: target '{bundle.target.name}' gives embeddings that are not finite")
    space = embeddings_in(bundle.manifest.outputs)[name].space
    searching = [n for n, output in embeddings_in(manifest.outputs).items() if output.space == space]
    widths = {spec.shape[-1] for part in manifest.parts for spec in part.signature.outputs if spec.name in searching}
    if widths - {embeddings.shape[1]}:
        raise BundleError(
            f"pack.gallery_encoder: the teacher's embeddings have {embeddings.shape[1]} dimensions, the bundle's "
            f'{sorted(map(str, widths))}; set pack.gallery_encoder = "bundle"'
        )
    (out / "gallery").mkdir()
    write_array(out / "gallery" / "embeddings.npy", embeddings.astype(np.float16))
    (out / "gallery" / "labels.json").write_text(json.dumps(labels, ensure_ascii=False, indent=0), encoding="utf-8")
    return replace(manifest, galleries={space: Gallery("gallery/embeddings.npy", "gallery/labels.json")})


def _add_golden(out: Path, manifest: Manifest, dataset: Dataset, config: PackConfig) -> Manifest:
    """Copy raw samples, an even stride over the first evaluated split, of those that may be shipped."""
    golden: list[GoldenSample] = []
    for index, sample in enumerate(chosen_golden(dataset, list(manifest.inputs), config.golden)):
        inputs: dict[str, str] = {}
        for modality, raw in manifest.inputs.items():
            held = sample.raw(modality)
            assert held is not None
            if raw.inline:
                inputs[modality] = str(held)
                continue
            path = Path(held)
            inputs[modality] = f"golden/{index}-{modality}{path.suffix.lower()}"
            (out / "golden").mkdir(exist_ok=True)
            shutil.copyfile(path, out / inputs[modality])
        golden.append(GoldenSample(inputs))
    return replace(manifest, golden=tuple(golden))
