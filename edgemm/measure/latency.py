"""Latency of several bundles in one interleaved run: end to end, per part, cold start, memory, image decoding.

End to end is raw input to outputs at batch 1 (uint8 pixels, waveforms, strings in; tokenizer and frontends included).
Decoding an image file is the same for every variant and is a line of its own. The stage measures in a fresh process
(``fresh``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.coldstart import ColdStart, cold_start
from edgemm.measure.fresh import request, run_fresh
from edgemm.runtime.bench import decoded_input
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.images import decode_image
from edgemm.runtime.timing import WarmUp, sample_latencies, warm_until_stable

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

INPUTS = 16  # raw samples taken in turn, the same for all variants: lengths of texts and sizes of images vary
UNTIMED = 2  # calls before each timed one
_SLACK, _PATIENCE = 4, 20.0  # a loop may take so many times its seconds, or so many seconds, to reach its fewest runs
_SAY_SECONDS = 0.5  # between two lines of progress, so that saying it takes no time from what is timed

Raw = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Raw nanoseconds of one interleaved run, by variant: samples of equal index are pairs across variants."""

    warm_up: Mapping[str, WarmUp]
    end_to_end: Mapping[str, np.ndarray]
    parts: Mapping[str, Mapping[str, np.ndarray]]  # variant -> part (and "tokenizer") -> samples
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
    inputs: Sequence[Raw],
    *,
    seconds: float,
    runs: int,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> Latencies:
    """Time all bundles on the same raw inputs, round by round; each timed call follows two untimed ones of its kind.

    Args:
        bundles: variant -> open bundle; all must take the modalities of ``inputs``.
        inputs: raw samples as paths and strings, taken in turn.
        seconds: for each bundle's end-to-end latency; its parts get half of that.
        runs: fewest rounds.
        on_progress: told the share of the planned time that is done, 0..1, and with what; after every round.
    """
    images = {m for b in bundles.values() for m, raw in b.manifest.inputs.items() if raw.kind == "image"}
    decoded = {
        name: [{m: decoded_input(b, m, raw) for m, raw in given.items()} for given in inputs]
        for name, b in bundles.items()
    }  # sounds at each bundle's own rate
    whole = seconds * len(bundles)
    warm, ended = 0.25 * whole, 1.75 * whole  # a guess of the warm-up, the whole, and half of it for the parts

    def within(start: float, length: float, note: str) -> Callable[[float], None]:
        return lambda share: on_progress((start + share * length) / ended, note)

    warm_up: dict[str, WarmUp] = {}
    for done, (name, bundle) in enumerate(bundles.items()):
        on_progress(warm / ended * done / len(bundles), f"warming up {name}")
        warm_up[name] = warm_until_stable(_in_turn(bundle.predict, decoded[name]), max_seconds=max(1.0, 1.5 * seconds))
    end_to_end = sample_latencies(
        {name: _in_turn(bundle.predict, decoded[name]) for name, bundle in bundles.items()},
        min_seconds=whole, min_samples=runs, untimed=UNTIMED, max_seconds=max(_SLACK * whole, _PATIENCE),
        on_round=within(warm, whole, "end to end"),
    )  # fmt: skip
    calls = {(name, part): call for name, b in bundles.items() for part, call in _part_calls(b, decoded[name]).items()}
    keys = {f"{i}": key for i, key in enumerate(calls)}
    taken = sample_latencies(
        {i: calls[key] for i, key in keys.items()},
        min_seconds=whole / 2, min_samples=runs, untimed=UNTIMED, max_seconds=max(_SLACK * whole / 2, _PATIENCE),
        on_round=within(warm + whole, whole / 2, "parts"),
    )  # fmt: skip
    parts: dict[str, dict[str, np.ndarray]] = {name: {} for name in bundles}
    for i, (name, part) in keys.items():
        parts[name][part] = taken[i]
    decoding = None
    if paths := [given[m] for given in inputs for m in images if m in given]:
        turn = cycle(paths)
        decoding = sample_latencies(
            {"decode": lambda: decode_image(next(turn), where="image")},
            min_seconds=0.2,
            min_samples=runs,
            max_seconds=2,
        )["decode"]
    on_progress(1.0, "decoding")
    return Latencies(warm_up, end_to_end, parts, decoding)


def fresh_latencies(
    bundles: Mapping[str, tuple[Path, str, int]],
    inputs: Sequence[Raw],
    *,
    seconds: float,
    runs: int,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> Latencies:
    """``measure_latencies`` in a process of its own, of (path, target, threads) by variant.

    Raises:
        EngineError: the process failed; the message holds the last line that it wrote.
    """
    asked = {
        "bundles": {name: [str(path.resolve()), target, threads] for name, (path, target, threads) in bundles.items()},
        "inputs": [{m: str(raw) for m, raw in given.items()} for given in inputs],
        "seconds": seconds,
        "runs": runs,
    }
    answer = run_fresh("edgemm.measure.latency", asked, what="measuring latencies", on_progress=on_progress)
    decoding = answer["image_decoding"]
    return Latencies(
        {name: WarmUp(**warm) for name, warm in answer["warm_up"].items()},
        {name: np.array(ns, np.int64) for name, ns in answer["end_to_end"].items()},
        {name: {p: np.array(ns, np.int64) for p, ns in parts.items()} for name, parts in answer["parts"].items()},
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
        bundles, asked["inputs"], seconds=asked["seconds"], runs=asked["runs"], on_progress=on_progress
    )
    answer = {
        "warm_up": {name: asdict(warm) for name, warm in taken.warm_up.items()},
        "end_to_end": {name: ns.tolist() for name, ns in taken.end_to_end.items()},
        "parts": {name: {part: ns.tolist() for part, ns in parts.items()} for name, parts in taken.parts.items()},
        "image_decoding": None if taken.image_decoding is None else taken.image_decoding.tolist(),
    }
    say({"answer": answer})


def measure_cold_starts(
    bundles: Mapping[str, tuple[Path, str, int]],
    given: Mapping[str, str],
    *,
    repeats: int,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, list[ColdStart]]:
    """Start every (path, target, threads) in fresh processes, in turn, ``repeats`` times."""
    found: dict[str, list[ColdStart]] = {name: [] for name in bundles}
    for _ in range(repeats):
        for name, (path, target, threads) in bundles.items():
            found[name].append(cold_start(path, target, given, threads=threads))
            advance(name)
    return found


def _in_turn(predict: Callable[..., object], inputs: Sequence[Raw]) -> Callable[[], object]:
    turn = cycle(inputs)
    return lambda: predict(**next(turn))


def _part_calls(bundle: Bundle, inputs: Sequence[Raw]) -> dict[str, Callable[[], object]]:
    """One call per part on what it is fed in the chain, and one for what turns strings into ids, if any."""
    plan = bundle.plan(inputs[0])
    known = [bundle.run(bundle.values(**given)) for given in inputs]
    calls: dict[str, Callable[[], object]] = {}
    texts = [m for m in inputs[0] if bundle.manifest.inputs[m].kind == "text"]
    if texts:
        calls["tokenizer"] = _in_turn(bundle.values, [{m: given[m] for m in texts} for given in inputs])
    for part in plan:
        feeds = [{name: values[name] for name in part.input_names} for values in known]
        calls[part.name] = _run_in_turn(part.session.run, feeds)
    return calls


def _run_in_turn(run: Callable[[Any], object], feeds: Sequence[Mapping[str, Any]]) -> Callable[[], object]:
    turn = cycle(feeds)
    return lambda: run(next(turn))


if __name__ == "__main__":
    _main()
