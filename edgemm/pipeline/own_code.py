"""Own code: where Python looks for a factory that the user named.

Why: an installed ``edgemm`` script doesn't look in the working folder as ``python`` does, so a file beside the recipe
would not be found.
"""

from __future__ import annotations

import sys
from pathlib import Path


def look_in_(*folders: Path) -> None:
    """Add folders to ``sys.path``, last, so that a file of the user's hides no installed package."""
    for folder in folders:
        place = str(folder.resolve())
        if place not in sys.path:
            sys.path.append(place)
