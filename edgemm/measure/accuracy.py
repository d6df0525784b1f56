"""Accuracy of a bundle through its own runtime: raw files and strings in, ranks or answers out, nothing reimplemented.

What is measured follows from what the bundle makes. Modalities that each lead to an embedding of their own are measured
by retrieval in every direction; a bundle that ends in ``logits`` is measured as a classifier, and again with one
modality at a time taken away, so that one sees whether it still uses both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.encode import Rows, combine, encode, split_chain
from edgemm.measure.metrics import retrieval_ranks
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import BundleError, DataError

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

SHUFFLES = 3
TOP = 5  # hits kept per example query
TEACHERS = ", teacher's gallery"  # behind the name of a retrieval task whose gallery the teacher embedded
HEADLINES = (f"text→image{TEACHERS}", "text→image")  # the task that stands for a bundle: in the gallery that ships


@dataclass(frozen=True, slots=True)
class Scored:
    """Raw result of one task on one split: what becomes a Measurement of kind ``ranks`` or ``answers``."""

    kind: str
    split: str
    task: str
    samples: tuple[float, ...]
    details: Mapping[str, Any]
    examples: Sequence[
        Mapping[str, Any]
    ] = ()  # nearest items of a few queries; holds paths, so it is not kept as raw data


@dataclass(frozen=True, slots=True)
class _Items:
    """The distinct raw samples of one modality, with the label each stands for and the group it belongs to."""

    raws: list[Any]
    labels: list[str]
    groups: list[str | None]


def score(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    *,
    examples: int = 0,
    shown_groups: Sequence[str] = (),
    own: Mapping[str, np.ndarray] | None = None,
    gallery: Mapping[str, np.ndarray] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Scored]:
    """Measure one bundle on one evaluation split.

    Retrieval is scored with queries and gallery embedded by the bundle. Where the gallery that ships was embedded by
    the teacher, it is scored so as well, as task ``"text→image, teacher's gallery"``: that is what a device answers.

    Args:
        bundle: open, on the target to measure.
        split: its name, for the records and messages.
        samples: the evaluation samples.
        examples: for how many queries the nearest items are kept (retrieval); drawn by a fixed seed, not by result.
        shown_groups: groups whose pictures may be shown; empty: all.
        own: the bundle's ``embeddings`` of these samples, where they are known already.
        gallery: the teacher's ``embeddings`` of these samples, where its embeddings are the gallery that ships.
        advance: told how many raw samples were encoded; ``encodings`` says how many there will be.

    Raises:
        DataError: samples that lack a modality or a label that the bundle's task needs.
        BundleError: outputs that are not finite, or nothing that can be scored.
    """
    modalities = _modalities(bundle.manifest.inputs, samples, split)
    items = {m: _distinct(samples, m) for m in modalities}
    if "logits" in bundle.manifest.outputs:
        chain = split_chain(bundle, modalities)
        encoded = {m: encode(bundle, m, items[m].raws, chain.alone[m], advance=advance) for m in modalities}
        return _classification(bundle, split, samples, items, encoded, chain.joint)
    vectors = embeddings(bundle, split, samples, advance=advance) if own is None else own
    galleries = {"": vectors, **({TEACHERS: gallery} if gallery is not None else {})}
    width, *others = (next(iter(searched.values())).shape[1] for searched in galleries.values())
    if any(other != width for other in others):
        raise BundleError(
            f"bundle '{bundle.manifest.name}': embeddings of {width} dimensions, those of the gallery have "
            f'{others[0]}; expected one space, or pack.gallery_encoder = "bundle"'
        )
    return [
        _retrieval(
            split, f"{a}→{b}{whose}", items[a], items[b], vectors[a] @ searched[b].T,
            examples=examples, shown_groups=shown_groups, query=a,
        )
        for whose, searched in galleries.items()
        for a in vectors
        for b in vectors
        if a != b
    ]  # fmt: skip


def embeddings(
    bundle: Bundle, split: str, samples: Sequence[Sample], *, advance: Callable[[int], None] = lambda _: None
) -> dict[str, np.ndarray]:
    """Modality -> unit vectors (distinct raw samples, width) float32, for each that leads to an embedding of its own.

    Raises:
        DataError: fewer than two such modalities, or a raw sample under two labels.
        BundleError: outputs that are not finite.
    """
    modalities = _modalities(bundle.manifest.inputs, samples, split)
    chain = split_chain(bundle, modalities)
    outputs = bundle.manifest.outputs
    own = {m: [name for name in chain.alone[m] if name in outputs] for m in modalities}
    embedded = {m: names[0] for m, names in own.items() if len(names) == 1}
    if len(embedded) < 2:
        raise DataError(
            f"bundle '{bundle.manifest.name}', split '{split}': its outputs {list(outputs)} can't be scored from "
            f"{modalities}; expected 'logits', or one embedding for each of two modalities"
        )
    for modality in embedded:
        _check_one_label(split, samples, modality)
    made: dict[str, np.ndarray] = {}
    for modality, name in embedded.items():
        rows = encode(bundle, modality, _distinct(samples, modality).raws, chain.alone[modality], advance=advance)
        made[modality] = _normalised(np.concatenate(rows[name]))
    return made


def check_samples(split: str, samples: Sequence[Sample], *, classifies: bool) -> None:
    """What ``score`` needs of the samples of an image and text model; costs nothing, so it can come before training.

    Raises:
        DataError: naming the sample that lacks a modality or a label, or the image or text with two labels.
    """
    modalities = _modalities(("image", "text"), samples, split)
    if not classifies:
        for modality in modalities:
            _check_one_label(split, samples, modality)
    elif unlabelled := next((s for s in samples if s.label is None), None):
        raise DataError(f"split '{split}', sample '{unlabelled.id}': no label, which a classifier is measured by")


def _check_one_label(split: str, samples: Sequence[Sample], modality: str) -> None:
    """Retrieval counts an item as right by its label. Raises DataError naming the item that has two."""
    labels: dict[Any, str] = {}
    for sample in samples:
        raw, label = _raw(sample, modality), sample.label or sample.id
        if labels.setdefault(raw, label) != label:
            raise DataError(
                f"split '{split}': the {modality} '{raw}' stands under two labels, '{labels[raw]}' and '{label}'; "
                "retrieval needs one each"
            )


def encodings(bundle: Bundle, samples: Sequence[Sample]) -> int:
    """How many raw samples ``score`` will encode: the total of its progress."""
    return sum(len(_distinct(samples, m).raws) for m in _modalities(bundle.manifest.inputs, samples, ""))


def samples_digest(split: str, samples: Sequence[Sample], *, checksums: Mapping[Any, str] | None = None) -> str:
    """sha256 of an evaluation split: names, texts, labels, groups and the bytes of every file."""
    known = dict(checksums or {})

    def digest(path: Any) -> str | None:
        if path is not None and path not in known:
            try:
                known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(f"split '{split}': can't read {path} ({error.strerror or error})") from error
        return known.get(path)

    rows = [[s.id, digest(s.image), s.text, digest(s.audio), s.label, s.group] for s in samples]
    return hashlib.sha256(json.dumps([split, rows], ensure_ascii=False).encode()).hexdigest()


def _raw(sample: Sample, modality: str) -> Any:
    return getattr(sample, modality, None)


def _modalities(inputs: Iterable[str], samples: Sequence[Sample], split: str) -> tuple[str, ...]:
    """Those of ``inputs``, in their order, that the samples have. Raises DataError where some lack one."""
    if not samples:
        raise DataError(f"split '{split}': no samples to measure on")
    modalities = tuple(m for m in inputs if any(_raw(s, m) is not None for s in samples))
    for modality in modalities:
        for sample in samples:
            if _raw(sample, modality) is None:
                raise DataError(f"split '{split}', sample '{sample.id}': no {modality}, which others of the split have")
    return modalities


def _distinct(samples: Sequence[Sample], modality: str) -> _Items:
    """Distinct (raw, label) pairs in their first order; a sample without label stands for itself."""
    found: dict[tuple[Any, str], str | None] = {}
    for sample in samples:
        found.setdefault((_raw(sample, modality), sample.label or sample.id), sample.group)
    raws = list(dict.fromkeys(raw for raw, _ in found))
    if len(raws) == len(found):
        return _Items(raws, [label for _, label in found], list(found.values()))
    # one raw sample under several labels (a question asked of many images): labels are looked up per sample instead
    return _Items(raws, [""] * len(raws), [None] * len(raws))


def _normalised(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


def _retrieval(
    split: str,
    task: str,
    queries: _Items,
    targets: _Items,
    scores: np.ndarray,
    *,
    examples: int,
    shown_groups: Sequence[str],
    query: str,
) -> Scored:
    """One task of retrieval from the cosines of its queries to its gallery: scores (queries, gallery)."""
    positive = np.asarray(queries.labels)[:, None] == np.asarray(targets.labels)[None, :]
    ranks = retrieval_ranks(scores, positive)
    details: dict[str, Any] = {
        "split": split,
        "task": task,
        "clusters": list(queries.labels),
        "gallery": len(targets.labels),
        "chance": {f"R@{k}": _random_recall(positive.sum(axis=1), len(targets.labels), k) for k in (1, 10)},
    }
    nearest = _nearest(scores, queries, targets, positive, examples, shown_groups, query=query) if examples else []
    return Scored("ranks", split, task, tuple(float(r) for r in ranks), details, nearest)


def _random_recall(positives: np.ndarray, gallery: int, k: int) -> float:
    """Mean chance that a random order puts a positive among the first k: 1 - C(M - p, k) / C(M, k)."""
    missing = np.ones(len(positives))
    for i in range(min(k, gallery)):
        missing *= np.clip(gallery - positives - i, 0, None) / (gallery - i)
    return float(np.mean(1 - missing))


def _nearest(
    scores: np.ndarray,
    queries: _Items,
    targets: _Items,
    positive: np.ndarray,
    examples: int,
    shown_groups: Sequence[str],
    *,
    query: str,
) -> list[dict[str, Any]]:
    """The nearest items of a few queries, among those that may be shown. Paths are names, not contents."""
    may = np.array([not shown_groups or group in shown_groups for group in targets.groups])
    asked = [i for i in range(len(queries.raws)) if (positive[i] & may).any()]
    if query != "text":  # a picture that is asked with is shown too
        asked = [i for i in asked if not shown_groups or queries.groups[i] in shown_groups]
    rng = np.random.default_rng(0)
    chosen = sorted(rng.choice(asked, size=min(examples, len(asked)), replace=False).tolist()) if asked else []
    kept = []
    for i in chosen:
        order = np.argsort(-np.where(may, scores[i], -np.inf), kind="stable")[: min(TOP, int(may.sum()))]
        kept.append(
            {
                "query": str(queries.raws[i]),
                "label": queries.labels[i],
                "hits": [
                    {"item": str(targets.raws[j]), "label": targets.labels[j], "right": bool(positive[i, j])}
                    for j in order
                ],
            }
        )
    return kept


def _classification(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    items: Mapping[str, _Items],
    encoded: Mapping[str, Rows],
    joint: Sequence[Any],
) -> list[Scored]:
    labels = bundle.archive.read_strings(bundle.manifest.labels) if bundle.manifest.labels else ()
    index = {label: i for i, label in enumerate(labels)}
    if not index or any(s.label is None for s in samples):
        raise DataError(
            f"bundle '{bundle.manifest.name}', split '{split}': a classifier needs labels, in bundle and samples"
        )
    truth = [index.get(str(s.label), -1) for s in samples]
    place = {m: {raw: i for i, raw in enumerate(items[m].raws)} for m in items}
    which = {m: np.array([place[m][_raw(s, m)] for s in samples]) for m in items}
    clusters = [str(_raw(s, "image") or s.id) for s in samples]
    names = {c: f"c{i}" for i, c in enumerate(dict.fromkeys(clusters))}  # the paths themselves say nothing
    shared = {
        "split": split,
        "truth": truth,
        "groups": [s.group for s in samples],
        "clusters": [names[c] for c in clusters],
    }

    def answer(values: Mapping[str, Sequence[np.ndarray]]) -> tuple[float, ...]:
        logits = (
            combine(bundle, joint, values, "logits") if joint else np.concatenate(list(values["logits"]))
        )  # (samples, classes)
        return tuple(float(c) for c in logits.argmax(axis=1))

    def rows(choice: Mapping[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
        return {
            name: [values[i] for i in choice[m]] for m, by_name in encoded.items() for name, values in by_name.items()
        }

    found = [Scored("answers", split, "answers", answer(rows(which)), {**shared, "task": "answers"})]
    if len(items) < 2:
        return found
    for kept in items:
        others = [m for m in items if m != kept]
        shuffled: list[float] = []
        for seed in range(SHUFFLES):
            choice = {m: which[m] if m == kept else _other_samples(which[m], seed) for m in items}
            shuffled += answer(rows(choice))
        task = f"{kept} only ({' and '.join(others)} shuffled)"
        found.append(Scored("answers", split, task, tuple(shuffled), {**shared, "task": task, "repeats": SHUFFLES}))
        if all(_can_average(values) for m in others for values in encoded[m].values()):
            values = rows(which)
            for m in others:
                for name, made in encoded[m].items():
                    average = np.mean([made[i] for i in which[m]], axis=0, dtype=np.float64).astype(made[0].dtype)
                    values[name] = [average] * len(samples)
            task = f"{kept} only ({' and '.join(others)} mean)"
            found.append(Scored("answers", split, task, answer(values), {**shared, "task": task}))
    return found


def _other_samples(which: np.ndarray, seed: int) -> np.ndarray:
    """For each sample the raw item of another sample, never its own item where the data allow it.

    Samples are laid out by item, the items in a random order, and the layout is turned by the size of the largest
    item's block; so every item is used as often as before, and no sample meets its own.
    """
    rng = np.random.default_rng(seed)
    rank = rng.permutation(int(which.max()) + 1)
    order = np.argsort(rank[which], kind="stable")
    largest = int(np.bincount(which).max())
    turned = np.empty_like(which)
    turned[order] = which[np.roll(order, largest)]
    return turned


def _can_average(rows: Sequence[np.ndarray]) -> bool:
    return rows[0].dtype.kind == "f" and len({row.shape for row in rows}) == 1
