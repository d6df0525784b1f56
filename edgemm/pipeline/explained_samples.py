"""Explained samples: which to show, with picture, sound and text, what each model says and where it looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import as_text
from edgemm.measure.attention import Watched, grid, look, word_weights
from edgemm.measure.contribution import Contributions, answers, losses, right
from edgemm.measure.examples import Answer, Example, hit, media
from edgemm.measure.outputs import scoring_of
from edgemm.measure.retrieval import may_be_shown
from edgemm.measure.swapped_towers import Embedded, Search
from edgemm.report import figures
from edgemm.report.cards import Seen
from edgemm.report.explain import Case, Section
from edgemm.report.media import heat_map
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.values import size_range
from edgemm.runtime.waveforms import decode_audio
from edgemm.stage import Progress

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

CASES: Final = 9  # in a section
ORDINARY: Final = 6  # samples shown for where the models look, drawn by a fixed seed
_SECONDS: Final = 15  # of a sound that plays
_MOST_SECONDS: Final = 60  # of a sound that is drawn


@dataclass
class Viewer:
    """One open bundle, and its parts that attend; ``name`` tells its drawings from another's on one page."""

    name: str
    bundle: Bundle
    watched: Mapping[str, Watched]
    drawn: int = 0

    def see(self, given: Mapping[str, Any]) -> Seen:
        """Where the bundle looks in one sample: modality -> raw, as ``predict`` takes it."""
        if not self.watched or not given:
            return Seen()
        found: dict[str, Any] = {}
        for modality, weights in look(self.bundle, self.watched, given).items():
            raw = self.bundle.manifest.inputs[modality]
            if (draw := _DRAWN.get(raw.kind)) is not None:
                found |= draw(self, modality, raw, given[modality], weights)
        return Seen(**found)

    def _heat(self, modality: str, kind: Any, raw: Any, weights: NDArray[np.float64]) -> dict[str, Any]:
        patches = grid(weights)
        return {} if patches is None else {"heat": heat_map(self._picture(modality, kind, raw), patches)}

    def _words(self, _modality: str, kind: Any, raw: Any, weights: NDArray[np.float64]) -> dict[str, Any]:
        from edgemm.models.tokenizer import limit_, tokenizer_from_json

        text = str(raw)
        tokenizer = tokenizer_from_json(self.bundle.archive.read(kind.tokenizer).decode())
        tokenizer.no_padding()
        limit_(tokenizer, kind.max_tokens)
        tokens = tokenizer.encode(text)
        return {"words": word_weights(weights, text, tokens.offsets, tokens.word_ids)}

    def _picture(self, modality: str, kind: Any, raw: Any) -> NDArray[np.floating]:
        """Return the picture as the model sees it: resized, cropped; (channels, height, width)."""
        for part in self.bundle.parts:
            if part.entry.role == "frontend" and part.entry.modality == modality:
                made = part.session.run(self.bundle.values(**{modality: raw}))[part.output_names[0]]  # type: ignore[arg-type]
                if made.ndim == 4:
                    return np.asarray(made[0])
        decoded: NDArray[np.uint8] = kind.decoded(raw, where=modality)
        return decoded.transpose(2, 0, 1).astype(np.float32)

    def _strip(self, modality: str, kind: Any, raw: Any, weights: NDArray[np.float64]) -> dict[str, Any]:
        """Return the sound with a weight per frame; nothing where the tokens are more than its frames."""
        limit = _MOST_SECONDS * kind.sample_rate
        wave = decode_audio(raw, sample_rate=kind.sample_rate, where=modality, limit=limit)
        for part in self.bundle.parts:
            if part.entry.role == "frontend" and kind.feeds in part.input_names:
                made = part.entry.signature.outputs[0].shape
                frames = [dim for dim in made[1:] if isinstance(dim, int)]
                if len(frames) == len(made) - 1:  # one length for all sounds: shorter ones are padded to the longest
                    spec = next(s for s in part.entry.signature.inputs if s.name == kind.feeds)
                    longest = min(size_range(spec, part.entry.signature.dims, axis=1)[1] or len(wave), limit)
                    wave = np.pad(wave[:longest], (0, max(0, longest - len(wave))))
                    if len(weights) > max(frames):
                        return {}
        self.drawn += 1
        drawing = figures.waveform(wave, weights, rate=kind.sample_rate, name=f"strip-{self.name}-{self.drawn}")
        return {"strip": drawing}


_DRAWN: Mapping[str, Callable[[Viewer, str, Any, Any, NDArray[np.float64]], dict[str, Any]]] = {
    "image": Viewer._heat,
    "text": Viewer._words,
    "audio": Viewer._strip,
}
"""Kind of a modality -> what draws where a model looks in a sample: fields of ``Seen``."""


