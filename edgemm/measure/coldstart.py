"""Cold start of one bundle in a process of its own: what an application pays before its first answer.

Run by ``run_fresh``. It imports the runtime alone, so time and memory are the device side's, not the workbench's.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edgemm.measure.fresh_process import request, run_fresh

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One start, in nanoseconds (bundle files in the page cache), and the process's peak resident memory in bytes."""

    import_ns: int
    open_ns: int
    first_ns: int
    peak_bytes: int


def cold_start(bundle: Path, target: str, requests: Sequence[Mapping[str, str]], *, threads: int) -> ColdStart:
    """Start the bundle in a fresh process: import, open with all parts loaded, first inference.

    The other requests follow untimed, so that the peak of memory is that of a device which is asked all of them.

    Args:
        bundle: folder or zip.
        target: name of one of its targets.
        requests: each modality -> one raw sample, as path or string. The first request is timed; files are decoded
                before.
        threads: of the engine, the same as where its latency is measured; 0 leaves the number to the engine.

    Raises:
        EngineError: the process failed; the message holds the last line that it wrote.
    """
    answer = run_fresh(
        "edgemm.measure.coldstart",
        {
            "bundle": str(bundle.resolve()),
            "target": target,
            "threads": threads,
            "requests": [dict(given) for given in requests],
        },
        what=f"target '{target}': a cold start",
        timeout_s=_TIMEOUT_SECONDS,
    )
    return ColdStart(**answer)


def _main() -> None:
    asked, say = request()
    start = perf_counter_ns()
    from edgemm.runtime.bundle import Bundle

    imported = perf_counter_ns()
    bundle = Bundle.open(asked["bundle"], target=asked["target"], threads=asked["threads"])
    requests: list[dict[str, Any]] = asked["requests"]
    for part in (part for given in requests for part in bundle.plan(given)):
        part.session  # noqa: B018  (loads it)
    opened = perf_counter_ns()
    from edgemm.runtime.bench import decoded_input
    from edgemm.runtime.requests import ask

    requests = [{m: decoded_input(bundle, m, raw) for m, raw in given.items()} for given in requests]
    decoded = perf_counter_ns()
    ask(bundle, requests[0])
    first = perf_counter_ns()
    for given in requests[1:]:
        ask(bundle, given)
    answer = {
        "import_ns": imported - start,
        "open_ns": opened - imported,
        "first_ns": first - decoded,
        "peak_bytes": peak_memory_bytes(),
    }
    say({"answer": answer})


def peak_memory_bytes() -> int:
    """Peak resident memory of this process.

    Linux's ``VmHWM`` is preferred to ``getrusage``: the latter keeps, through fork and exec, the peak of the parent.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    _main()
