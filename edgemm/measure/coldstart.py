"""Cold start of one bundle in a process of its own: what an application pays before its first answer.

Run as ``python -m edgemm.measure.coldstart`` with a request as JSON on stdin; answers with one JSON line. It imports
the runtime alone, so time and memory are the device side's, not the workbench's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from edgemm.runtime.errors import EngineError

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class ColdStart:
    """One start, in nanoseconds (bundle files in the page cache), and the process's peak resident memory in bytes."""

    import_ns: int
    open_ns: int
    first_ns: int
    peak_bytes: int


def cold_start(bundle: Path, target: str, given: Mapping[str, str]) -> ColdStart:
    """Start the bundle in a fresh process: import, open with all parts loaded, first inference.

    Args:
        bundle: folder or zip.
        target: name of one of its targets.
        given: modality -> one raw sample, as path or string; images are decoded before the first
                inference is timed.

    Raises:
        EngineError: the process failed; the message holds the last line that it wrote.
    """
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    request = json.dumps({"bundle": str(bundle.resolve()), "target": target, "given": dict(given)})
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgemm.measure.coldstart"],
            input=request, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"target '{target}': a cold start took more than {_TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise EngineError(f"target '{target}': a cold start failed with exit code {done.returncode}: {last}")
    return ColdStart(**json.loads(done.stdout))


def _main() -> None:
    request = json.loads(sys.stdin.read())
    start = perf_counter_ns()
    from edgemm.runtime.bundle import Bundle
    from edgemm.runtime.images import decode_image

    imported = perf_counter_ns()
    bundle = Bundle.open(request["bundle"], target=request["target"])
    given: dict[str, Any] = request["given"]
    for part in bundle.plan(given):
        part.session  # noqa: B018  (loads it)
    opened = perf_counter_ns()
    for modality, raw in bundle.manifest.inputs.items():
        if raw.kind == "image" and modality in given:
            given[modality] = decode_image(given[modality], where=modality)
    decoded = perf_counter_ns()
    bundle.predict(**given)
    first = perf_counter_ns()
    answer = {
        "import_ns": imported - start,
        "open_ns": opened - imported,
        "first_ns": first - decoded,
        "peak_bytes": peak_memory_bytes(),
    }
    print(json.dumps(answer))


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
