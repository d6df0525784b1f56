"""Makes ``bundle/`` beside this file: the smallest bundle of format 2 that has an output of every kind.

It was run once, when format 2 was released; the bundle is kept as it is, and every later edgemm has to open it.

    python tests/formats/v2/make.py
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import bundles

from edgemm.runtime import seal

folder = Path(__file__).parent / "bundle"
manifest = bundles.every_output(folder)
(folder / "measurements.jsonl").write_text('{"name": "part text", "latency_ns": [1, 2, 3]}\n')
seal(folder, replace(manifest, name="format-2", measurements="measurements.jsonl", provenance={"recipe": {"seed": 0}}))
