"""Race: how much longer one graph takes than another on the engine that will run them, in a process of its own.

A process that has trained, or that holds other engines' thread pools, times differently. So this module also runs as
``python -m edgemm.graph.race FOLDER ENGINE THREADS ROUNDS``, which imports the runtime alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from edgemm.runtime.disk import write_arrays
from edgemm.runtime.engines import require_engine
from edgemm.runtime.errors import EngineError
from edgemm.runtime.fields import json_value
from edgemm.runtime.session import open_session
from edgemm.runtime.timing import Ratio, paired_ratio, sample_latencies

WARM_UP = 16  # openvino compiles a model for a shape at its eighth run


def latency_ratio(
    a: bytes, b: bytes, feed: Mapping[str, np.ndarray], *, engine: str, threads: int, what: str, rounds: int = 101
) -> Ratio:
    """Return how many times as long graph ``a`` takes as graph ``b`` on one feed, timed in turns in a fresh process.

    Args:
        a, b: ONNX files.
        feed: values for the inputs of both.
        engine: ``"onnxruntime"`` or ``"openvino"``.
        threads: of one run; 0 lets the engine decide.
        what: begins a message (``"target 'cpu-int8', part 'text'"``).
        rounds: timed runs of each.

    Raises:
        EngineNotInstalled: naming the extra.
        EngineError: the engine refuses a graph or the feed.
    """
    require_engine(engine, what=what)
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    with tempfile.TemporaryDirectory(prefix="edgemm-race-") as folder:
        for name, data in (("a", a), ("b", b)):
            (Path(folder) / f"{name}.onnx").write_bytes(data)
        write_arrays(Path(folder) / "feed.npz", feed)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "edgemm.graph.race", folder, engine, str(threads), str(rounds)],
            capture_output=True, text=True, errors="replace", check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        answer = Path(folder) / "ratio.json"  # not stdout: engines print where they like
        if done.returncode != 0 or not answer.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise EngineError(f"{what}: timing int8 against float32 failed with exit code {done.returncode}: {last}")
        return Ratio(**json_value(answer.read_text()))


def _race(folder: Path, engine: str, threads: int, rounds: int) -> Ratio:
    with np.load(folder / "feed.npz", allow_pickle=False) as file:
        feed = {name: file[name] for name in file.files}
    calls: dict[str, Callable[[], object]] = {}
    for name in ("a", "b"):
        session = open_session(engine, (folder / f"{name}.onnx").read_bytes(), threads=threads, what=f"graph {name}")
        calls[name] = lambda session=session: session.run(feed)  # type: ignore[misc]
    for call in [*calls.values()] * WARM_UP:
        call()
    taken = sample_latencies(calls, min_seconds=0.0, min_samples=rounds)
    return paired_ratio(taken["a"], taken["b"])


if __name__ == "__main__":
    _folder = Path(sys.argv[1])
    _ratio = _race(_folder, sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    (_folder / "ratio.json").write_text(json.dumps(asdict(_ratio)))
