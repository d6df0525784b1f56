"""Bench: how long a bundle takes on this machine, part by part and end to end, with its environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from edgemm.runtime.bundle import Bundle
from edgemm.runtime.environment import environment
from edgemm.runtime.requests import ask, asking, requests_of
from edgemm.runtime.timing import FLOORS, Estimate, sample_latencies, summary, warm_until_stable

HOW = (
    "hot: one sample again and again, which the CPU's caches favour. A report's latencies are of several samples, in "
    "turn with the other variants, and longer; compare within one of the two"
)


def bench_bundle(bundle: Bundle, given: Mapping[str, Any], *, seconds: float, seed: int = 0) -> dict[str, Any]:
    """Time one sample, batch 1.

    Args:
        bundle: with the target and the threads to measure.
        given: raw sample per modality, as ``predict`` takes it; where empty, the first golden sample, else noise.
        seconds: least wall time of the interleaved measurement; at least 662 rounds are taken unless that would take
            ten times as long.
        seed: of noise and of the interleaving.

    Returns:
        JSON-able: bundle, target, engine, threads, sample, requests (name -> modalities given together), load_ms per
        part, ``latencies`` name -> {count, p50, p90, p99}, warm_up, environment. Decoding (file bytes to arrays) is a
        line of its own; end to end starts from arrays and strings and ends with the outputs, named where the bundle
        has labels or a gallery to search.
    """
    sample, source = _sample(bundle, given, seed)
    decoded = {modality: decoded_input(bundle, modality, raw) for modality, raw in sample.items()}
    requests = requests_of(bundle, decoded)
    if not requests:
        bundle.plan(decoded)  # raises, saying what is missing
    parts = [p for p in bundle.parts if any(p in bundle.plan(asked) for asked in requests.values())]
    load_ms = {}
    for part in parts:
        began = time.perf_counter_ns()
        part.session  # noqa: B018  loads it
        load_ms[part.name] = (time.perf_counter_ns() - began) / 1e6
    fed = {part.name: feeds for part, feeds, _ in bundle.trace(bundle.values(**decoded))}

    calls: dict[str, Callable[[], object]] = {}
    for modality, raw in sample.items():
        inline = bundle.manifest.inputs[modality].inline
        if not isinstance(raw, (str, np.ndarray)) or (isinstance(raw, str) and not inline):
            calls[f"decode {modality}"] = lambda m=modality, r=raw: bundle.values(**{m: r})  # type: ignore[misc]
        elif inline:
            calls[f"tokenize {modality}"] = lambda m=modality, r=raw: bundle.values(**{m: r})  # type: ignore[misc]
    for part in parts:
        calls[f"part {part.name}"] = lambda p=part, f=fed[part.name]: p.session.run(f)  # type: ignore[misc]
    for name, asked in requests.items():
        given_to = {m: decoded[m] for m in asked}
        made = ask(bundle, given_to)
        if searching := [name for name in made.named if name in bundle.searched]:
            calls["search"] = lambda p=made, n=searching[0]: p.matches_of(n)  # type: ignore[misc]
        calls[f"end to end, {name}"] = asking(bundle, given_to)

    warm_ups = {name: warm_until_stable(call, max_seconds=max(1.0, seconds)) for name, call in calls.items()}
    taken = sample_latencies(calls, min_seconds=seconds, min_samples=FLOORS[0.99], max_seconds=10 * seconds, seed=seed)
    return {
        "bundle": bundle.manifest.name,
        "manifest_sha256": bundle.archive.manifest_sha256,
        "target": bundle.target.name,
        "engine": bundle.target.engine,
        "threads": bundle.threads,
        "sample": source,
        "requests": {name: list(asked) for name, asked in requests.items()},
        "how": HOW,
        "load_ms": load_ms,
        "warm_up": {name: asdict(warm) for name, warm in warm_ups.items()},
        "latencies": {name: asdict(summary(samples)) for name, samples in taken.items()},
        "environment": environment(),
    }


def report_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the result as a table for a terminal; "n/a" where there are too few samples."""
    lines = [
        f"{result['bundle']}: target '{result['target']}', {result['engine']}, "
        f"threads {result['threads'] or 'by the engine'}, {result['sample']}, batch 1",
        f"{'ms [95 % interval]':32} {'p50':>24} {'p90':>24} {'p99':>24}",
    ]
    for name, row in result["latencies"].items():
        cells = " ".join(f"{_cell(row[q]):>24}" for q in ("p50", "p90", "p99"))
        drift = "" if result["warm_up"][name]["stable"] else "  still drifting after warm-up"
        lines.append(f"{name:32} {cells}{drift}")
    count = next(iter(result["latencies"].values()))["count"]
    loads = ", ".join(f"{name} {ms:.1f} ms" for name, ms in result["load_ms"].items())
    machine = result["environment"]
    lines.append(f"{count} interleaved rounds; loading: {loads}")
    lines.append(result["how"])
    lines.append(
        f"{machine['cpu'] or machine['machine']}, {machine['cores']} cores, load {(machine['load'] or ['?'])[0]}, "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    )
    return lines


def _cell(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return "n/a"
    value = Estimate(**estimate)
    return f"{value.value_ms:.3f} [{value.low_ms:.3f}, {value.high_ms:.3f}]"


def _sample(bundle: Bundle, given: Mapping[str, Any], seed: int) -> tuple[dict[str, Any], str]:
    if given:
        return dict(given), "the given sample"
    if bundle.manifest.golden:
        return bundle.golden_inputs(bundle.manifest.golden[0]), "the first golden sample"
    return _noise(bundle, seed), "noise of the usual size"


def decoded_input(bundle: Bundle, modality: str, raw: Any) -> Any:
    """The raw sample with its file decoded: what an application with a camera, a microphone or a sensor holds."""
    return bundle.manifest.inputs[modality].decoded(raw, where=modality)


def _noise(bundle: Bundle, seed: int) -> dict[str, Any]:
    """Return a sample of the usual sizes for a bundle without golden samples."""
    rng = np.random.default_rng(seed)
    taken = bundle.manifest.taken
    return {modality: raw.noise(taken, rng) for modality, raw in bundle.manifest.inputs.items()}
