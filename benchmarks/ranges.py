"""Ranges of a recipe's figures over seeds and machines, for whoever quotes one.

    python benchmarks/ranges.py RECIPE [--seeds 3] [--set a.b=value ...] [--out out/ranges] [MEASUREMENTS ...]

Runs the recipe with seeds 0, 1, ... into one store, and reads the measurements that each run leaves; MEASUREMENTS are
``measurements.jsonl`` of bundles made elsewhere, on other machines say. Prints for each variant and target the lowest
and highest headline score on every split, its difference to the teacher on the same samples, bytes, and how many times
faster than the teacher each request is: ratios within one run, since milliseconds of two machines don't compare.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from edgemm.measure import as_text
from edgemm.measure.measurement import read_measurements
from edgemm.measure.row import Row
from edgemm.measure.table import headline_score, rows
from edgemm.pipeline.run import run_recipe
from edgemm.pipeline.store import default_store
from edgemm.recipe import load_recipe


def figures(table: Sequence[Row]) -> dict[tuple[str, str], float]:
    """(row, figure) -> value of every figure whose range is printed."""
    found: dict[tuple[str, str], float] = {}
    for row in table:
        name, best = f"{row.variant}, {row.target}", headline_score(row)
        found[name, "MB"] = row.size_bytes / 1e6
        for request in row.requests:
            if request.speedup is not None:
                found[name, f"times faster, {request.name}"] = request.speedup.value
        for score in row.scores:
            if best is not None and (score.task, score.metric) == (best.task, best.metric):
                scale, what = (100 if score.is_share else 1), f"{score.metric} {score.task}, {score.split}"
                found[name, what] = scale * score.estimate.value
                if score.difference is not None:
                    found[name, f"{what}, less the teacher's"] = scale * score.difference.value
    return found


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("measurements", type=Path, nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("out/ranges"))
    given = parser.parse_args()
    name = load_recipe(given.recipe, given.set).name
    read = list(given.measurements)
    for seed in range(given.seeds):
        out = given.out / f"{name}-{seed}"
        run_recipe(
            given.recipe,
            [*given.set, f"seed={seed}"],
            store=default_store(),
            out=out,
            targets=[],
            first=None,
            last=None,
        )
        read.append(out / "bundle" / "measurements.jsonl")
    taken: dict[tuple[str, str], list[float]] = {}
    for path in read:
        for key, value in figures(rows(read_measurements(path))).items():
            taken.setdefault(key, []).append(value)
    print(f"\n{len(read)} runs of {name}")
    for (row, what), values in taken.items():
        low, high = (as_text.three_figures(value) for value in (min(values), max(values)))
        print(f"{row:40} {what:60} {low} to {high}" if len(values) > 1 else f"{row:40} {what:60} {low}, once")


if __name__ == "__main__":
    main()
