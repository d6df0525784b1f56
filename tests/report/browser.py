"""Chromium without a screen, asking the network for nothing: for the browser tests and the README's picture."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from install import THINGS, find_browser

__all__ = ["FLAGS", "MISSING", "find_browser"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)
MISSING = f"no chromium: {THINGS['chromium'][2]}"
