"""Where the time goes: a bar per variant and request, whose pieces are its parts and what end to end takes beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgemm.measure import as_text
from edgemm.measure.row import Request, Row
from edgemm.measure.table import part_cells

BETWEEN = "between the parts"
PATTERNS = ("plain", "rising", "dotted", "falling", "crossed", "upright")
"""Of neighbouring pieces, so that they differ for those who see no hue; drawn by the stylesheet."""
SMALL = 0.02  # of its bar: a part that is shorter in every bar is drawn with others of its kind as one


def time_bars(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Bars, their legend and the table of latencies; None where no part was timed.

    A bar is as long as end to end, or as its parts together where these ran side by side. What is left of end to end
    is a piece of its own.
    """
    measured = [r for r in rows if any(s.p50 for s in r.part_ms.values())]
    if not measured:
        return None
    timed = [(row, request) for row in measured for request in row.requests or (None,)]
    medians = {key: _medians(row, request) for key, (row, request) in enumerate(timed)}
    whole = {
        key: request.latency.p50.value_ms if request and request.latency.p50 else 0.0
        for key, (_, request) in enumerate(timed)
    }
    length = {key: max(whole[key], sum(parts.values())) for key, parts in medians.items()}
    names = list(dict.fromkeys(name for parts in medians.values() for name in parts))
    few = [n for n in names if all(parts.get(n, 0.0) < SMALL * length[key] for key, parts in medians.items())]
    other = f"other ({', '.join(few)})" if len(few) > 1 else ""
    colours = {n: f"var(--series-{i % 6 + 1})" for i, n in enumerate(n for n in names if not other or n not in few)}
    colours |= {other: "var(--soft)"} if other else {}
    colours |= {BETWEEN: "var(--line)"}
    patterns = {name: PATTERNS[i % len(PATTERNS)] for i, name in enumerate(colours)}
    bars = []
    for key, (row, request) in enumerate(timed):
        pieces: dict[str, float] = {}
        for name, value in medians[key].items():
            drawn = name if name in colours else other
            pieces[drawn] = pieces.get(drawn, 0.0) + value
        if (rest := whole[key] - sum(pieces.values())) > 0:
            pieces[BETWEEN] = rest
        pieces = {name: pieces[name] for name in colours if name in pieces}
        bars.append(_bar(row, request, pieces, colours, patterns, length[key]))
    used = {piece["name"] for bar in bars for piece in bar["pieces"]}
    header, body = part_cells(measured, quantiles=("p50", "p90", "p99"))
    return {
        "bars": bars,
        "legend": [
            {"name": name, "colour": colour, "pattern": patterns[name]}
            for name, colour in colours.items()
            if name in used
        ],
        "between": BETWEEN in used,
        "header": header,
        "rows": [[{"main": c.main, "small": c.small} for c in line] for line in body],
    }


def _medians(row: Row, request: Request | None) -> dict[str, float]:
    """Milliseconds of each part that a request runs, as far as the record says which."""
    taken = request.parts if request and request.parts else tuple(row.part_ms)
    return {name: s.p50.value_ms for name, s in row.part_ms.items() if s.p50 and name in taken}


def _bar(
    row: Row,
    request: Request | None,
    pieces: Mapping[str, float],
    colours: Mapping[str, str],
    patterns: Mapping[str, str],
    length: float,
) -> dict[str, Any]:
    said = [f"{name} {as_text.milliseconds(value)}" for name, value in pieces.items()]
    return {
        "name": f"{row.variant}, {row.target}{f': {request.name}' if request and request.name else ''}",
        "said": ", ".join(said),
        "pieces": [
            {
                "name": name,
                "width": f"{100 * value / length:.2f}",
                "colour": colours[name],
                "pattern": patterns[name],
                "title": title,
            }
            for (name, value), title in zip(pieces.items(), said, strict=True)
        ],
        "total": as_text.latency_p50(request.latency if request else None),
    }
