"""Bundle: open, predict, verify. The one object that an application on the device needs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.runtime import chain
from edgemm.runtime.archive import Archive, open_archive
from edgemm.runtime.arrays import load_array, load_arrays
from edgemm.runtime.chain import Placeholders
from edgemm.runtime.engines import Array, Session, compiles, require_engine
from edgemm.runtime.errors import BundleError, EdgemmError, InputError
from edgemm.runtime.inputs import InputReader
from edgemm.runtime.manifest import (
    MOST_THREADS,
    ClassesEntry,
    Gallery,
    GoldenSample,
    Manifest,
    OutputEntry,
    PartEntry,
    TargetEntry,
)
from edgemm.runtime.outputs import Classes, Embedding, Output, embeddings_in
from edgemm.runtime.prediction import GallerySet, LabelSet, Prediction, Ranker, unit
from edgemm.runtime.session import CheckedSession, open_session
from edgemm.runtime.values import Samples, Value, check_feed, check_finite, join


class Part:
    """One part of an open bundle; its engine loads it at the first run.

    Attributes:
        name: as in the manifest.
        entry: role, modality, signature and parameters.
        file: the file of the bundle's target that carries it.
        engine: what runs it.
    """

    def __init__(self, archive: Archive, entry: PartEntry, target: TargetEntry, *, threads: int) -> None:
        self.name = entry.name
        self.entry = entry
        self.file = target.files[entry.name]
        self.engine = target.engine_of(entry)
        self.input_names = entry.signature.input_names
        self.output_names = entry.signature.output_names
        self._archive = archive
        self._target = target
        self._threads = threads
        self._session: Session | None = None
        self._loading = threading.Lock()

    @property
    def session(self) -> Session:
        """The engine's session. Raises BundleCorrupt, EngineError or EngineNotInstalled while loading."""
        if self._session is None:
            with self._loading:  # threads that come meanwhile wait, and take the same
                if self._session is None:
                    self._session = self._load()
        return self._session

    def _load(self) -> Session:
        what = f"target '{self._target.name}', part '{self.name}'"
        session = open_session(
            self.engine,
            self._archive.read(self.file),
            threads=self._threads,
            what=what,
            float32=self._target.precision != "float16",
            fingerprint=self._target.fingerprint if self.engine == self._target.engine else None,
            operators=self._target.operators,
        )
        return CheckedSession(session, self.entry.signature, what=what)

    @property
    def loaded(self) -> bool:
        """Whether an engine holds it already."""
        return self._session is not None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run this part alone. ``session.run`` is the same without the checks, as ``predict`` runs it.

        Args:
            feeds: every input by name; values of other names are ignored.

        Returns:
            Every output by name; arrays of the caller's own, not overwritten by the next run.

        Raises:
            InputError: an input that is missing, of another dtype or shape than the signature's, or holds NaN or
                infinity.
            EngineError: the engine refuses to run.
        """
        for spec in self.entry.signature.inputs:
            check_feed(feeds, spec, where=f"part '{self.name}', input '{spec.name}'")
        return self.session.run(feeds)


SMALLEST_SCALE = 1e-3  # an output of smaller numbers is taken for one of this size
Plan = tuple[tuple[Part, ...], tuple[str, ...], int | None]  # parts to run, outputs they make, largest batch


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What ``Bundle.verify`` found.

    Attributes:
        target: whose golden samples were run.
        files: how many files' digests were compared.
        samples: how many golden samples were run.
        max_abs_error: output -> largest difference to the golden outputs.
        problems: one line each; empty where the bundle is whole.
    """

    target: str
    files: int
    samples: int
    max_abs_error: Mapping[str, float]
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems


