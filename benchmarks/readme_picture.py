"""Take the README's picture: ``python benchmarks/readme_picture.py RUN/report.html docs/images/report.png``.

A browser draws the top of the page (answer, Pareto plot, waterfall) at twice the resolution. Needs Debian's package
``chromium``; nothing is loaded from the network, since a report stands alone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "report"))

from browser import FLAGS, MISSING, find_browser


def take_picture(report: Path, out: Path, *, width: int, height: int, scale: float, dark: bool) -> None:
    """Draw the top ``width`` by ``height`` CSS pixels of a report into a PNG file."""
    browser = find_browser()
    if browser is None:
        sys.exit(MISSING)
    if not report.is_file():
        sys.exit(f"{report}: no such file; expected the report.html of a run")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        drawn = Path(profile) / "page.png"
        subprocess.run(
            [
                browser,
                *FLAGS,
                f"--user-data-dir={profile}/profile",
                f"--blink-settings=preferredColorScheme={0 if dark else 1}",
                f"--force-device-scale-factor={scale}",
                f"--window-size={width},{height}",
                f"--screenshot={drawn}",
                report.resolve().as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )
        shutil.move(drawn, out)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="report.html of a run")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--width", type=int, default=1180, help="CSS pixels")
    parser.add_argument("--height", type=int, default=960, help="CSS pixels")
    parser.add_argument("--scale", type=float, default=1.5, help="device pixels per CSS pixel")
    parser.add_argument("--dark", action="store_true", help="the page's dark colours")
    given = parser.parse_args()
    take_picture(given.report, given.out, width=given.width, height=given.height, scale=given.scale, dark=given.dark)


if __name__ == "__main__":
    main()
