"""What verbs answer as JSON: the end table and the stages of a run, from what was measured and made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.measure.metrics import Estimate
from edgemm.measure.row import Row
from edgemm.pipeline.store import Record
from edgemm.runtime.timing import Ratio, Summary


def rows_as_json(table: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one object per row of the end table; intervals are 95 % and beside their value."""
    return [_row(row) for row in table]


def _row(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant,
        "target": row.target,
        "engine": row.engine,
        "precision": row.precision,
        "sha256": row.sha256,
        "parameters": row.parameters,
        "bytes": row.size_bytes,
        "threads": row.threads,
        "note": row.note,
        "requests": [
            {
                "name": request.name,
                "p50_ms": _milliseconds(request.latency),
                "faster": _interval(request.speedup) if request.speedup else None,
            }
            for request in row.requests
        ],
        "scores": [
            {
                "split": score.split,
                "task": score.task,
                "metric": score.metric,
                **_interval(score.estimate),
                "difference": _interval(score.difference) if score.difference else None,
            }
            for score in row.scores
        ],
    }


def _milliseconds(latency: Summary) -> dict[str, float] | None:
    p50 = latency.p50
    return {"value": p50.value_ms, "low": p50.low_ms, "high": p50.high_ms} if p50 else None


def _interval(estimate: Estimate | Ratio) -> dict[str, float]:
    return {"value": float(estimate.value), "low": float(estimate.low), "high": float(estimate.high)}


def stages_as_json(made: Mapping[str, Record]) -> list[dict[str, Any]]:
    """Return one object per stage of a run: where it lies, how large it is, how long it took when it was made."""
    return [
        {
            "node": node,
            "key": record.artifact.key,
            "path": str(record.artifact.path),
            "bytes": record.bytes,
            "seconds": record.seconds,
            "cached": record.cached,
        }
        for node, record in made.items()
    ]
