"""What a report says of the run that places it in the out folder: the command, stage times, the recipe, what was said.

A stored report holds none of that: it has no path and no second in it, so that the same inputs make the same bytes.
Comments stand in for it, and ``place_report`` fills them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgemm.report.evidence import cell
from edgemm.report.fill import fill, write_page

SAID = "<!--what the run said-->"
RUN = "<!--the run-->"
"""Comments of a stored report; what comes from data is escaped and can't be one."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a recipe.

    Args:
        command: the line that makes the same bundle and report again.
        recipe: text of the recipe's file.
        stages: name, time taken or ``"cached"``, size, what it makes; in order.
        said: warnings and notes that the run printed, a line each.
        ask: a line that asks the bundle.
    """

    command: str
    recipe: str = ""
    stages: Sequence[tuple[str, str, str, str]] = ()
    said: Sequence[str] = ()
    ask: str = ""


def place_report(stored: Path, out: Path, run: Run) -> None:
    """Copy a stored report to ``out``, whole or not at all, with what it says of the run."""
    write_page(out, with_run(stored.read_text(encoding="utf-8"), run))


def with_run(html: str, run: Run) -> str:
    """Return a stored report with the run in the places that are held for it."""
    shown = {
        "command": run.command,
        "recipe": run.recipe,
        "stages": [[cell(text) for text in stage] for stage in run.stages],
        "said": run.said,
        "ask": run.ask,
    }
    for mark, part in ((SAID, "said"), (RUN, "run")):
        html = html.replace(mark, fill("run.html", run=shown, part=part))
    return html
