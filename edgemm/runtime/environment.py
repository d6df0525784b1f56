"""Environment: where a measurement was taken. A latency without it can't be compared with anything."""

from __future__ import annotations

import os
import platform
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

# What decides which int8, float16 and bfloat16 kernels an engine picks.
FLAGS = (
    "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx_vnni", "avx512_bf16",
    "avx512_fp16",     "amx_tile", "amx_int8", "amx_bf16",
    "neon", "asimd", "asimdhp", "asimddp", "fphp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """JSON-able facts about this machine and process; None where the system does not say.

    Keys: date (UTC), cpu, flags, cores (logical), affinity (cores this process may use), governor, load (1, 5, 15
    minutes), memory_bytes, os, machine, python, versions (package -> version, installed ones only), omp_num_threads.
    """
    info = _cpuinfo()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": info.get("model name") or info.get("Hardware") or platform.processor() or None,
        "flags": [f for f in FLAGS if f in (info.get("flags") or info.get("Features") or "").split()],
        "cores": os.cpu_count(),
        "affinity": sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else None,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load": [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "memory_bytes": _memory(),
        "os": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {name: version for name in _packages() if (version := _version(name))},
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _packages() -> list[str]:
    """Return the packages whose versions decide what is measured."""
    from edgemm.runtime.engines import ENGINES

    engines = [engine.package for engine in ENGINES.values()]
    return ["numpy", *engines, "tokenizers", "pillow", "soundfile"]


@cache
def int8_support() -> str:
    """How this CPU multiplies int8: ``"VNNI"``, ``"int8 dot product"`` (ARM), ``"no VNNI"``, or ``"VNNI unknown"``.

    Without VNNI an x86 CPU adds two u8 x s8 products in 16 bits, where they saturate.
    """
    info = _cpuinfo()
    if not info:
        return "VNNI unknown"
    flags = info.get("flags") or info.get("Features") or ""
    return "VNNI" if "vnni" in flags else "int8 dot product" if "asimddp" in flags else "no VNNI"


def _cpuinfo() -> dict[str, str]:
    """Return the first processor's entries."""
    found: dict[str, str] = {}
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found


def _memory() -> int | None:
    for line in (_read("/proc/meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
