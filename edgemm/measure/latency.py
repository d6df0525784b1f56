"""Latency of several bundles in one interleaved run: each request end to end, per part, cold start, image decoding.

End to end is a request (``runtime/requests.py``) at batch 1, from raw inputs (uint8 pixels, waveforms, strings) to
outputs and their names: tokenizer, frontends and the search in a gallery included.
Decoding an image file is the same for every variant and is a line of its own. The stage measures in a fresh process
(``fresh``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.coldstart import ColdStart, cold_start
from edgemm.measure.fresh_process import request, run_fresh
from edgemm.runtime.bench import decoded_input
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.images import decode_image
from edgemm.runtime.prediction import GallerySet, named_by
from edgemm.runtime.readers import ImageInput
from edgemm.runtime.requests import ask
from edgemm.runtime.timing import WarmUp, sample_latencies, warm_until_stable

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

INPUTS = 16  # raw samples taken in turn, the same for all variants: lengths of texts and sizes of images vary
SEARCH = "search"  # the part that looks through a gallery
UNTIMED = 2  # calls before each timed one
_SLACK, _PATIENCE = 4, 20.0  # a loop may take so many times its seconds, or so many seconds, to reach its fewest runs
_SAY_SECONDS = 0.5  # between two lines of progress, so that saying it takes no time from what is timed

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Raw nanoseconds of one interleaved run, by variant: samples of equal index are pairs across variants."""

    warm_up: Mapping[str, Mapping[str, WarmUp]]  # variant -> request -> how it went
    end_to_end: Mapping[str, Mapping[str, np.ndarray]]  # variant -> request -> samples
    parts: Mapping[str, Mapping[str, np.ndarray]]  # variant -> part (and "tokenizer", "search") -> samples
    takes: Mapping[str, Mapping[str, Sequence[str]]]  # variant -> request -> names of the parts that it runs
    image_decoding: np.ndarray | None


