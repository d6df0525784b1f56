"""bfloat16: whether this CPU multiplies in bfloat16, decided without torch.

Why not torch's own answer: what a stage computes in belongs to its key, and keys are made in runs that load no torch
because everything is cached. One function decides for both, so the key can't say what the arithmetic doesn't do.
"""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

X86 = {"avx512vl", "avx512bw", "avx512dq"}
ARM = {"bf16"}


@cache
def has_bfloat16() -> bool:
    """Whether oneDNN multiplies in bfloat16 on this CPU: torch's rule, from what Linux says of it; elsewhere False."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return bfloat16_in(lines, machine=platform.machine())


def bfloat16_in(cpuinfo: list[str], *, machine: str) -> bool:
    """Return the same of the lines of a ``/proc/cpuinfo``. ``machine`` is ``"x86_64"``, ``"aarch64"`` ..."""
    name, needed = ("Features", ARM) if machine in ("aarch64", "arm64") else ("flags", X86)
    line = next((line for line in cpuinfo if line.partition(":")[0].strip() == name), "")
    return needed <= set(line.partition(":")[2].split())
