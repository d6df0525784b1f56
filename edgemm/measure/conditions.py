"""Conditions: where the machine was not quiet or not warm while latencies were taken, in a line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from edgemm.measure.measurement import Measurements

BUSY = 1.5
"""Runnable processes per core, over the last minute, from which a machine counts as busy. Training just before, with a
thread on each core, gives about 1."""


def warnings_of(measurements: Measurements) -> list[str]:
    """The warnings that stand above every latency: a busy machine, and latencies that still drifted after warm-up.

    The run prints them and the report repeats them.
    """
    environments = measurements.environments.values()
    return [*(line for e in environments for line in busy(e.facts)), *_drifting(measurements)]


def busy(facts: Mapping[str, Any]) -> list[str]:
    """Return the warning of a busy machine, by what ``runtime.environment`` said when measuring began; else none."""
    load, cores = facts.get("load"), len(facts.get("affinity") or [])
    cores = cores or int(facts.get("cores") or 0)
    if not (load and cores and load[0] > BUSY * cores):
        return []
    return [
        f"the machine was busy when measuring began: load {load[0]:.1f} on {cores} cores; ratios were taken in turns "
        "and hold, milliseconds are those of a busy machine"
    ]


def _drifting(measurements: Measurements) -> Iterator[str]:
    for m in measurements.of("latency"):
        warm = m.details.get("warm_up")
        if warm and not warm["stable"]:
            yield (
                f"{m.variant}, {m.target}: latency still drifted after {warm['runs']} warm-up runs; all take turns, so "
                "how they compare holds, and milliseconds alone may differ on a quieter machine"
            )
