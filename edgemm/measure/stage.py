"""Stage measure: every variant on every target, in one run, on the very bytes that ship.

Writes ``measurements.jsonl`` (raw samples, the only source of every figure) and the examples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure import accuracy, latency, metrics, score_cache, table
from edgemm.measure.blame import blame, headline
from edgemm.measure.conditions import warnings_of
from edgemm.measure.drawn_examples import Shown, shown_examples
from edgemm.measure.examples import Example, write_examples
from edgemm.measure.measurement import (
    Environment,
    Kind,
    Measurement,
    Measurements,
    bytes_digest,
    read_measurements,
    write_measurements,
)
from edgemm.measure.retrieval import embeddings
from edgemm.measure.scores import Scored, headline_metric, statistics
from edgemm.recipe import MeasureConfig
from edgemm.runtime.archive import open_archive
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.engine_tensorrt import unbuilt
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.environment import environment
from edgemm.runtime.errors import BundleError, DeviceMissing
from edgemm.runtime.fields import json_value
from edgemm.runtime.manifest import Manifest, TargetEntry
from edgemm.runtime.requests import requests_of
from edgemm.runtime.shipped import files_run, gallery_bytes, target_bytes
from edgemm.stage import Context

if TYPE_CHECKING:
    from edgemm.data.dataset import Pair, Sample

MEASUREMENTS = "measurements.jsonl"
UNITS = {"ranks": "rank", "answers": "class", "probabilities": "share", "values": "value", "similarities": "cosine"}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One variant on one target: what is measured, and the open bundle where it runs here.

    Args:
        threads: CPU threads that its latency is measured with. The bundle itself has every core: its answers don't
            depend on the number, only the time until they are there does.
    """

    variant: str
    path: Path
    target: TargetEntry
    manifest: Manifest
    sha256: str
    threads: int
    bundle: Bundle | None
    note: str

    @property
    def name(self) -> str:
        return f"{self.variant} / {self.target.name}"


def measure_bundles(
    variants: Mapping[str, Path],
    *,
    splits: Mapping[str, Sequence[Sample]],
    config: MeasureConfig,
    out: Path,
    context: Context,
    threads: int = 0,
    threads_of_all: int | None = None,
    shown_groups: Sequence[str] = (),
    checksums: Mapping[Path, str] | None = None,
    gallery_encoder: str | None = None,
    pairs: Mapping[str, Sequence[Pair]] | None = None,
) -> Measurements:
    """Measure bundles against each other and write the results into the folder ``out``.

    Every target of every bundle is a row. A target whose bytes were met before (a float32 target carried along) is
    measured once. The first variant is the reference. TensorRT plans are measured where their GPU is; elsewhere they
    show their size and "built, not run here". An engine that is missing, or a target never built, is an error.

    Args:
        variants: name in the table -> bundle folder or zip, in the order of the table (teacher first).
        splits: evaluation split -> samples.
        config: how long, and how many examples.
        out: folder, made where it is not there.
        context: progress, and the cache that keeps scores by digest.
        threads: CPU threads of targets that leave the number to the engine, so that all compare at the same.
        threads_of_all: CPU threads of every target, whatever number it names; None keeps those.
        shown_groups: groups whose pictures and sounds the examples may show; empty: all.
        checksums: sha256 of image files where they are known already (``Dataset.checksums``).
        gallery_encoder: the variant that embedded the gallery that ships; None where each bundle embeds its own.
        pairs: split -> the pairs that an embedder is verified on; of a split without, all (``Dataset.pairs``).

    Returns:
        What was written to ``measurements.jsonl``, read back.

    Raises:
        EngineError, EngineNotInstalled, BundleError, DataError, InputError: as the runtime and ``accuracy.score`` raise
            them.
    """
    out.mkdir(parents=True, exist_ok=True)
    here = Environment(json_value(json.dumps(environment())))
    entries = _entries(variants, context, threads, threads_of_all)
    ran = [entry for entry in entries if entry.bundle is not None]
    searched = max(gallery_bytes(entry.manifest) for entry in entries)
    found = [_size(entry, here, gallery=gallery_bytes(entry.manifest) or searched) for entry in entries]
    scored = _accuracies(
        ran,
        splits,
        config,
        context,
        here,
        shown_groups=shown_groups,
        checksums=checksums,
        gallery_encoder=gallery_encoder,
        pairs=pairs or {},
    )
    for entry in ran:
        for s in scored[entry.sha256]:
            kind: Kind = s.kind  # type: ignore[assignment]  # a Scored is of one of the five
            found.append(_measurement(kind, entry, f"{s.split}: {s.task}", UNITS[s.kind], s.samples, here, s.details))
    if ran:
        found += _blamed(ran, splits, scored, config, context, here)
        samples = next(iter(splits.values()))
        found += _latencies(ran, samples, config, context, here)
    write_measurements(out / MEASUREMENTS, found, environments=[here])
    measured = read_measurements(out / MEASUREMENTS)
    for line in warnings_of(measured):
        context.progress.say(line)
    write_examples(out, _shown(ran, splits, scored, config, shown_groups) if ran and config.examples else [])
    return measured


