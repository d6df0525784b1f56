"""Accuracy of a bundle through its own runtime: raw files and strings in, ranks or answers out, nothing reimplemented.

What is measured follows from what the bundle makes. A bundle with classes or a quantity is measured by its answers; one
modality that leads to an embedding by verification; several by retrieval in every direction.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.answers import answers, check_modalities, distinct_raws
from edgemm.measure.outputs import answer_among, scoring_of
from edgemm.measure.retrieval import check_one_label, check_pairs, embedded, embeddings, retrieval
from edgemm.measure.scores import Scored
from edgemm.measure.verification import check_identities, verification
from edgemm.measure.zeroshot import zero_shot, zero_shot_labels
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Answer

if TYPE_CHECKING:
    from edgemm.data.dataset import Pair, Sample


def score(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    *,
    pairs: Sequence[Pair] = (),
    examples: int = 0,
    shown_groups: Sequence[str] = (),
    prompts: Sequence[str] = (),
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
        pairs: that an embedder is verified on; none: all of the samples', or a draw of them.
        examples: for how many queries of a direction the nearest items are kept; drawn by a seed, not by result.
        shown_groups: groups whose pictures and sounds may be shown; empty: all.
        prompts: templates of the zero-shot task, ``{}`` for the label; empty: not measured.
        own: the bundle's ``embeddings`` of these samples, where they are known already.
        gallery: the teacher's ``embeddings`` of these samples, where its embeddings are the gallery that ships.
        advance: told how many raw samples were encoded; ``encodings`` says how many there will be.

    Raises:
        DataError: samples that lack a modality or a label that the bundle's task needs.
        BundleError: outputs that are not finite, or nothing that can be scored.
    """
    _check_any(split, samples)
    if answer_among(bundle.outputs) is not None:
        return answers(bundle, split, samples, advance=advance)
    towers = embedded(bundle)
    if not towers:
        raise DataError(
            f"bundle '{bundle.manifest.name}', split '{split}': its outputs {list(bundle.manifest.outputs)} can't be "
            "scored; expected classes, a quantity, or embeddings that one modality each leads to"
        )
    if len(towers) == 1:
        check_identities(split, samples, next(iter(towers)), pairs)
    else:
        check_pairs(split, samples, list(towers))
    vectors = embeddings(bundle, split, samples, advance=advance) if own is None else own
    if len(towers) == 1:
        ((modality, made),) = vectors.items()
        return verification(split, samples, modality, made, pairs=pairs, examples=examples, shown_groups=shown_groups)
    found = retrieval(bundle, split, samples, vectors, gallery=gallery, examples=examples, shown_groups=shown_groups)
    return found + zero_shot(bundle, split, samples, vectors, prompts=prompts, advance=advance)


@dataclass(frozen=True, slots=True)
class Needed:
    """What the samples of a split are held against before training, since it costs nothing.

    Args:
        split: its name, for messages.
        samples: of the split.
        modalities: that the model takes.
        answer: of a model that answers.
        may_lack: modalities that a placeholder will stand in for.
        pairs: that an embedder will be verified on.
    """

    split: str
    samples: Sequence[Sample]
    modalities: Sequence[str]
    answer: Answer | None = None
    may_lack: Collection[str] = ()
    pairs: Sequence[Pair] = ()

    def __post_init__(self) -> None:
        """Raise DataError where there are no samples."""
        _check_any(self.split, self.samples)


def check_search(needed: Needed) -> None:
    """Raise DataError where retrieval can't be scored: naming the item with two labels, or for want of pairs."""
    for modality in needed.modalities:
        check_one_label(needed.split, needed.samples, modality)
    check_pairs(needed.split, needed.samples, needed.modalities)


def check_verification(needed: Needed) -> None:
    """Raise DataError where identities can't be verified: naming the item with two labels, or for want of pairs."""
    for modality in needed.modalities:
        check_one_label(needed.split, needed.samples, modality)
        check_identities(needed.split, needed.samples, modality, needed.pairs)


def check_answers(needed: Needed) -> None:
    """Raise DataError naming the sample that lacks a modality or the truth."""
    check_modalities(needed.split, needed.samples, needed.modalities, needed.may_lack)
    if needed.answer is not None:
        scoring_of(needed.answer).check(needed.split, needed.samples)


def encodings(bundle: Bundle, samples: Sequence[Sample], *, prompts: Sequence[str] = ()) -> int:
    """Return how many raw samples ``score`` will encode: the total of its progress."""
    classes = zero_shot_labels(samples) if prompts and len(embedded(bundle)) > 1 else []
    return len(classes) * len(prompts) + sum(len(distinct_raws(samples, m)) for m in bundle.manifest.inputs)


def samples_digest(split: str, samples: Sequence[Sample], *, checksums: Mapping[Any, str] | None = None) -> str:
    """sha256 of an evaluation split: names, texts, labels, values, groups, clusters and the bytes of every file."""
    known = dict(checksums or {})

    def digest(path: Any) -> str | None:
        if path is not None and path not in known:
            try:
                known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                raise DataError(f"split '{split}': can't read {path} ({error.strerror or error})") from error
        return known.get(path)

    rows = [
        [
            *(s.id, digest(s.image), s.text, digest(s.audio), {m: digest(path) for m, path in s.tensors.items()}),
            *(s.label, s.labels, s.value, s.group, s.cluster, s.synonyms),
        ]
        for s in samples
    ]
    return hashlib.sha256(json.dumps([split, rows], ensure_ascii=False, sort_keys=True).encode()).hexdigest()


def _check_any(split: str, samples: Sequence[Sample]) -> None:
    if not samples:
        raise DataError(f"split '{split}': no samples to measure on")
