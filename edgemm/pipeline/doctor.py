"""Doctor: what is installed here, and what to install for the rest. Nothing is imported that takes long."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from edgemm.pipeline.listing import print_table
from edgemm.runtime.engines import ENGINES
from edgemm.runtime.hints import pip_install

_INPUTS = {
    "text": ("tokenizers", ("tokenizers",)),
    "image": ("PIL", ("Pillow",)),
    "audio": ("soundfile", ("soundfile",)),
}
_WORKBENCH = (
    "torch", "transformers", "accelerate", "datasets", "torch-pruning", "onnx", "onnx-ir", "onnxscript", "pydantic",
    "safetensors",
)  # fmt: skip


def print_doctor() -> dict[str, Any]:
    """Print the machine, the engines, the inputs and the workbench with their versions, and return them."""
    import edgemm

    python, system, cpu = sys.version.split()[0], f"{platform.system()} {platform.machine()}", _cpu()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"edgemm {edgemm.__version__}, Python {python}, {system}")
    print(f"CPU: {cpu}, {cores} cores\n")
    rows, hints = [], []
    engines = {name: (engine.package, engine.distributions) for name, engine in ENGINES.items()}
    for what, table in (("engine", engines), ("input", _INPUTS)):
        for name, (module, distributions) in table.items():
            installed = find_spec(module) is not None
            rows.append([what, name, _version(distributions[-1]) if installed else "-"])
            hints += [] if installed else [f"{name}: {pip_install(*distributions)}"]
    rows += [["workbench", distribution, _version(distribution)] for distribution in _WORKBENCH]
    if missing := [name for _, name, version in rows if name in _WORKBENCH and version == "-"]:
        hints.append(f"workbench: {pip_install(*missing)}")
    print_table(["", "name", "version"], rows, left=3)
    for number, line in enumerate(hints):
        print(f"{'           ' if number else chr(10) + 'to install '}{line}")
    packages = [
        {"what": what, "name": name, "version": None if version == "-" else version} for what, name, version in rows
    ]
    machine = {"python": python, "system": system, "cpu": cpu, "cores": cores}
    return {"edgemm": edgemm.__version__, **machine, "packages": packages, "to_install": hints}


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "-"


def _cpu() -> str:
    """Model and the flags that decide how fast int8 and bf16 are."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return platform.processor() or "unknown"
    facts = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    known = [
        flag
        for flag in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "asimddp", "i8mm")
        if flag in flags
    ]
    return f"{facts.get('model name', platform.machine())} ({', '.join(known) or 'no int8 instructions known'})"
