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
