"""Small disks, for what happens when one is full or read-only."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

needs_mount = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")


def mounted(folder: Path, options: str) -> bool:
    """Whether a disk in memory could be mounted on a new folder."""
    folder.mkdir()
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


def mounted_read_only(source: Path, folder: Path) -> bool:
    """Whether a folder could be shown, read-only, on a new one."""
    folder.mkdir()
    steps = (["mount", "--bind", source, folder], ["mount", "-o", "remount,bind,ro", folder])
    return all(subprocess.run(step, capture_output=True).returncode == 0 for step in steps)
