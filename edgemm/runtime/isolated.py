"""Isolated: a bundle's golden samples in a process of their own, with limits, for bundles whose author nobody knows.

A graph is code: no check before it runs finds all that would kill, hang or flood a process. Here that process is
another one, which may take so much memory, CPU time and wall time and no more; where the system has no such limits
(Windows), wall time alone. It is no sandbox: the process may read files and open connections as any other.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from edgemm.runtime.errors import EdgemmError
from edgemm.runtime.fields import json_value

MEMORY_BYTES = 4 << 30  # of addresses, of which an engine with its threads takes one or two before any graph is loaded
MEMORY_OF_A_BYTE = 8  # more for each byte of the target's files: the file, the engine's copy, what a run takes
CPU_SECONDS = 120
WALL_SECONDS = 240.0


def compare_isolated(
    path: Path,
    *,
    target: str,
    threads: int,
    files_bytes: int,
    memory_bytes: int | None = None,
    cpu_seconds: int = CPU_SECONDS,
    wall_seconds: float = WALL_SECONDS,
) -> tuple[int, dict[str, float], list[str]]:
    """``Bundle.compare_golden`` in another process; a limit that is hit is a problem of the bundle.

    Args:
        path: of the bundle, which the other process opens.
        target: name of the target whose samples are run.
        threads: CPU threads per run.
        files_bytes: size of the target's files.
        memory_bytes: addresses that it may map; None: by that size.
        cpu_seconds, wall_seconds: that it may take.

    Raises:
        EdgemmError: the other process says that the samples cannot be run.
    """
    memory = MEMORY_BYTES + MEMORY_OF_A_BYTE * files_bytes if memory_bytes is None else memory_bytes
    asked = {"path": str(path), "target": target, "threads": threads, "memory": memory, "cpu": cpu_seconds}
    where = f"target '{target}': the golden samples, run in a process of their own,"
    with subprocess.Popen(
        # -P: without it the working folder, which may be the bundle, would be searched for modules first
        [sys.executable, "-P", "-m", "edgemm.runtime.golden_process", json.dumps(asked)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))},
    ) as child:
        try:
            said, _ = child.communicate(timeout=wall_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            return 0, {}, [f"{where} took more than {wall_seconds:g} s"]
        except BaseException:  # an interrupt
            child.kill()
            raise
    try:
        answer = json_value(said)
        error, samples = answer["error"], int(answer["samples"])
        errors = {str(name): float(value) for name, value in answer["errors"].items()}
        problems = [str(line) for line in answer["problems"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, {}, [f"{where} {_end(child.returncode, cpu_seconds)}, with at most {memory >> 20} MiB of memory"]
    if error is not None:
        raise EdgemmError(str(error))
    return samples, errors, problems


def _end(code: int, cpu_seconds: int) -> str:
    """Return how a process ended that did not answer."""
    if code in (-getattr(signal, "SIGXCPU", 0), -getattr(signal, "SIGKILL", 0)) and code:
        return f"took more than {cpu_seconds} s of CPU time, or was killed for its memory"
    with suppress(ValueError):
        return f"ended it by {signal.Signals(-code).name}"
    return f"ended it with code {code}"
