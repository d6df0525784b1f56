"""Chromium without a screen, asking the network for nothing: for the browser tests and the README's picture."""

from __future__ import annotations

import shutil

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
MISSING = "no chromium; install Debian's package 'chromium' (apt-get install chromium)"


def find_browser() -> str | None:
    """Path of the first of Chromium's names that is installed."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for name in names if (found := shutil.which(name))), None)