def answer_cases(
    viewers: Mapping[str, Viewer],
    found: Mapping[str, Contributions],
    samples: Sequence[Sample],
    *,
    shown_groups: Sequence[str],
    progress: Progress,
) -> list[Section]:
    """Where the models look in ordinary samples, and what the last gets most wrong.

    Of classes first what only the last gets wrong; of a quantity at the end where it got worse than the first.
    """
    said = {name: answers(each, samples) for name, each in found.items()}
    lost = {name: losses(each, samples) for name, each in found.items()}
    good = {name: right(each) for name, each in found.items()}
    answer = next(iter(found.values())).answer
    drawing = _DRAWING[answer.kind]
    may = [i for i, s in enumerate(samples) if not shown_groups or s.group in shown_groups]
    sections = drawing.sections(lost, good, may)
    if any(viewer.watched for viewer in viewers.values()):
        rng = np.random.default_rng(0)
        drawn = sorted(int(i) for i in rng.permutation(may)[:ORDINARY])
        sections.insert(0, ("Where they look", _LOOK, drawn))

    def detail(name: str, i: int) -> str:
        return drawing.detail(said[name][i][1], float(lost[name][i]))

    def case(i: int) -> Case:
        sample = samples[i]
        truth = scoring_of(answer).expected(sample)
        told = tuple(Answer(name, said[name][i][0], bool(good[name][i]), detail(name, i)) for name in viewers)
        seen = [viewer.see(_given(viewer.bundle, sample)) for viewer in viewers.values()]
        shown = _shown(_given(viewers[list(viewers)[-1]].bundle, sample), sample.id)
        return Case(Example(truth, told, **shown), seen)

    with progress.task("samples to look at", total=sum(len(chosen) for _, _, chosen in sections)) as progressed:
        made = []
        for title, note, chosen in sections:
            cases = []
            for i in chosen:
                cases.append(case(i))
                progressed.advance()
            made.append(Section(title, note, cases))
    return made


def _wrong_answers(
    lost: Mapping[str, NDArray[np.float64]], good: Mapping[str, NDArray[np.bool_]], may: Sequence[int]
) -> list[tuple[str, str, list[int]]]:
    """Title, note and samples: what only the last of two gets wrong, and the highest losses."""
    names = list(lost)
    last = names[-1]
    by_loss = sorted((i for i in may if np.isfinite(lost[last][i])), key=lambda i: (-lost[last][i], i))
    wrong = [i for i in by_loss if not good[last][i]]
    only = [i for i in wrong if good[names[0]][i]][:CASES]
    worst = [i for i in wrong if i not in only][:CASES]
    unknown = int((~np.isfinite(lost[last])).sum())
    aside = f" {unknown} samples whose answer the model has no class for are left out." if unknown else ""
    return [
        (f"What only “{last}” gets wrong", _agreement(good), only if len(names) == 2 else []),
        (f"The worst errors of “{last}”", f"Wrong answers with the highest loss, the highest first.{aside}", worst),
    ]


def _worst_values(
    lost: Mapping[str, NDArray[np.float64]], good: Mapping[str, NDArray[np.bool_]], may: Sequence[int]
) -> list[tuple[str, str, list[int]]]:
    """Title, note and samples: the largest errors, and, with two models, where the second's grew most."""
    names = list(lost)
    first, last = names[0], names[-1]
    worst = sorted((i for i in may if not good[last][i]), key=lambda i: (-lost[last][i], i))[:CASES]
    means = " and ".join(f"{as_text.three_figures(float(errors.mean()))} of “{name}”" for name, errors in lost.items())
    note = f"The largest absolute errors, the largest first. ✓: an error of at most the mean, {means}."
    sections = [(f"The worst errors of “{last}”", note, worst)]
    if len(names) == 2:
        grown = lost[last] - lost[first]
        chosen = sorted((i for i in may if grown[i] > 0 and i not in worst), key=lambda i: (-grown[i], i))[:CASES]
        note = (
            f"Of {len(grown)} samples “{last}” is nearer to the truth in {int((grown < 0).sum())}, “{first}” in "
            f"{int((grown > 0).sum())}. Of those not above, where the error grew most."
        )
        sections.append((f"Where “{last}” got worse", note, chosen))
    return sections


def _with_loss(sure: str, loss: float) -> str:
    return f"{sure}, " + (f"loss {loss:.2f}" if np.isfinite(loss) else "no class for the right answer")


class _Drawing(NamedTuple):
    """How the cases of one kind of answer are chosen and captioned.

    Args:
        sections: (losses by model, right ones by model, samples that may be shown) -> title, note and samples.
        detail: (how sure or how wrong, loss) -> what stands under an answer.
    """

    sections: Callable[
        [Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.bool_]], Sequence[int]],
        list[tuple[str, str, list[int]]],
    ]
    detail: Callable[[str, float], str]


