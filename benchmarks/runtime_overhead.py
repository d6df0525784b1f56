"""What the runtime adds to its engine: ``predict`` against the bare sessions, and its import against the engine's.

    python benchmarks/runtime_overhead.py

Both are measured against each other in one run, so that the machine's mood cancels: the first as paired ratios of
interleaved calls on a model of about 1 ms, the second as interleaved fresh processes. Prints a table; exits with 1
where a budget (1.05, 1.10 and 1.25) is exceeded beyond its interval.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import bundles
from onnx import helper

from edgemm.runtime import Bundle
from edgemm.runtime.engine_onnxruntime import ORTSession
from edgemm.runtime.manifest import ClassesEntry
from edgemm.runtime.packages import switch_off_telemetry_
from edgemm.runtime.readers import ImageInput
from edgemm.runtime.session import CheckedSession
from edgemm.runtime.timing import Ratio, paired_ratio, sample_latencies, warm_until_stable

WIDTH, DEPTH = 192, 16  # the tower below takes about 1 ms on one x86 core


def tower(rng: np.random.Generator) -> tuple[bundles.Signature, bytes]:
    """Matrix products over 64 tokens, as in a small transformer, to logits."""
    signature = bundles.signature(
        [("pixels", "float32", ("batch", 3, bundles.SIDE, bundles.SIDE))], ("logits", ("batch", len(bundles.LABELS)))
    )
    weights = {
        "tokens": np.array([0, 3, bundles.SIDE**2]),
        "first": rng.normal(size=(3, WIDTH)).astype(np.float32),
        "last": rng.normal(size=(WIDTH, len(bundles.LABELS))).astype(np.float32) / 14,
        "middle": np.array([1]),
    }
    nodes = [
        helper.make_node("Reshape", ["pixels", "tokens"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["rows"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["rows", "first"], ["x0"]),
    ]
    for i in range(DEPTH):
        weights[f"w{i}"] = rng.normal(size=(WIDTH, WIDTH)).astype(np.float32) / 14
        nodes += [
            helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"m{i}"]),
            helper.make_node("Relu", [f"m{i}"], [f"x{i + 1}"]),
        ]
    nodes.append(helper.make_node("ReduceMean", [f"x{DEPTH}", "middle"], ["pooled"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["pooled", "last"], ["logits"]))
    return signature, bundles.graph(nodes, signature, weights)


def predict_overhead(folder: Path, *, seconds: float) -> tuple[float, float, Ratio]:
    """Median of the bare sessions and of ``predict`` in ms, and their paired ratio."""
    bundles.write_bundle(
        folder,
        family="classifier",
        parts={
            "image_frontend": ("frontend", "image", bundles.image_frontend()),
            "image": ("tower", "image", tower(np.random.default_rng(0))),
        },
        inputs={"image": ImageInput()},
        outputs={"logits": ClassesEntry()},
        golden=[],
        targets=("cpu",),
    )
    bundle = Bundle.open(folder, threads=1)
    # The very sessions that the bundle holds: two sessions of one file differ by up to 12 % by where their memory lies.
    frontend, image = (_bare_session(bundle, name) for name in ("image_frontend", "image"))
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    def bare() -> object:
        return image.run(["logits"], {"pixels": frontend.run(["pixels"], {"image": pixels[None]})[0]})

    def predict() -> object:
        return bundle.predict(image=pixels).outputs

    calls: dict[str, Callable[[], object]] = {"bare": bare, "predict": predict}
    for call in calls.values():
        warm_until_stable(call)
    taken = sample_latencies(calls, min_seconds=seconds, min_samples=1000)
    return (
        float(np.median(taken["bare"])) / 1e6,
        float(np.median(taken["predict"])) / 1e6,
        paired_ratio(taken["predict"], taken["bare"]),
    )


def _bare_session(bundle: Bundle, name: str) -> Any:
    session = bundle.part(name).session
    assert isinstance(session, CheckedSession)
    assert isinstance(session.bare, ORTSession)
    return session.bare.bare


def import_overhead(statement: str, *, rounds: int) -> tuple[float, float, Ratio]:
    """Milliseconds of a fresh process that imports onnxruntime, and of one that runs ``statement``.

    Both find their bytecode, as they do where they were installed. Where PYTHONDONTWRITEBYTECODE is set (containers),
    pip has compiled onnxruntime but nobody a checkout of edgemm, and compiling it anew each time is 12 ms.
    """
    switch_off_telemetry_()  # in the environment, for both alike
    codes = {"engine": "import onnxruntime", "runtime": statement}
    taken: dict[str, list[int]] = {name: [] for name in codes}
    with tempfile.TemporaryDirectory() as bytecode:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            for name, code in codes.items():
                began = time.perf_counter_ns()
                subprocess.run([sys.executable, "-c", code], check=True, env=environment)
                taken[name].append(time.perf_counter_ns() - began)
    # the first round writes the bytecode and fills the disk cache
    engine, runtime = (np.array(taken[name][1:]) for name in ("engine", "runtime"))
    return float(np.median(engine)) / 1e6, float(np.median(runtime)) / 1e6, paired_ratio(runtime, engine)


def main() -> int:
    """Measure both, print the table."""
    with tempfile.TemporaryDirectory() as folder:
        predict = predict_overhead(Path(folder) / "bundle", seconds=8)
    bundle = "from edgemm.runtime import Bundle"
    rows = [
        ("predict against bare sessions", *predict, 1.05),
        (
            "import edgemm.runtime, against import onnxruntime",
            *import_overhead("import edgemm.runtime", rounds=15),
            1.10,
        ),
        ("  with Bundle and onnxruntime", *import_overhead(f"import onnxruntime; {bundle}", rounds=15), 1.25),
    ]
    print(f"{'':56} {'without':>10} {'with':>10} {'ratio [95 % interval]':>24} {'budget':>7}")
    over = 0
    for name, without, with_, ratio, budget in rows:
        interval = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
        print(f"{name:56} {without:7.3f} ms {with_:7.3f} ms {interval:>24} {budget:7.2f}")
        over += ratio.low > budget
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