def target_digest(manifest: Manifest, target: TargetEntry) -> str:
    """sha256 of what one target runs: engines, graphs, tokenizers, placeholders, labels; not the files' names."""
    return bytes_digest(
        target.engine, {name: manifest.files[path].sha256 for name, path in files_run(manifest, target).items()}
    )


def _entries(variants: Mapping[str, Path], context: Context, threads: int, threads_of_all: int | None) -> list[_Entry]:
    entries: list[_Entry] = []
    for variant, path in variants.items():
        manifest = open_archive(path).manifest
        for i, target in enumerate(manifest.targets):
            digest = target_digest(manifest, target)
            own = (target.threads or threads) if threads_of_all is None else threads_of_all
            if i and any((e.sha256, e.threads) == (digest, own) for e in entries):
                continue
            if problem := unbuilt(manifest, target):
                raise BundleError(f"{path}: {problem}")
            bundle, note = _open(path, target, context, variant)
            ran = own if bundle is not None else target.threads
            entries.append(_Entry(variant, path, target, manifest, digest, ran, bundle, note))
    return entries


def _open(path: Path, target: TargetEntry, context: Context, variant: str) -> tuple[Bundle | None, str]:
    """Return the bundle with its engines loaded, or None and why not: only for a plan whose GPU is not in this machine.

    Raises:
        EngineNotInstalled: naming the extra.
        EngineError: an engine that refuses the file.
    """
    try:
        bundle = Bundle.open(path, target=target.name, threads=os.cpu_count() or 1)
        for part in bundle.parts:
            part.session  # noqa: B018  (loads it)
    except DeviceMissing as error:
        context.progress.say(f"{variant}, {target.name}: built, not run here: {error}")
        return None, "built, not run here"
    return bundle, ""


def _measurement(
    kind: Kind,
    entry: _Entry,
    subject: str,
    unit: str,
    samples: Sequence[float] | np.ndarray,
    here: Environment,
    details: Mapping[str, Any] | None = None,
) -> Measurement:
    return Measurement(
        kind, entry.variant, entry.target.name, entry.sha256, subject, unit,
        tuple(float(x) for x in samples), here.digest, dict(details or {}),
    )  # fmt: skip


def _size(entry: _Entry, here: Environment, *, gallery: int) -> Measurement:
    """What a device needs. A variant without a gallery is counted with the others', since it can't answer without."""
    manifest, target = entry.manifest, entry.target
    details = {
        "engine": target.engine,
        "precision": target.precision,
        "label": target.label,
        "threads": entry.threads,
        "parameters": sum(part.parameters for part in manifest.parts),
        "part_bytes": {part: manifest.files[path].bytes for part, path in target.files.items()},
        "gallery_bytes": gallery,
        "note": entry.note,
    }
    return _measurement("size", entry, "artifact", "bytes", [target_bytes(manifest, target) + gallery], here, details)


