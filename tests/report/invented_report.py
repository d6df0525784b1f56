"""Reports made from invented measurements, hostile text included: their figures say nothing about any model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgemm.measure.examples import RATE, Answer, Example, Hit, thumbnail, wav
from edgemm.measure.measurement import Environment, Measurement, Measurements
from edgemm.measure.table import rows
from edgemm.report.page import write_report
from edgemm.report.run import Run, place_report

HOSTILE = "<script>alert('x')</script><img src=http://example.invalid/x.png onerror=alert(1)>{{ 7*7 }}$\\alpha$"
RUNS = [
    ("teacher", "cpu-float32", "onnxruntime", "float32", 110e6, 50e6, 0.9),
    (HOSTILE, "cpu-float32", "onnxruntime", "float32", 16e6, 5e6, 0.88),
    ("int8", "cpu-int8", "onnxruntime", "int8", 3e6, 2e6, 0.87),
    ("int8", "cpu-openvino", "openvino", "int8", 3e6, 1.7e6, 0.87),
    ("int8", "rtx", "tensorrt-rtx", "int8", 6e6, None, None),
]


def invented(kind: str) -> Measurements:
    """Measurements of a retrieval (``"ranks"``) or of a classifier (``"answers"``)."""
    rng = np.random.default_rng(0)
    here = Environment({"cpu": HOSTILE, "flags": ["avx2"], "versions": {"numpy": "2"}, "governor": None})
    found = []
    noise, luck = rng.gamma(4, 0.05, 80), rng.random(90)
    truth = rng.integers(0, 4, 90)

    def add(i: int, what: str, subject: str, unit: str, samples: object, **details: object) -> None:
        variant, target = RUNS[i][:2]
        values = tuple(float(x) for x in np.asarray(samples))
        found.append(Measurement(what, variant, target, f"{i}" * 64, subject, unit, values, here.digest, details))  # type: ignore[arg-type]

    for i, (_, _, engine, precision, size, latency, hits) in enumerate(RUNS):
        add(i, "size", "artifact", "bytes", [size], engine=engine, precision=precision, parameters=1e6, note="")
        if latency is None or hits is None:
            continue
        add(i, "latency", "end to end", "ns", latency * (1 + noise))
        for part, share in (("image", 0.6), (HOSTILE, 0.3)):
            add(i, "latency", part, "ns", latency * share * (1 + noise))
        add(i, "cold-start", "open", "ns", [2e8])
        add(i, "cold-start", "first", "ns", [1e7])
        add(i, "peak-memory", "process", "bytes", [9e7])
        clusters = [f"c{k // 3}" for k in range(90)]
        if kind == "ranks":
            for task in ("text→image", "image→text", "image→image", "image→image, teacher's gallery"):
                ranks = np.where(luck < hits, rng.integers(1, 11, 90), 40)
                add(i, "ranks", f"{HOSTILE}: {task}", "rank", ranks, split=HOSTILE, task=task, clusters=clusters)
        else:
            for task, keep in (
                ("answers", hits),
                ("text only (image shuffled)", 0.4),
                ("image only (text shuffled)", 0.2),
            ):
                add(
                    i, "answers", task, "class", np.where(luck < keep, truth, (truth + 1) % 4), split="test", task=task,
                    truth=truth.tolist(), **({"labels": [HOSTILE, "b", "c", "d"]} if task == "answers" else {}),
                    groups=[HOSTILE if k % 2 else "open" for k in range(90)], clusters=clusters,
                )  # fmt: skip
    add(0, "latency", "image decoding", "ns", [1e6] * 12)
    return Measurements({here.digest: here}, tuple(found))


def make_report(folder: Path, kind: str) -> Path:
    """A whole report with pictures and sounds; returns the file."""
    found = invented(kind)
    picture = thumbnail(np.random.default_rng(1).integers(0, 255, (40, 60, 3)).astype(np.uint8))
    sound = wav(0.5 * np.sin(np.arange(RATE // 2) * 2 * np.pi * 440 / RATE).astype(np.float32))
    seen = (Hit(picture, HOSTILE, True), Hit(picture, "other", False))
    heard = (Hit(b"", HOSTILE, False), Hit(b"", "other", True))
    examples = (
        [
            Example("", (Answer("teacher", HOSTILE, True, hits=seen), Answer("int8", "b", False, hits=seen)), HOSTILE),
            Example("", (Answer("teacher", HOSTILE, True, hits=heard, sound=sound),), HOSTILE),
            Example(HOSTILE, (Answer("teacher", "a text", True, hits=heard),), sound=sound, note=HOSTILE),
        ]
        if kind == "ranks"
        else [
            Example(HOSTILE, (Answer("teacher", HOSTILE, True), Answer("int8", "no", False)), HOSTILE, picture, sound)
        ]
    )
    write_report(
        folder / "report.html",
        title=HOSTILE,
        family="dual_encoder",
        rows=rows(found, resamples=200),
        measurements=found,
        examples=examples,
        provenance={"teacher": HOSTILE},
    )
    run = Run(
        f"edgemm run {HOSTILE}", HOSTILE, [("teach", "cached", "1 MB", HOSTILE)], [HOSTILE], f"edgemm infer {HOSTILE}"
    )
    place_report(folder / "report.html", folder / "report.html", run)
    return folder / "report.html"