_DRAWING: Final[Mapping[str, _Drawing]] = {
    "classes": _Drawing(_wrong_answers, _with_loss),
    "quantity": _Drawing(_worst_values, lambda sure, _: sure),
}

_LOOK: Final = (
    "Samples drawn by a fixed seed and not by result. Attention is rolled out over the layers: orange is more. "
    "It shows what is read, not why the answer comes out."
)


def search_cases(
    viewers: Mapping[str, Viewer],
    found: Sequence[Search],
    embedded: Mapping[str, Mapping[str, Embedded]],
    *,
    shown_groups: Sequence[str],
    progress: Progress,
) -> list[Section]:
    """Return per direction the queries that the last model fails, those first that only it fails, then the worst.

    The worst of a retriever has the worst rank; of an embedder the lowest margin.
    """
    names = list(viewers)
    last = names[-1]
    own = [s for s in found if s.query_of == s.gallery_of]
    directions = list(dict.fromkeys((s.query, s.gallery) for s in own))
    chosen: list[tuple[dict[str, Search], list[int]]] = []
    for direction in directions:
        searches = {s.query_of: s for s in own if (s.query, s.gallery) == direction}
        chosen.append((searches, _failed(list(searches.values()), embedded[last][direction[0]], shown_groups)))
    sections = []
    with progress.task("samples to look at", total=sum(len(which) for _, which in chosen)) as task:
        for (query, gallery), (searches, which) in zip(directions, chosen, strict=True):
            cases = []
            for i in which:
                place = searches[last].asked[i]
                label, given = embedded[last][query].labels[place], {query: embedded[last][query].raws[place]}
                told = []
                for name, search in searches.items():
                    rank, held = int(search.ranks[i]), embedded[name][gallery]
                    among = f"of {len(held.labels)}"
                    if query == gallery:
                        among = f"of {len(held.labels) - 1}, margin {as_text.signed_figures(float(search.margins[i]))}"
                    hits = tuple(
                        hit(gallery, held.raws[j], held.labels[j], held.labels[j] == label) for j in search.nearest[i]
                    )
                    told.append(Answer(name, f"rank {rank}", rank == 1, among, hits))
                seen = [viewer.see(given) for viewer in viewers.values()]
                cases.append(Case(Example(label, tuple(told), **_shown(given, label)), seen))
                task.advance()
            sections.append(Section(*_search_heading((query, gallery), names, shown_groups), cases))
    return sections


def _failed(searches: Sequence[Search], items: Embedded, shown_groups: Sequence[str]) -> list[int]:
    """Return the queries to show, that the last of these searches fails; it and the first are of the same queries."""
    first, last = searches[0], searches[-1]
    may = [may_be_shown(items.raws[place], items.groups[place], shown_groups) for place in last.asked]
    wrong = [i for i in range(len(may)) if may[i] and last.ranks[i] > 1]
    badness = -last.margins if last.query == last.gallery else last.ranks
    return sorted(wrong, key=lambda i: (first is last or first.ranks[i] > 1, -badness[i], i))[:CASES]


def _search_heading(between: tuple[str, str], names: Sequence[str], shown_groups: Sequence[str]) -> tuple[str, str]:
    query, gallery = between
    first = "those first that only it fails, then " if len(names) == 2 else ""
    if query == gallery:
        title = f"The worst errors of “{names[-1]}”"
        note = (
            f"Samples whose nearest other “{names[-1]}” takes from another identity: {first}the lowest margin first. "
            "Margin: cosine of the nearest of its identity less that of the nearest of another. Framed: its identity."
        )
    else:
        title = f"The worst errors of {query}→{gallery}"
        note = f"Queries whose best right item “{names[-1]}” doesn't put first: {first}the worst rank first."
    return title, note + (" Items that may not be shown are left out of what is nearest." if shown_groups else "")


def _shown(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return what is seen, read and heard of a sample; its name where it is nothing of these."""
    return media(given, seconds=_SECONDS) or {"text": name}


def _given(bundle: Bundle, sample: Sample) -> dict[str, Any]:
    """Return the raw modalities of a sample, as ``predict`` takes them."""
    return {m: raw for m in bundle.manifest.inputs if (raw := sample.raw(m)) is not None}


def _agreement(good: Mapping[str, NDArray[np.bool_]]) -> str:
    if len(good) < 2:
        return ""
    (one, first), (other, last) = good.items()
    return (
        f"Of {len(first)} samples both get {int((first & last).sum())} right, only “{one}” "
        f"{int((first & ~last).sum())}, only “{other}” {int((~first & last).sum())}, none "
        f"{int((~first & ~last).sum())}. Below those that only “{other}” gets wrong, the highest loss first."
    )
