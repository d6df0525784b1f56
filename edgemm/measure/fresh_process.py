"""A fresh process for what is measured, so that nothing this one did before changes a figure.

A process that has trained differs for good: training tells the allocator to keep freed memory, which can't be undone,
and leaves thread pools and hundreds of megabytes behind. A run that trains and one that finds its models in the store
would measure different things.

The module that runs there reads its request with ``request`` and writes with the function it gets beside it: any
number of ``{"share": ..., "note": ...}``, and once ``{"answer": ...}``.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from edgemm.runtime.errors import EngineError
from edgemm.runtime.fields import json_value


def run_fresh(
    module: str,
    request: Mapping[str, Any],
    *,
    what: str,
    timeout_s: float = math.inf,
    on_progress: Callable[[float, str], None] = lambda *_: None,
) -> Any:
    """Run ``python -P -m module`` on a JSON-able request and return its answer.

    Args:
        module: one that speaks as described above.
        request: what it is asked.
        what: begins a message (``"target 'cpu-int8': a cold start"``).
        timeout_s: kill it then.
        on_progress: told the share done, 0..1, and a note.

    Raises:
        EngineError: it failed or took too long; the message holds the last line that it wrote.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    answer: Any = None
    started = monotonic()
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        ) as child,
    ):  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        timer = threading.Timer(min(timeout_s, threading.TIMEOUT_MAX), child.kill)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):  # it died at once; its exit code says so below
                child.stdin.write(json.dumps(request))
                child.stdin.close()
            for line in child.stdout:
                said = json_value(line)
                if "answer" in said:
                    answer = said["answer"]
                else:
                    on_progress(said["share"], said["note"])
            code = child.wait()
        except BaseException:
            child.kill()
            raise
        finally:
            timer.cancel()
        if monotonic() - started >= timeout_s:
            raise EngineError(f"{what} took more than {timeout_s:.0f} s")
        if code != 0 or answer is None:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"{what} failed with exit code {code}: {last}")
    return answer


def request() -> tuple[dict[str, Any], Callable[[Mapping[str, Any]], None]]:
    """In the fresh process: what is asked, and the function that writes lines of the answer.

    Standard output becomes standard error, since engines print where they like.
    """
    asked: dict[str, Any] = json_value(sys.stdin.read())
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(line: Mapping[str, Any]) -> None:
        out.write(json.dumps(line) + "\n")
        out.flush()

    return asked, say
