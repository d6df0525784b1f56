"""Listings for people: runs of a store, what collecting did, what is in a bundle."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgemm.measure import as_text
from edgemm.measure.measurement import Measurements
from edgemm.measure.row import Row
from edgemm.measure.table import HOW_TIMED, Cell, blame_cells, cells, headline_score, label_lines, table_scores
from edgemm.pipeline.gc import collect, parse_size
from edgemm.pipeline.runs import list_runs
from edgemm.pipeline.store import Store
from edgemm.runtime.archive import open_archive
from edgemm.runtime.columns import screen_width, table_lines, wrapped
from edgemm.runtime.errors import StoreError
from edgemm.runtime.hints import pip_install


def print_table(
    header: Sequence[str], rows: Sequence[Sequence[str | tuple[str, str]]], *, left: int = 1, whole: int = 0
) -> None:
    """Print aligned columns, as ``runtime.columns`` lays them out; small print is dimmed on a terminal."""
    dim = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for line in table_lines(header, rows, left=left, whole=whole, dim=dim):
        print(line)
    sys.stdout.flush()


def print_results(table: Sequence[Row], measurements: Measurements) -> None:
    """The end table in short, and parts that are to blame: in columns that fit the screen.

    In short: p50 alone, and of the scores the headline's on every split. The rest is in the report, latencies by part
    among it.
    """
    header, body = cells(table, labels=False)
    scores = table_scores(table)
    first = len(header) - len(scores)
    kept = [index for index, name in enumerate(header[:first]) if not name.startswith("p90")]
    best = next((score for row in table if (score := headline_score(row))), None)
    legend = "ships: the bytes of what ships, for one target"
    if best is not None:
        same = [i for i, (_, task, metric) in enumerate(scores) if (task, metric) == (best.task, best.metric)]
        kept += [first + i for i in same]
        if len(same) > 1:  # said once, below, where every heading would repeat it
            for i in same:
                header[first + i] = f"{best.metric}, {scores[i][0]}"
            legend += f"; {best.metric}: {best.task}"
    print_cells([header[i] for i in kept], [[row[i] for i in kept] for row in body])
    for line in label_lines(table):
        print("\n".join(wrapped(line, screen_width())))
    print(legend)
    if any(row.latency for row in table):
        print("\n".join(wrapped(HOW_TIMED, screen_width())))
    header, body = blame_cells(measurements)
    if body:
        print()
        print_cells(header, body)


def print_cells(header: Sequence[str], body: Sequence[Sequence[Cell]]) -> None:
    """Print a table of cells: what is compared stands beside, or below where the screen is too narrow."""
    print_table(header, [[(cell.main, cell.small) for cell in row] for row in body])


def existing_store(path: Path, *, only_read: bool = False) -> Store:
    """Return the store in a folder that has one. Raises StoreError where there is none, instead of making one."""
    if not (path / "artifacts").is_dir():
        raise StoreError(f"{path}: no store there; give its folder with --store, or run a recipe first")
    return Store(path, only_read=only_read)


def print_runs(path: Path) -> dict[str, Any]:
    """Every run of a store: when, what, how it ended, how many stages were made and how many found; also returned."""
    listed: list[list[str | tuple[str, str]]] = []
    known = list_runs(existing_store(path, only_read=True))
    for run in known:
        stages = run.get("stages", [])
        cached = sum(bool(stage.get("cached")) for stage in stages)
        seconds = sum(float(stage.get("seconds", 0)) for stage in stages if not stage.get("cached"))
        ended = str(run.get("status", "?")) + (f": {run['error']}" if run.get("error") else "")
        listed.append(
            [
                (str(run["id"]), str(run.get("recipe", ""))),
                str(len(stages) - cached),
                str(cached),
                f"{seconds:.0f} s",
                ended,
            ]
        )
    if listed:
        print_table(["run, recipe", "made", "cached", "time", "ended"], listed, left=5, whole=1)
    else:
        print(f"{path}: no runs yet")
    return {"store": str(path), "runs": known}


def print_collected(path: Path, limit: str, *, dry_run: bool) -> dict[str, Any]:
    """Collect, say what went, and return it."""
    limit_bytes = parse_size(limit)
    done = collect(existing_store(path), limit_bytes, dry_run=dry_run)
    for entry in done.dropped:
        stage = f" of stage {entry.stage}" if entry.stage else ""
        which = f"{entry.kind}{stage}, {entry.path.name[:16]} ({as_text.size(entry.bytes)})"
        print(f"{'would drop' if dry_run else 'dropped'} {which}")
    in_use = f", {as_text.size(done.in_use)} of it in use by runs in progress" if done.in_use else ""
    print(f"{as_text.size(done.freed)} {'would be ' if dry_run else ''}freed, {as_text.size(done.left)} left{in_use}")
    dropped = [{"kind": e.kind, "stage": e.stage, "path": str(e.path), "bytes": e.bytes} for e in done.dropped]
    return {
        "dry_run": dry_run,
        "dropped": dropped,
        "freed_bytes": done.freed,
        "left_bytes": done.left,
        "in_use_bytes": done.in_use,
    }


def print_operators(path: Path) -> None:
    """The most frequent operators of a bundle's graphs: what the workbench adds to the runtime's own ``inspect``."""
    archive = open_archive(path)
    graphs = sorted({f for target in archive.manifest.targets for f in target.files.values() if f.endswith(".onnx")})
    if graphs:
        print()
        print_table(["graph", "operators"], [[file, _operators(archive.read(file))] for file in graphs], left=2)


def _operators(data: bytes) -> str:
    """Return the most frequent operators of an ONNX graph; '-' where onnx is not installed (a device)."""
    try:
        import onnx
    except ModuleNotFoundError:
        return f"- ({pip_install('onnx')})"
    try:
        graph = onnx.load_from_string(data).graph
    except Exception:  # protobuf's own, in one of two implementations
        return "- (not an ONNX graph)"
    counts = Counter(node.op_type for node in graph.node)
    most = ", ".join(f"{n} {operator}" for operator, n in counts.most_common(4))
    return f"{counts.total()}: {most}{', …' if len(counts) > 4 else ''}"