def _accuracies(
    entries: Sequence[_Entry],
    splits: Mapping[str, Sequence[Sample]],
    config: MeasureConfig,
    context: Context,
    here: Environment,
    *,
    shown_groups: Sequence[str],
    checksums: Mapping[Path, str] | None,
    gallery_encoder: str | None,
    pairs: Mapping[str, Sequence[Pair]],
) -> dict[str, list[Scored]]:
    """Scores by digest of the measured bytes; those kept from an earlier run are not taken again."""
    found: dict[str, list[Scored]] = {entry.sha256: [] for entry in entries}
    encoder = next((entry for entry in entries if entry.variant == gallery_encoder), None)
    for split, samples in splits.items():
        data = accuracy.samples_digest(split, samples, checksums=checksums)
        gallery: dict[str, np.ndarray] | None = None  # made when the first scores are that weren't kept
        for entry in {e.sha256: e for e in reversed(entries)}.values():  # each bytes once, under the first name
            key = [
                entry.sha256,
                encoder.sha256 if encoder is not None else None,
                data,
                *(
                    score_cache.version(package)
                    for package in (ENGINES[entry.target.engine].package, "Pillow", "soundfile", "tokenizers")
                ),
                *(here.facts["cpu"], here.facts["flags"]),  # which decide the kernels
                *(config.prompts, config.examples),
                *shown_groups,
                *map(astuple, pairs.get(split, ())),
            ]
            kept = score_cache.file_of(context, key)
            scored = score_cache.read(kept, say=context.progress.say)
            if scored is None:
                if encoder is not None and gallery is None:
                    with _encoding(encoder, split, samples, context, ()) as (bundle, advance):
                        gallery = embeddings(bundle, split, samples, advance=advance)
                with _encoding(entry, split, samples, context, config.prompts) as (bundle, advance):
                    scored = accuracy.score(
                        bundle,
                        split,
                        samples,
                        pairs=pairs.get(split, ()),
                        examples=config.examples,
                        shown_groups=shown_groups,
                        prompts=config.prompts,
                        own=gallery if encoder is not None and entry.sha256 == encoder.sha256 else None,
                        gallery=gallery,
                        advance=advance,
                    )
                score_cache.write(kept, scored)
            found[entry.sha256] += scored
    return found


@contextmanager
def _encoding(
    entry: _Entry, split: str, samples: Sequence[Sample], context: Context, prompts: Sequence[str]
) -> Iterator[tuple[Bundle, Callable[[int], None]]]:
    """The entry's open bundle, and a line of progress for the samples that it encodes."""
    assert entry.bundle is not None
    total = accuracy.encodings(entry.bundle, samples, prompts=prompts)
    with context.progress.task(f"accuracy of {entry.name} on {split}", total=total) as task:
        yield entry.bundle, task.advance


def _latencies(
    entries: Sequence[_Entry],
    samples: Sequence[Sample],
    config: MeasureConfig,
    context: Context,
    here: Environment,
) -> list[Measurement]:
    """Latency, cold start and memory of every distinct artifact; all entries run here."""
    distinct = {e.name: e for e in {(e.sha256, e.threads): e for e in reversed(entries)}.values()}
    distinct = {e.name: e for e in entries if e.name in distinct}  # in the order of the table
    inputs = _requests(list(distinct.values()), samples)
    opened = {name: (e.path, e.target.name, e.threads) for name, e in distinct.items()}
    with context.progress.task("latency, all variants interleaved", total=100) as task:
        percent = 0

        def on_progress(share: float, note: str) -> None:
            nonlocal percent
            steps = int(100 * share) - percent
            percent += steps
            task.advance(steps, note=note)

        taken = latency.fresh_latencies(
            opened, inputs, seconds=config.seconds, runs=config.runs, on_progress=on_progress,
            gallery_of=next((name for name, e in reversed(distinct.items()) if e.manifest.galleries), None),
        )  # fmt: skip
    with context.progress.task("cold starts", total=len(opened) * config.cold_starts) as task:
        starts = latency.measure_cold_starts(
            opened,
            [{m: str(raw) for m, raw in given[0].items()} for given in inputs.values()],
            repeats=config.cold_starts,
            advance=lambda note: task.advance(note=note),
        )
    found: list[Measurement] = []
    first_asked = {"request": list(next(iter(inputs.values()))[0])}
    for name, entry in distinct.items():
        by = {"threads": entry.threads}
        for request, given in inputs.items():
            warm = asdict(taken.warm_up[name][request])
            asked = {"request": list(given[0]), "parts": list(taken.takes[name][request]), "warm_up": warm}
            ns = taken.end_to_end[name][request]
            found.append(_measurement("latency", entry, f"{table.END_TO_END}, {request}", "ns", ns, here, by | asked))
        found += [_measurement("latency", entry, part, "ns", ns, here, by) for part, ns in taken.parts[name].items()]
        for subject in ("import", "open", "first"):
            values = [getattr(start, f"{subject}_ns") for start in starts[name]]
            found.append(_measurement("cold-start", entry, subject, "ns", values, here, by | first_asked))
        found.append(
            _measurement("peak-memory", entry, "process", "bytes", [s.peak_bytes for s in starts[name]], here, by)
        )
    if taken.image_decoding is not None:
        first = next(iter(distinct.values()))
        found.append(_measurement("latency", first, table.IMAGE_DECODING, "ns", taken.image_decoding, here))
    return found


