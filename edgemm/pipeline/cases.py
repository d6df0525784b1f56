"""Cases: which samples to show, with their picture, sound and text, what each model says and where it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgemm.measure.attention import Watched, grid, look, word_weights
from edgemm.measure.contribution import ACCURACY, SHUFFLED, Contributions, answers, losses
from edgemm.measure.examples import Answer, Example, hit, media
from edgemm.measure.towers import Embedded, Search
from edgemm.report import figures
from edgemm.report.cards import Seen
from edgemm.report.explain import Case, Section
from edgemm.report.media import heat_map
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.images import decode_image
from edgemm.runtime.inputs import size_range
from edgemm.runtime.manifest import AudioInput, TextInput
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
        heat, words, strip = b"", [], None
        for modality, weights in look(self.bundle, self.watched, given).items():
            kind = self.bundle.manifest.inputs[modality]
            if isinstance(kind, TextInput):
                words = self._words(kind, str(given[modality]), weights)
            elif isinstance(kind, AudioInput):
                strip = self._strip(modality, kind, given[modality], weights)
            elif kind.kind == "image" and (patches := grid(weights)) is not None:
                heat = heat_map(self._picture(modality, given[modality]), patches)
        return Seen(heat, words, strip)

    def _words(self, kind: TextInput, text: str, weights: NDArray[np.float64]) -> list[tuple[str, float]]:
        from edgemm.models.tokenizer import tokenizer_from_json

        tokenizer = tokenizer_from_json(self.bundle.archive.read(kind.tokenizer).decode())
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=kind.max_tokens)
        tokens = tokenizer.encode(text)
        return word_weights(weights, text, tokens.offsets, tokens.word_ids)

    def _picture(self, modality: str, raw: Any) -> NDArray[np.floating]:
        """The picture as the model sees it: resized, cropped; (channels, height, width)."""
        for part in self.bundle.parts:
            if part.entry.role == "frontend" and part.entry.modality == modality:
                made = part.session.run(self.bundle.values(**{modality: raw}))[part.output_names[0]]  # type: ignore[arg-type]
                if made.ndim == 4:
                    return np.asarray(made[0])
        return decode_image(raw, where=modality).transpose(2, 0, 1).astype(np.float32)

    def _strip(self, modality: str, kind: AudioInput, raw: Any, weights: NDArray[np.float64]) -> figures.Drawing | None:
        """The sound with a weight per frame; None where the tokens are not frames (patches of a spectrogram)."""
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
                        return None
        self.drawn += 1
        return figures.waveform(wave, weights, rate=kind.sample_rate, name=f"strip-{self.name}-{self.drawn}")


def classifier_cases(
    viewers: Mapping[str, Viewer],
    found: Mapping[str, Contributions],
    samples: Sequence[Sample],
    *,
    shown_groups: Sequence[str],
    progress: Progress,
) -> list[Section]:
    """Where the models look in ordinary samples; what only the last gets wrong; what it gets most wrong."""
    names = list(viewers)
    last = names[-1]
    independent = viewers[last].bundle.manifest.task == "multi-label"
    said = {name: answers(each, independent=independent) for name, each in found.items()}
    lost = {name: losses(each, samples, independent=independent) for name, each in found.items()}
    right = {name: (each.full(SHUFFLED, ACCURACY) == 1.0).tolist() for name, each in found.items()}
    may = [i for i, s in enumerate(samples) if not shown_groups or s.group in shown_groups]
    by_loss = sorted((i for i in may if np.isfinite(lost[last][i])), key=lambda i: (-lost[last][i], i))
    wrong = [i for i in by_loss if not right[last][i]]
    only = [i for i in wrong if right[names[0]][i]][:CASES]
    worst = [i for i in wrong if i not in only][:CASES]
    unknown = int((~np.isfinite(lost[last])).sum())
    aside = f" {unknown} samples whose answer the model has no class for are left out." if unknown else ""
    sections = [
        (f"What only “{last}” gets wrong", _agreement(names, right), only if len(names) == 2 else []),
        (f"The worst errors of “{last}”", f"Wrong answers with the highest loss, the highest first.{aside}", worst),
    ]
    if any(viewer.watched for viewer in viewers.values()):
        rng = np.random.default_rng(0)
        drawn = sorted(int(i) for i in rng.permutation(may)[:ORDINARY])
        sections.insert(0, ("Where they look", _LOOK, drawn))

    def case(i: int) -> Case:
        given = _given(viewers[last].bundle, samples[i])
        truth = ", ".join(samples[i].labels) if independent else str(samples[i].label)
        told = tuple(
            Answer(
                name,
                said[name][i][0],
                right[name][i],
                f"probability {said[name][i][1]:.2f}, "
                + (f"loss {lost[name][i]:.2f}" if np.isfinite(lost[name][i]) else "no class for the right answer"),
            )
            for name in viewers
        )
        seen = [viewer.see(_given(viewer.bundle, samples[i])) for viewer in viewers.values()]
        return Case(Example(truth, told, **media(given, seconds=_SECONDS)), seen)

    with progress.task("samples to look at", total=sum(len(chosen) for _, _, chosen in sections)) as task:
        made = []
        for title, note, chosen in sections:
            cases = []
            for i in chosen:
                cases.append(case(i))
                task.advance()
            made.append(Section(title, note, cases))
    return made


_LOOK: Final = (
    "Samples drawn by a fixed seed and not by result. Attention is rolled out over the layers: orange is more. "
    "It shows what is read, not why the answer comes out."
)


def retrieval_cases(
    viewers: Mapping[str, Viewer],
    found: Sequence[Search],
    embedded: Mapping[str, Mapping[str, Embedded]],
    *,
    shown_groups: Sequence[str],
    progress: Progress,
) -> list[Section]:
    """Per direction: the queries that the last model ranks worst, those first that only it fails."""
    names = list(viewers)
    last = names[-1]
    own = [s for s in found if s.query_of == s.gallery_of]
    directions = list(dict.fromkeys((s.query, s.gallery) for s in own))
    chosen: list[tuple[tuple[str, str], list[int]]] = []
    for query, gallery in directions:
        ranks = {s.query_of: s.ranks for s in own if (s.query, s.gallery) == (query, gallery)}
        items = embedded[last][query]
        may = [i for i, g in enumerate(items.groups) if query == "text" or not shown_groups or g in shown_groups]
        wrong = [i for i in may if ranks[last][i] > 1]
        only = [i for i in wrong if ranks[names[0]][i] == 1] if len(names) == 2 else []
        worst = sorted(wrong, key=lambda i: (i not in only, -ranks[last][i], i))
        chosen.append(((query, gallery), worst[:CASES]))
    sections = []
    with progress.task("samples to look at", total=sum(len(which) for _, which in chosen)) as task:
        for (query, gallery), which in chosen:
            cases = []
            for i in which:
                asked = embedded[last][query]
                told = []
                for name in viewers:
                    search = next(s for s in own if (s.query, s.gallery, s.query_of) == (query, gallery, name))
                    rank, among = int(search.ranks[i]), len(embedded[name][gallery].labels)
                    held = embedded[name][gallery]
                    hits = tuple(
                        hit(gallery, held.raws[j], held.labels[j], held.labels[j] == asked.labels[i])
                        for j in search.nearest[i]
                    )
                    told.append(Answer(name, f"rank {rank}", rank == 1, f"of {among}", hits))
                given = {query: asked.raws[i]}
                seen = [viewer.see(given) for viewer in viewers.values()]
                cases.append(Case(Example(asked.labels[i], tuple(told), **media(given, seconds=_SECONDS)), seen))
                task.advance()
            first = "those first that only it fails, then " if len(names) == 2 else ""
            note = f"Queries whose best right item “{last}” doesn't put first: {first}the worst rank first."
            shown = " Items that may not be shown are left out of what is nearest." if shown_groups else ""
            sections.append(Section(f"The worst errors of {query}→{gallery}", note + shown, cases))
    return sections


def _given(bundle: Bundle, sample: Sample) -> dict[str, Any]:
    """The raw modalities of a sample, as ``predict`` takes them."""
    return {m: raw for m in bundle.manifest.inputs if (raw := sample.raw(m)) is not None}


def _agreement(names: Sequence[str], right: Mapping[str, Sequence[bool]]) -> str:
    if len(names) < 2:
        return ""
    first, last = (np.asarray(right[name], bool) for name in names)
    return (
        f"Of {len(first)} samples both get {int((first & last).sum())} right, only “{names[0]}” "
        f"{int((first & ~last).sum())}, only “{names[1]}” {int((~first & last).sum())}, none "
        f"{int((~first & ~last).sum())}. Below those that only “{names[1]}” gets wrong, the highest loss first."
    )