class Bundle:
    """An open bundle.

    Several threads may share one and call ``predict``: on onnxruntime they run side by side, on the other engines each
    part is run for one at a time. ``threads`` is set before, not meanwhile.

    >>> bundle = Bundle.open("emoji.bundle.zip")                     # doctest: +SKIP
    >>> bundle.predict(image="cat.png").matches[0][0]                # doctest: +SKIP
    ('cat face', 0.83)
    """

    def __init__(self, archive: Archive, *, target: str | None = None, threads: int | None = None) -> None:
        self.manifest: Manifest = archive.manifest
        self.archive = archive
        self.target: TargetEntry = self.manifest.target(target)
        for part in self.manifest.parts:
            others = [t.name for t in self.manifest.targets if t.engine != self.target.engine]
            advice = f" (this bundle also has {others})" if others else ""
            require_engine(self.target.engine_of(part), what=f"target '{self.target.name}'{advice}")
        self._inputs = InputReader(self.manifest, archive.read)
        self._placeholders: dict[str, Array] = {}
        self._stand_ins: Placeholders[Value] | None = None
        if self.manifest.placeholders:
            self._stand_ins = Placeholders(self.manifest.placeholders, self._repeated)
        self._rankers: dict[tuple[str, ...], Mapping[str, Ranker]] = {}
        self._plans: dict[tuple[str, ...], Plan] = {}
        self._names_any = bool(self.manifest.labels or self.manifest.galleries)
        self._outputs: Mapping[str, Output] | None = None
        self._galleries: dict[str, GallerySet] = {}
        self._once = threading.RLock()  # what is read once for all threads: placeholders, galleries, plans
        self._threads = 0
        self._parts: dict[str, Part] = {}
        self.threads = self.target.threads if threads is None else threads

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, target: str | None = None, threads: int | None = None) -> Bundle:
        """Open a bundle folder or zip; nothing is loaded into an engine yet.

        Args:
            path: folder or ``.zip``.
            target: name of one of its targets; None takes the first.
            threads: CPU threads per run; None takes the target's own number, 0 lets the engine decide.

        Raises:
            BundleError: nothing there, not a bundle, or no such target.
            BundleCorrupt: damaged or tampered with.
            EngineNotInstalled: the target's engine is missing; another engine is never tried.
        """
        return cls(open_archive(path), target=target, threads=threads)

    @property
    def threads(self) -> int:
        """CPU threads per run; 0: the engine decides. Setting it reloads the parts at their next run."""
        return self._threads

    @threads.setter
    def threads(self, threads: int) -> None:
        if type(threads) is not int or not 0 <= threads <= MOST_THREADS:
            raise InputError(f"threads: got {threads!r}, expected an integer of 0 to {MOST_THREADS}")
        self._threads = threads
        self._plans.clear()
        self._rankers.clear()
        self._galleries = {}
        self._parts = {
            entry.name: Part(self.archive, entry, self.target, threads=threads) for entry in self.manifest.parts
        }

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts in chain order."""
        return tuple(self._parts.values())

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the bundle's targets, the default first."""
        return tuple(target.name for target in self.manifest.targets)

    def part(self, name: str) -> Part:
        """Return the part of that name. Raises BundleError naming the ones there are."""
        self.manifest.part(name)
        return self._parts[name]

    def predict(self, /, *, top: int = 5, **given: Any) -> Prediction:
        """Run every part that the given modalities lead to.

        Args:
            top: matches per sample.
            given: modality -> one sample or a list of them. Image: path, bytes, PIL image, uint8 (H, W, 3) or
                (batch, H, W, 3). Text: string. Audio: path, bytes, float32 (samples,) at the bundle's rate.
                Tensor: array, with or without the batch axis, or a path of an .npy.

        Returns:
            The outputs that could be made, with the batch as first axis. A batch larger than the graphs' range is cut
            into runs of the largest one allowed.

        Raises:
            InputError: an unusable sample, an unknown modality, or a modality missing without which no output comes.
            EngineError: the engine refuses to run.
        """
        if type(top) is not int or top < 1:
            raise InputError(f"top: got {top!r}, expected at least 1")
        samples = self._inputs.samples(given)
        asked = tuple(samples)
        parts, outputs, limit = self._plans.get(asked) or self._plan(asked)
        if not samples:  # placeholders could stand in for everything
            raise InputError(f"nothing to predict from; give one or more of {', '.join(self.manifest.inputs)}")
        count = max(map(len, samples.values()))
        if limit is None or count <= limit:
            made = self._run(parts, outputs, self._inputs.values(samples))
        elif min(map(len, samples.values())) == count:
            made = self._run_in_pieces(parts, outputs, samples, limit)
        else:
            made = self._run_apart(parts, outputs, samples, limit)
        return Prediction(made, top, self._ranker(outputs, made))

    def values(self, /, **given: Any) -> dict[str, Value]:
        """The values that raw samples become, before any part runs: what a measurement of the parts starts from."""
        return self._inputs.values(self._inputs.samples(given))

    def run(self, values: Mapping[str, Value], *, placeholders: bool = True) -> dict[str, Value]:
        """Run every part whose inputs exist; return the given values and all that were made.

        Args:
            placeholders: count a value that has a placeholder as one that exists.
        """
        stand_ins = self._stand_ins if placeholders else None
        return chain.run_all(self._parts.values(), values, _run_part, placeholders=stand_ins)

    def trace(self, values: Mapping[str, Value]) -> Iterator[tuple[Part, Mapping[str, Value], Mapping[str, Value]]]:
        """Run what ``run`` runs, and yield (part, feeds, made) each time a part has run."""
        return chain.trace(self._parts.values(), values, _run_part, placeholders=self._stand_ins)

    def plan(self, modalities: Iterable[str]) -> tuple[Part, ...]:
        """The parts, in order, that ``predict`` runs from these modalities. Raises InputError where no output comes."""
        return self._plan(tuple(modalities))[0]

    def golden_inputs(self, sample: GoldenSample) -> dict[str, Any]:
        """Return what ``predict`` takes, for one golden sample: texts, bytes of images and sounds, arrays."""
        inputs = self.manifest.inputs
        return {m: inputs[m].golden(held, self.archive.read) for m, held in sample.inputs.items()}

    def run_golden(self) -> dict[str, Array]:
        """Outputs of all golden samples, each run alone: value -> (samples, ...); ``pack`` keeps them.

        Raises:
            BundleError: samples that differ in the outputs they lead to.
        """
        rows: dict[str, list[Array]] = {}
        for sample in self.manifest.golden:
            for name, value in self.predict(**self.golden_inputs(sample)).outputs.items():
                rows.setdefault(name, []).append(value)
        for name, made in rows.items():
            if len(made) != len(self.manifest.golden):
                raise BundleError(
                    f"bundle '{self.manifest.name}': only {len(made)} of {len(self.manifest.golden)} golden samples "
                    f"lead to '{name}'; expected the same modalities in each"
                )
            if len(shapes := {array.shape for array in made}) != 1:
                raise BundleError(
                    f"bundle '{self.manifest.name}': '{name}' has a shape of its own for each golden sample, "
                    f"{sorted(shapes)[:3]}; expected one"
                )
        return {name: np.concatenate(made) for name, made in rows.items()}

    def verify(self, *, isolated: bool = False) -> VerifyReport:
        """Compare every file's digest, and this target's answers to the golden samples within their tolerance.

        A TensorRT target that was never built is a problem too, whichever target is asked for.

        Args:
            isolated: run the golden samples in a process of their own, with limits of memory and time; a graph is code,
                and one from a stranger may kill, hang or flood the process that runs it.

        Returns:
            A report; its ``problems`` name everything that is wrong.
        """
        from edgemm.runtime.engine_tensorrt import unbuilt  # costs 2 ms

        problems = self.archive.problems()
        problems += [line for target in self.manifest.targets if (line := unbuilt(self.manifest, target))]
        errors: dict[str, float] = {}
        samples = 0
        if not problems:
            try:
                self._read_names()
                if isolated:
                    from edgemm.runtime.isolated import compare_isolated

                    names = set(self.target.files.values())
                    samples, errors, problems = compare_isolated(
                        self.archive.path,
                        target=self.target.name,
                        threads=self.threads,
                        files_bytes=sum(self.manifest.files[name].bytes for name in names),
                    )
                else:
                    samples, errors, problems = self.compare_golden()
            except EdgemmError as error:
                problems.append(f"target '{self.target.name}': the golden samples cannot be run: {error}")
        return VerifyReport(self.target.name, len(self.manifest.files), samples, errors, tuple(problems))

    def compare_golden(self) -> tuple[int, dict[str, float], list[str]]:
        """Run the golden samples and compare every output of this target with the one that is kept.

        Returns:
            How many samples were run, output -> largest difference, and one line for each output that is off, or that
            nothing is compared with.

        Raises:
            EdgemmError: the samples cannot be run, or what is kept of them cannot be read.
        """
        where = f"target '{self.target.name}'"
        golden = self.manifest.golden_outputs.get(self.target.name)
        if golden is None:
            compiled = compiles(self.target.engine)  # built where its GPU is not: nobody could run them there
            lacking = bool(self.manifest.golden) and not compiled
            return 0, {}, [f"{where}: no golden outputs to compare its answers with"] if lacking else []
        made = self.run_golden()
        expected = load_arrays(self.archive.read(golden.file), golden.file)
        errors: dict[str, float] = {}
        problems: list[str] = []
        for name in self.manifest.outputs:
            tolerance = golden.max_abs_error.get(name)
            if tolerance is None:
                problems.append(
                    f"{where}: no max_abs_error for output '{name}', which is therefore compared with nothing"
                )
                continue
            errors[name] = _largest_error(made.get(name), expected.get(name))
            if not errors[name] <= tolerance:
                problems.append(
                    f"{where}: output '{name}' is off by {errors[name]:.3g} on the golden samples, expected at most "
                    f"{tolerance:.3g}"
                )
            elif tolerance >= (most := max(float(np.abs(expected[name].astype(np.float64)).max()), SMALLEST_SCALE)):
                problems.append(
                    f"{where}: output '{name}' may be off by {tolerance:.3g}, and is at most {most:.3g}: all pass"
                )
        return len(self.manifest.golden), errors, problems

    def _read_names(self) -> None:
        """Read labels, gallery and placeholders, which the golden samples may never ask for; raise where unusable."""
        for path in self.manifest.labels.values():
            self.archive.read_strings(path)
        for space in self.manifest.galleries:
            self.gallery(space)
        for name in self.manifest.placeholders:
            self.placeholder(name)

    def _plan(self, modalities: tuple[str, ...]) -> Plan:
        """Parts to run, outputs they make, and the largest batch that all of them take."""
        if modalities not in self._plans:
            with self._once:
                if modalities not in self._plans:
                    self._plans[modalities] = self._make_plan(modalities)
        return self._plans[modalities]

    def _make_plan(self, modalities: tuple[str, ...]) -> Plan:
        given = {n for m in modalities if m in self.manifest.inputs for n in self.manifest.inputs[m].values}
        runnable = chain.runnable(self._parts.values(), given.union(self.manifest.placeholders))
        made = {name for part in runnable for name in part.output_names}
        outputs = tuple(name for name in self.manifest.outputs if name in made)
        if not outputs:
            raise InputError(self._nothing_comes(modalities))
        useful = chain.needed_for(runnable, outputs)
        limits = [p.entry.signature.dims["batch"].max for p in useful if "batch" in p.entry.signature.dims]
        return useful, outputs, min(limits, default=None)

    def _nothing_comes(self, modalities: Iterable[str]) -> str:
        needs: list[str] = []
        for output in self.manifest.outputs:
            sources = chain.sources_of(self.manifest.parts, (output,))
            lacking = [
                m for m, raw in self.manifest.inputs.items() if m not in modalities and sources.intersection(raw.values)
            ]
            needs.append(f"'{output}' also needs {' and '.join(repr(m) for m in lacking)}")
        return f"bundle '{self.manifest.name}': got {sorted(modalities) or 'nothing'}, and {'; '.join(needs)}"

    def _run(self, parts: Iterable[Part], outputs: Iterable[str], values: Mapping[str, Value]) -> dict[str, Array]:
        known = chain.run_all(parts, values, _run_part, placeholders=self._stand_ins)
        made: dict[str, Array] = {}
        for name in outputs:
            value = known[name]
            if isinstance(value, list):
                raise InputError(
                    f"output '{name}' has a shape of its own for each sample ({[v.shape[1:] for v in value][:3]}…); "
                    "predict them one by one"
                )
            made[name] = value
        return made

    def _repeated(self, name: str, count: int) -> Array:
        return np.repeat(self.placeholder(name), count, axis=0)

    def placeholder(self, name: str) -> Array:
        """Return what stands in for that value where its modality is missing: (1, ...)."""
        if name not in self._placeholders:
            with self._once:
                if name not in self._placeholders:
                    self._placeholders[name] = self._read_placeholder(name)
        return self._placeholders[name]

    def _read_placeholder(self, name: str) -> Array:
        path = self.manifest.placeholders[name]
        array = load_array(self.archive.read(path), path)
        spec = next(spec for part in self.manifest.parts for spec in part.signature.outputs if spec.name == name)
        check_feed({name: array}, spec, where=f"{path}: placeholder of '{name}'", error=BundleError)
        if len(array) != 1:
            raise BundleError(f"{path}: placeholder of '{name}': got {array.shape}, expected one sample")
        return array

    def _run_in_pieces(
        self, parts: Iterable[Part], outputs: tuple[str, ...], samples: Mapping[str, Samples], limit: int
    ) -> dict[str, Array]:
        count = len(next(iter(samples.values())))
        pieces = []
        for start in range(0, count, limit):
            piece = {modality: many[start : start + limit] for modality, many in samples.items()}
            pieces.append(self._run(parts, outputs, self._inputs.values(piece)))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in outputs}

    def _run_apart(
        self, parts: Iterable[Part], outputs: tuple[str, ...], samples: Mapping[str, Samples], limit: int
    ) -> dict[str, Array]:
        """Modalities of different numbers of samples, each cut by itself; a part that joins them is an error."""
        made: dict[str, Array] = {}
        try:
            for modality, many in samples.items():
                own, own_outputs, _ = self._plan((modality,))
                made |= self._run_in_pieces(own, own_outputs, {modality: many}, limit)
        except InputError:
            made = {}
        return made if set(made) == set(outputs) else self._run(parts, outputs, self._inputs.values(samples))

    def _ranker(self, outputs: tuple[str, ...], made: Mapping[str, Array]) -> Mapping[str, Ranker]:
        """Return what names each output; empty where the bundle has neither labels nor a gallery for them."""
        if not self._names_any:
            return {}
        if outputs not in self._rankers:
            with self._once:
                if outputs not in self._rankers:
                    self._rankers[outputs] = self._read_ranker(outputs, made)
        return self._rankers[outputs]

    def _read_ranker(self, outputs: tuple[str, ...], made: Mapping[str, Array]) -> Mapping[str, Ranker]:
        found: dict[str, Ranker] = {}
        for name in outputs:
            naming = _NAMING.get(self.manifest.outputs[name].kind)
            if naming is not None and (ranker := naming(self, name, made[name])) is not None:
                found[name] = ranker
        return found

    def _label_set(self, name: str, scores: Array) -> LabelSet | None:
        """The names of the classes of one output, where it has some; ``scores``: (batch, classes) that it made."""
        output = self.outputs[name]
        assert isinstance(output, Classes)
        if not output.labels:
            return None
        if scores.shape[-1:] != (len(output.labels),):
            raise BundleError(
                f"{self.manifest.labels[name]}: {len(output.labels)} labels for {name} of shape {scores.shape}"
            )
        return LabelSet(name, output.labels, independent=output.independent)

    def _gallery_set(self, name: str, embedding: Array) -> GallerySet | None:
        """Return what one output searches in; None where its space has no gallery, or one of another width."""
        output = self.manifest.outputs[name]
        assert isinstance(output, Embedding)
        gallery = self.gallery(output.space)
        if gallery is None or embedding.ndim != 2 or embedding.shape[1] != gallery.vectors.shape[1]:
            return None
        return gallery

    @property
    def outputs(self) -> Mapping[str, Output]:
        """What every output means, with the names of its classes. Raises BundleError where these can't be read."""
        if self._outputs is None:
            with self._once:
                if self._outputs is None:
                    self._outputs = {name: self._typed(entry) for name, entry in self.manifest.outputs.items()}
        return self._outputs

    def _typed(self, entry: OutputEntry) -> Output:
        if not isinstance(entry, ClassesEntry):
            return entry
        labels = self.archive.read_strings(entry.labels) if entry.labels is not None else ()
        return Classes(labels, entry.independent)

    @property
    def searched(self) -> tuple[str, ...]:
        """The outputs that are embeddings of a space with a gallery."""
        embeddings = embeddings_in(self.manifest.outputs)
        return tuple(name for name, output in embeddings.items() if output.space in self.manifest.galleries)

    def gallery(self, space: str | None = None) -> GallerySet | None:
        """Return what is searched in a space of embeddings, read from its files; None where the space has no gallery.

        Args:
            space: None: the first that has one.

        Raises:
            BundleError: embeddings that are no floats, or not one row for each label.
        """
        if space is None:
            space = next(iter(self.manifest.galleries), None)
        if space is None or space not in self.manifest.galleries:
            return None
        if space not in self._galleries:
            with self._once:
                if space not in self._galleries:
                    self._galleries[space] = self._read_gallery(self.manifest.galleries[space])
        return self._galleries[space]

    def _read_gallery(self, entry: Gallery) -> GallerySet:
        vectors = load_array(self.archive.read(entry.embeddings), entry.embeddings)
        labels = self.archive.read_strings(entry.labels)
        if vectors.ndim != 2 or len(vectors) != len(labels) or vectors.dtype.kind != "f":
            raise BundleError(
                f"{entry.embeddings}: got {vectors.dtype} {vectors.shape}, expected floats "
                f"({len(labels)}, D): one row for each label"
            )
        check_finite(vectors, where=entry.embeddings, error=BundleError)
        return GallerySet(unit(vectors), labels, self.threads)