def raw_inputs(samples: Sequence[Sample], modalities: Sequence[str]) -> list[dict[str, Any]]:
    """Up to 16 samples spread evenly over the split, as paths and strings.

    Never a multiple of three: in strides of one timed call after two untimed ones the turn has to meet them all.
    """
    count = min(INPUTS, len(samples))
    count -= count > 1 and count % (UNTIMED + 1) == 0
    return [{m: samples[i * len(samples) // count].raw(m) for m in modalities} for i in range(count)]


def measure_latencies(
    bundles: Mapping[str, Bundle],
    inputs: Mapping[str, Sequence[Raw]],
    *,
    seconds: float,
    runs: int,
    gallery_of: str | None = None,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> Latencies:
    """Time all bundles on the same raw inputs, round by round; each timed call follows two untimed ones of its kind.

    Args:
        bundles: variant -> open bundle; all must answer the requests.
        inputs: request -> raw samples of its modalities, as paths and strings, taken in turn.
        seconds: for each bundle's requests, end to end; its parts get half of that.
        runs: fewest rounds.
        gallery_of: the variant whose gallery those search in that have none of their own, so that all do the same.
        on_progress: told the share of the planned time that is done, 0..1, and with what; after every round.
    """
    lent = bundles[gallery_of].gallery() if gallery_of is not None else None
    asked = {name: {r: _Asked(b, given, lent) for r, given in inputs.items()} for name, b in bundles.items()}
    whole = seconds * len(bundles)
    warm, ended = 0.25 * whole, 1.75 * whole  # a guess of the warm-up, the whole, and half of it for the parts

    def within(start: float, length: float, note: str) -> Callable[[float], None]:
        return lambda share: on_progress((start + share * length) / ended, note)

    calls = {(name, r): one.in_turn() for name, by_request in asked.items() for r, one in by_request.items()}
    warm_up: dict[str, dict[str, WarmUp]] = {name: {} for name in bundles}
    for done, ((name, which), call) in enumerate(calls.items()):
        on_progress(warm / ended * done / len(calls), f"warming up {name}")
        warm_up[name][which] = warm_until_stable(call, max_seconds=max(1.0, 1.5 * seconds))
    taken = _interleaved(calls, seconds=whole, runs=runs, on_round=within(warm, whole, "end to end"))
    end_to_end = {name: {r: taken[name, r] for r in inputs} for name in bundles}
    part_calls: dict[tuple[str, str], Callable[[], object]] = {}
    takes: dict[str, dict[str, list[str]]] = {name: {} for name in bundles}
    for name, by_request in asked.items():
        for which, one in by_request.items():
            own = one.parts()
            takes[name][which] = list(own)
            for part, call in own.items():
                part_calls.setdefault((name, part), call)
    taken = _interleaved(part_calls, seconds=whole / 2, runs=runs, on_round=within(warm + whole, whole / 2, "parts"))
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in bundles}
    for (name, part), ns in taken.items():
        parts[name][part] = ns
    images = {
        m: raw.grey_range
        for b in bundles.values()
        for m, raw in b.manifest.inputs.items()
        if isinstance(raw, ImageInput)
    }
    decoding = None
    if paths := [given[m] for one in inputs.values() for given in one for m in images if m in given]:
        turn = cycle(paths)
        decoding = sample_latencies(
            {"decode": lambda: decode_image(next(turn), where="image", grey_range=next(iter(images.values())))},
            min_seconds=0.2,
            min_samples=runs,
            max_seconds=2,
        )["decode"]
    on_progress(1.0, "decoding")
    return Latencies(warm_up, end_to_end, parts, takes, decoding)


def fresh_latencies(
    bundles: Mapping[str, tuple[Path, str, int]],
    inputs: Mapping[str, Sequence[Raw]],
    *,
    seconds: float,
    runs: int,
    gallery_of: str | None = None,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> Latencies:
    """``measure_latencies`` in a process of its own, of (path, target, threads) by variant.

    Raises:
        EngineError: the process failed; the message holds the last line that it wrote.
    """
    asked = {
        "bundles": {name: [str(path.resolve()), target, threads] for name, (path, target, threads) in bundles.items()},
        "inputs": {r: [{m: str(raw) for m, raw in given.items()} for given in one] for r, one in inputs.items()},
        "seconds": seconds,
        "runs": runs,
        "gallery_of": gallery_of,
    }
    answer = run_fresh("edgemm.measure.latency", asked, what="measuring latencies", on_progress=on_progress)
    decoding = answer["image_decoding"]
    return Latencies(
        {name: {r: WarmUp(**warm) for r, warm in one.items()} for name, one in answer["warm_up"].items()},
        {name: {r: np.array(ns, np.int64) for r, ns in one.items()} for name, one in answer["end_to_end"].items()},
        {name: {p: np.array(ns, np.int64) for p, ns in parts.items()} for name, parts in answer["parts"].items()},
        answer["takes"],
        None if decoding is None else np.array(decoding, np.int64),
    )


def _main() -> None:
    asked, say = request()
    said = 0.0

    def on_progress(share: float, note: str) -> None:
        nonlocal said
        if monotonic() - said >= _SAY_SECONDS:
            said = monotonic()
            say({"share": share, "note": note})

    bundles = {
        name: Bundle.open(path, target=target, threads=threads)
        for name, (path, target, threads) in asked["bundles"].items()
    }
    taken = measure_latencies(
        bundles, asked["inputs"], seconds=asked["seconds"], runs=asked["runs"], gallery_of=asked["gallery_of"],
        on_progress=on_progress,
    )  # fmt: skip
    answer = {
        "warm_up": {name: {r: asdict(warm) for r, warm in one.items()} for name, one in taken.warm_up.items()},
        "end_to_end": {name: {r: ns.tolist() for r, ns in one.items()} for name, one in taken.end_to_end.items()},
        "parts": {name: {part: ns.tolist() for part, ns in parts.items()} for name, parts in taken.parts.items()},
        "takes": taken.takes,
        "image_decoding": None if taken.image_decoding is None else taken.image_decoding.tolist(),
    }
    say({"answer": answer})


def measure_cold_starts(
    bundles: Mapping[str, tuple[Path, str, int]],
    requests: Sequence[Mapping[str, str]],
    *,
    repeats: int,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, list[ColdStart]]:
    """Start every (path, target, threads) in fresh processes, in turn, ``repeats`` times."""
    found: dict[str, list[ColdStart]] = {name: [] for name in bundles}
    for _ in range(repeats):
        for name, (path, target, threads) in bundles.items():
            found[name].append(cold_start(path, target, requests, threads=threads))
            advance(name)
    return found


Key = tuple[str, str]


def _interleaved(
    calls: Mapping[Key, Callable[[], object]], *, seconds: float, runs: int, on_round: Callable[[float], None]
) -> dict[Key, np.ndarray]:
    names = {f"{i}": key for i, key in enumerate(calls)}
    taken = sample_latencies(
        {i: calls[key] for i, key in names.items()},
        min_seconds=seconds, min_samples=runs, untimed=UNTIMED, max_seconds=max(_SLACK * seconds, _PATIENCE),
        on_round=on_round,
    )  # fmt: skip
    return {key: taken[i] for i, key in names.items()}


class _Asked:
    """One request of one bundle, on several samples in turn.

    Args:
        inputs: raw samples; what they are decoded to is held, sounds at the bundle's own rate.
        lent: a gallery to search in where the bundle has none and embeds into its space.
    """

    def __init__(self, bundle: Bundle, inputs: Sequence[Raw], lent: GallerySet | None) -> None:
        self.bundle = bundle
        self.given = [{m: decoded_input(bundle, m, raw) for m, raw in given.items()} for given in inputs]
        made = bundle.predict(**self.given[0])
        width = None if lent is None or made.named else lent.vectors.shape[1]
        self.searched = next((n for n, v in made.outputs.items() if v.ndim == 2 and v.shape[1] == width), None)
        self.gallery = None if lent is None else replace(lent, threads=bundle.threads)

    def in_turn(self) -> Callable[[], object]:
        """Return the request end to end, on the next sample with each call."""
        turn = cycle(self.given)
        if self.searched is None or self.gallery is None:
            return lambda: ask(self.bundle, next(turn))
        name, gallery = self.searched, self.gallery

        def search() -> object:
            made = self.bundle.predict(**next(turn))
            return named_by(gallery, made.outputs[name], top=made.top)

        return search

    def parts(self) -> dict[str, Callable[[], object]]:
        """One call per part on what it is fed in the chain; what turns strings into ids, and the search, are parts."""
        plan = self.bundle.plan(self.given[0])
        fed: dict[str, list[Mapping[str, Any]]] = {part.name: [] for part in self.bundle.parts}
        for given in self.given:
            for part, feeds, _ in self.bundle.trace(self.bundle.values(**given)):
                fed[part.name].append(feeds)
        calls: dict[str, Callable[[], object]] = {}
        if texts := [m for m in self.given[0] if self.bundle.manifest.inputs[m].files]:
            turn = cycle([{m: given[m] for m in texts} for given in self.given])
            calls["tokenizer"] = lambda: self.bundle.values(**next(turn))
        for part in plan:
            calls[part.name] = _run_in_turn(part.session.run, fed[part.name])
        gallery = self.bundle.gallery() or self.gallery
        made = [self.bundle.predict(**given) for given in self.given]
        name = self.searched or next(iter(made[0].named), None)
        if gallery is not None and name is not None:
            embedded = cycle([one.outputs[name] for one in made])
            calls[SEARCH] = lambda: named_by(gallery, next(embedded), top=made[0].top)
        return calls


def _run_in_turn(run: Callable[[Any], object], feeds: Sequence[Mapping[str, Any]]) -> Callable[[], object]:
    turn = cycle(feeds)
    return lambda: run(next(turn))


if __name__ == "__main__":
    _main()
