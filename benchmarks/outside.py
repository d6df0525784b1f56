"""Full-size teachers from outside: CLIP ViT-B/32 and CLAP (HTSAT, without fusion), each part exported and run.

    python benchmarks/outside.py [clip] [clap]

Architectures are transformers' own, weights random, on one thread at batch 1 (an image of 640 x 480, 10 s of sound, 16
tokens). Memory is the peak of a fresh process: the export's holds torch and the whole checkpoint, the run's holds
onnxruntime and one graph. Latencies of torch and onnxruntime are interleaved in one process. Prints a table.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.measure.coldstart import peak_memory_bytes
from edgemm.runtime.timing import paired_ratio, sample_latencies, summary, warm_until_stable

PARTS = {"clip": ("image_frontend", "image", "text"), "clap": ("audio_frontend", "audio", "text")}
SECONDS = 6.0  # of interleaved timing, for each part


def save(folder: Path) -> dict[str, Any]:
    """What the model's owner would upload."""
    import transformers
    from tokenizers import Tokenizer, models

    if folder.name == "clip":
        model: Any = transformers.CLIPModel(transformers.CLIPConfig())
        transformers.CLIPImageProcessor().save_pretrained(folder)
    else:
        model = transformers.ClapModel(transformers.ClapConfig())
        transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    model.save_pretrained(folder)
    Tokenizer(models.WordLevel({"<pad>": 1, "<unk>": 0}, unk_token="<unk>")).save(str(folder / "tokenizer.json"))
    return {}


def _values(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model, and every value of one sample."""
    import torch
    from PIL import Image

    from edgemm.models.huggingface import model_from_hub

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    model = model_from_hub(str(folder))
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    raw = {
        "image": np.array(small.resize((640, 480), Image.Resampling.BICUBIC))[None],  # smooth, as photographs are
        "waveform": rng.normal(0, 0.1, (1, 480000)).astype(np.float32),
        "input_ids": rng.integers(4, 40000, (1, 16)),
        "attention_mask": np.ones((1, 16), np.int64),
    }
    inputs = {name for part in model.chain for name in part.signature.input_names}
    with torch.no_grad():
        return model, model({name: torch.from_numpy(value) for name, value in raw.items() if name in inputs})


def export(folder: Path, part_name: str) -> dict[str, Any]:
    """Capture one part; its gate also compares batches and lengths at both ends of their ranges."""
    from edgemm.graph.capture import capture_part
    from edgemm.graph.files import write_graph
    from edgemm.graph.parity import OnnxGraph, largest_difference

    model, values = _values(folder)
    part = model.part(part_name)
    began = time.perf_counter()
    graph = capture_part(part, values)
    seconds = time.perf_counter() - began
    path = folder / f"{part_name}.onnx"
    write_graph(graph, path)
    peak = peak_memory_bytes()
    made = OnnxGraph(path).run({n: values[n].numpy() for n in part.signature.input_names})
    error = max(largest_difference(made[n], values[n].numpy()) for n in part.signature.output_names)
    feeds = {n: values[n].numpy() for n in part.signature.input_names}
    np.savez(folder / f"{part_name}.npz", **feeds)  # type: ignore[arg-type]
    return {"seconds": seconds, "error": error, "bytes": path.stat().st_size, "export_peak": peak}


def load(folder: Path, part_name: str) -> dict[str, Any]:
    """Peak memory of a process that only runs the graph, as a device does."""
    from edgemm.runtime.engine_onnxruntime import ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / f"{part_name}.onnx"), options, providers=["CPUExecutionProvider"])
    with np.load(folder / f"{part_name}.npz") as feeds:
        session.run(None, dict(feeds))
    return {"run_peak": peak_memory_bytes()}


def latency(folder: Path) -> dict[str, Any]:
    """p50 of every part in torch and in onnxruntime, and their paired ratio."""
    import torch

    from edgemm.graph.parity import OnnxGraph

    model, values = _values(folder)
    taken: dict[str, Any] = {}
    for part in model.chain:
        graph = OnnxGraph(folder / f"{part.name}.onnx")
        feeds = {n: values[n].numpy() for n in part.signature.input_names}
        with torch.inference_mode():
            calls = {
                "torch": lambda part=part: part.run(values),
                "onnx": lambda graph=graph, feeds=feeds: graph.run(feeds),
            }
            for call in calls.values():
                warm_until_stable(call, max_seconds=3)
            ns = sample_latencies(calls, min_seconds=SECONDS, min_samples=30, max_seconds=3 * SECONDS)
        ratio, result = paired_ratio(ns["onnx"], ns["torch"]), {}
        for engine in calls:
            p50 = summary(ns[engine]).p50
            result[engine] = (p50.value_ms, p50.low_ms, p50.high_ms) if p50 else None
        taken[part.name] = {**result, "ratio": (ratio.value, ratio.low, ratio.high), "count": len(ns["onnx"])}
    return taken


def _fresh(step: str, folder: Path, *part: str) -> dict[str, Any]:
    """One step in a process of its own; its last line is the answer."""
    command = [sys.executable, __file__, "--step", step, str(folder), *part]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _interval(found: Any, digits: int) -> str:
    return "n/a" if found is None else "{:.{d}f} [{:.{d}f}, {:.{d}f}]".format(*found, d=digits)


def main(names: list[str]) -> None:
    header = f"{'part':20} {'export s':>8} {'error':>8} {'MB':>6} {'peak MB: export':>15} {'run':>5}"
    print(f"{header} {'torch p50 ms':>24} {'onnxruntime p50 ms':>24} {'ratio':>20} {'n':>5}", flush=True)
    for name in names or list(PARTS):
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / name
            _fresh("save", folder)
            rows = {part: _fresh("export", folder, part) for part in PARTS[name]}
            for part, row in rows.items():
                row |= _fresh("load", folder, part)
            times = _fresh("latency", folder)
            for part, row in rows.items():
                t = times[part]
                print(
                    f"{name + ' ' + part:20} {row['seconds']:8.1f} {row['error']:8.0e} {row['bytes'] / 1e6:6.1f} "
                    f"{row['export_peak'] / 1e6:15.0f} {row['run_peak'] / 1e6:5.0f} {_interval(t['torch'], 1):>24} "
                    f"{_interval(t['onnx'], 1):>24} {_interval(t['ratio'], 2):>20} {t['count']:5}",
                    flush=True,
                )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step, folder, *part = sys.argv[2:]
        steps = {"save": save, "export": export, "load": load, "latency": latency}
        print(json.dumps(steps[step](Path(folder), *part)))
    else:
        main(sys.argv[1:])