def _run_part(part: Part, feeds: Mapping[str, Value]) -> Mapping[str, Value]:
    """Return what one part makes of its inputs; sample by sample where an input's sizes differ."""
    count = None
    for value in feeds.values():
        if type(value) is list:
            return _run_rows(part, feeds)
        if count is None:
            count = len(value)
        elif len(value) != count:
            raise _uneven(part, feeds)
    return part.session.run(feeds)  # type: ignore[arg-type]  # none is a list


def _run_rows(part: Part, feeds: Mapping[str, Value]) -> dict[str, Value]:
    counts = {len(value) for value in feeds.values()}
    if len(counts) != 1:
        raise _uneven(part, feeds)
    run = part.session.run
    rows = [
        run({name: v[i] if isinstance(v, list) else v[i : i + 1] for name, v in feeds.items()})
        for i in range(counts.pop())
    ]
    return {name: join([row[name] for row in rows]) for name in part.output_names}


def _uneven(part: Part, feeds: Mapping[str, Value]) -> InputError:
    counts = {name: len(value) for name, value in feeds.items()}
    return InputError(f"part '{part.name}': its inputs have different numbers of samples: {counts}")


# kind of output -> what names it; of the other kinds nothing does
_NAMING: Mapping[str, Callable[[Bundle, str, Array], Ranker | None]] = {
    "classes": Bundle._label_set,
    "embedding": Bundle._gallery_set,
}


def _largest_error(made: Array | None, expected: Array | None) -> float:
    """Largest absolute difference; infinite where one is missing, empty, not finite, or of another shape or dtype."""
    if made is None or expected is None or made.shape != expected.shape or made.dtype != expected.dtype:
        return float("inf")
    one, other = made.astype(np.float64), expected.astype(np.float64)
    if made.size == 0 or not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("inf")
    return float(np.abs(one - other).max())