def _requests(entries: Sequence[_Entry], samples: Sequence[Sample]) -> dict[str, list[dict[str, Any]]]:
    """What all variants can be asked -> raw samples of it; that by text first, which a search is mostly asked by.

    A request that joins modalities is of everything that a sample of this split can have of them.
    """
    there = [m for m in entries[0].manifest.inputs if any(s.raw(m) is not None for s in samples)]
    found: dict[str, list[dict[str, Any]]] = {}
    each = [requests_of(entry.bundle, there) for entry in entries if entry.bundle is not None]
    common = [asked for name, asked in each[-1].items() if all(name in other for other in each)]
    for asked in common or [tuple(there)]:
        held = {s.id: tuple(m for m in asked if s.raw(m) is not None) for s in samples}
        most = max(held.values(), key=len)
        whole = [s for s in samples if held[s.id] == most]
        found.setdefault(" and ".join(most), latency.raw_inputs(whole, most))
    written = {modality for modality, raw in entries[0].manifest.inputs.items() if raw.inline}
    return dict(sorted(found.items(), key=lambda pair: pair[0] not in written))


def _blamed(
    entries: Sequence[_Entry],
    splits: Mapping[str, Sequence[Sample]],
    scored: Mapping[str, Sequence[Scored]],
    config: MeasureConfig,
    context: Context,
    here: Environment,
) -> list[Measurement]:
    """What ships with one part at a time put back to float32, where it loses more than noise or the recipe asks."""
    ships = next(e for e in entries if e.variant == entries[-1].variant)
    reference = next((e for e in reversed(entries) if _is_float_form(e, ships)), None)
    if reference is None:
        return []
    split, samples = next(iter(splits.items()))
    after, before = (headline([s for s in scored[e.sha256] if s.split == split]) for e in (ships, reference))
    metric = statistics(after)[headline_metric(after)]
    loss = metrics.difference(
        metric.statistic, statistics(before)[headline_metric(after)].statistic, clusters=metric.clusters
    )
    if not config.blame and not loss.high < 0:
        return []
    found = blame(
        ships.path, reference.path, split=split, samples=samples, target=ships.target.name, base=after,
        progress=context.progress,
    )  # fmt: skip
    unit = UNITS[after.kind]
    return [
        _measurement(
            "blame", ships, f"{split}: {found.task}: {part.part}", unit, part.restored.samples, here,
            {**part.restored.details, "kind": after.kind, "part": part.part, "extra_bytes": part.extra_bytes},
        )
        for part in found.parts
    ]  # fmt: skip


def _is_float_form(entry: _Entry, ships: _Entry) -> bool:
    """Return whether ``entry`` is the model that ships before it was quantized, on the same engine."""

    def model(e: _Entry) -> list[Any]:
        return [(p.name, p.parameters, p.signature) for p in e.manifest.parts]

    return (
        entry.variant != ships.variant
        and entry.target == entry.manifest.targets[0]  # whose parts are put back
        and entry.target.engine == ships.target.engine
        and (entry.target.precision, ships.target.precision) == ("float32", "int8")
        and model(entry) == model(ships)
        and entry.sha256 != ships.sha256
    )


def _shown(
    entries: Sequence[_Entry],
    splits: Mapping[str, Sequence[Sample]],
    scored: Mapping[str, Sequence[Scored]],
    config: MeasureConfig,
    shown_groups: Sequence[str],
) -> list[Example]:
    """Return what the first and the last variant give for a few samples of the first split."""
    first, last = entries[0], next(e for e in entries if e.variant == entries[-1].variant)
    split, samples = next(iter(splits.items()))
    shown = [
        Shown(e.variant, e.path, [s for s in scored[e.sha256] if s.split == split])
        for e in {e.sha256: e for e in (first, last)}.values()
    ]
    return shown_examples(shown, samples, count=config.examples, shown_groups=shown_groups)
