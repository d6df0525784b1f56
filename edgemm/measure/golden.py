"""Golden outputs: what each target of a bundle answers to its golden samples, kept so that a device can compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgemm.runtime.bundle import Bundle
from edgemm.runtime.disk import write_arrays
from edgemm.runtime.errors import BundleError, DeviceMissing
from edgemm.runtime.manifest import GoldenOutputs, Manifest

TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "int8": 5e-2}
"""Share of the largest output magnitude that golden outputs may be off by on another machine: engines sum in another
order (float32), and CPUs with and without VNNI round int8 products differently."""


def add_golden_outputs(folder: Path, manifest: Manifest, *, advance: Callable[[int], object] | None = None) -> Manifest:
    """Run the golden samples on every target that runs here, and write what each answers.

    Args:
        folder: a sealed bundle folder; gets one file of outputs per target, and is to be sealed again.
        manifest: its manifest, with golden samples or without.
        advance: called with 1 after each target.

    Returns:
        The manifest with the outputs of these targets and no others; a target built for another machine keeps none.

    Raises:
        BundleError: outputs that are not finite.
        EdgemmError: golden samples that a target can't run.
    """
    found: dict[str, GoldenOutputs] = {}
    for target in manifest.targets if manifest.golden else ():
        try:
            made = Bundle.open(folder, target=target.name).run_golden()
        except DeviceMissing:
            continue  # a plan for a GPU that is not here
        finally:
            if advance is not None:
                advance(1)
        tolerance: dict[str, float] = {}
        for name, values in made.items():
            if not np.isfinite(values).all():
                raise BundleError(f"target '{target.name}': output '{name}' is not finite on the golden samples")
            tolerance[name] = float(TOLERANCE[target.precision] * max(np.abs(values).max(), 1e-3))
        file = f"golden/{target.name}.npz"
        write_arrays(folder / file, made)
        found[target.name] = GoldenOutputs(file, tolerance)
    return replace(manifest, golden_outputs=found)
