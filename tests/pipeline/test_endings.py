"""What a run says at its end, beside the table: hand-made rows, one sentence for what a user must not overlook."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgemm.measure.metrics import Estimate
from edgemm.measure.row import Request, Row, Score
from edgemm.measure.table import default_row, rows
from edgemm.pipeline.listing import print_results
from edgemm.pipeline.run import far_below, over_budget
from edgemm.recipe import Recipe
from edgemm.report.headline import headline
from edgemm.runtime.arithmetic import Arithmetic, precision_label
from edgemm.runtime.timing import summary
from tests.pipeline.shapes_recipe import RECIPE
from tests.report.invented_report import HOSTILE, invented

ROOT = Path(__file__).parents[2]


def row(variant: str, recall: float, difference: float | None, *, spread: float = 0.05) -> Row:
    """A row whose R@10 is known, in a gallery in which chance finds 40 %."""
    found = Estimate(recall, recall - spread, recall + spread, 100)
    drop = None if difference is None else Estimate(difference, difference - spread, difference + spread, 100)
    score = Score("test", "text→image", "R@10", found, drop, chance=0.4)
    latency = summary(np.full(100, 1_000_000, np.int64))
    return Row(
        variant, "cpu", "onnxruntime", "int8", variant, 10, 10, 0, {}, 1, "", latency, None, {}, {}, None, (score,),
        requests=(Request("text", latency, None), Request("image", summary(np.full(100, 3_000_000, np.int64)), None)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("recall", "said"),
    [
        (0.95, None),
        (0.90, None),  # ten points are not more than ten
        (0.85, "R@10 text→image on 'test' is 15.0 points below teacher; see in which row"),
        (0.43, "R@10 text→image on 'test' is 57.0 points below teacher, no better than chance (40 %); see in which"),
    ],
)
def test_what_ships_far_below_its_teacher_is_said(recall: float, said: str | None) -> None:
    lines = far_below([row("teacher", 1.0, None), row("int8", recall, round(recall - 1, 6))])
    if said is None:
        assert lines == []
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"warning: int8, cpu: {said}")


def test_a_teacher_at_chance_is_no_yardstick() -> None:
    assert far_below([row("teacher", 0.42, None), row("int8", 0.41, -0.01)]) == []


def test_a_teacher_alone_is_not_compared() -> None:
    assert far_below([row("teacher", 0.42, None)]) == []


WIDE = """
import sys
from tests.pipeline.shapes_recipe import RECIPE
from tests.report.invented_report import invented
from edgemm.measure.table import rows
from edgemm.pipeline.listing import print_results
measurements = invented(sys.argv[1])
print_results(rows(measurements, resamples=20), measurements)
"""


def on_a_terminal(columns: int, *arguments: str) -> str:
    """What a command shows on a terminal of so many columns, without control codes."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    environment = {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, *arguments], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    shown = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not more:
            break
        shown += more
    os.close(master)
    assert process.wait() == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;]*m", "", shown.decode()).replace("\r", "")


@pytest.mark.parametrize("columns", [60, 200])
def test_the_end_table_cuts_no_name_and_breaks_no_interval(columns: int) -> None:
    shown = on_a_terminal(columns, "-c", WIDE, "answers")
    assert "…" not in shown
    for name in ("teacher", "cpu-openvino", "parameters", "accuracy"):
        assert re.search(rf"(^| ){name}( |$)", shown, re.MULTILINE)
    assert shown.count("[") == shown.count("]") == len(re.findall(r"\[[^\[\]\n]+\]", shown))
    assert max(map(len, shown.splitlines())) <= columns
    first_column = "".join(re.match(r"\S*(?: \S+)*", line)[0] for line in shown.splitlines())  # type: ignore[index]
    assert HOSTILE.replace(" ", "") in first_column.replace(" ", "")  # longer than the terminal is wide


def test_the_end_table_shows_the_headline_alone_and_no_latencies_of_parts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    measurements = invented("answers")
    print_results(rows(measurements, resamples=20), measurements)
    header, *lines = capsys.readouterr().out.splitlines()
    assert re.split(r" {2,}", header) == ["variant, target", "parameters", "ships", "p50", "faster", "accuracy"]
    assert len(lines) == 7
    assert lines[-2] == "ships: the bytes of what ships, for one target"
    assert lines[-1].startswith("p50: of several samples, in turn with the other variants; bench repeats one")


def test_what_a_target_is_in_stands_below_the_table_and_in_no_brackets_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    label = precision_label("int8", [Arithmetic(4, weights=100, int8_weights=38, macs=100, int8_macs=12)])
    measurements = invented("answers")
    table = [replace(each, label=label) if each.precision == "int8" else each for each in rows(measurements)]
    print_results(table, measurements)
    shown = capsys.readouterr().out
    assert f"* {table[-1].variant}, {table[-1].target}: int8 in 38 % of weights and 12 %" in shown
    assert f"{table[-1].target} *" in shown
    said = headline("x", table, measurements, reference=table[0], ships=default_row(table))
    assert label in said["answer"]
    assert not re.search(r"\([^()]*\(", said["answer"])


def test_a_budget_is_not_held_against_another_variant_than_what_ships() -> None:
    recipe = Recipe.model_validate({**tomllib.loads(RECIPE), "budget": {"latency_ms": 0.1, "size_bytes": 5, "drop": 1}})
    ran, built = row("pruned", 0.5, -0.4), replace(row("int8", 0.5, -0.4), latency=None, scores=(), requests=())
    assert over_budget(recipe, [row("teacher", 0.9, None), ran, built]) == [
        "budget: what ships was not run here, so its latency and accuracy are not known",
        "over budget: 10 B, allowed 5 B",
    ]
    assert far_below([row("teacher", 0.9, None), ran, built]) == []


def test_every_request_is_held_against_the_budget_by_its_name() -> None:
    recipe = Recipe.model_validate({**tomllib.loads(RECIPE), "budget": {"latency_ms": 2.5}})
    assert over_budget(recipe, [row("teacher", 0.9, None), row("int8", 0.9, 0.0)]) == [
        "over budget: p50 of image 3.00 ms, allowed 2.5 ms"
    ]


def test_a_loss_within_its_interval_is_not_called_a_difference() -> None:
    recipe = Recipe.model_validate({**tomllib.loads(RECIPE), "budget": {"drop": 1}})
    rows = [row("teacher", 0.9, None, spread=0.25), row("int8", 0.7, -0.2, spread=0.25)]
    assert over_budget(recipe, rows) == [
        "over budget: R@10 20.0 points below teacher, allowed 1.0; these samples can't tell it from no difference"
    ]
    assert far_below(rows) == []
