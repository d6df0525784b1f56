"""A chain of three toy stages, run as a process of its own: ``python -m tests.pipeline.three_toy_stages STORE``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from edgemm.pipeline.planned_stage import PlannedStage, run_stages
from edgemm.pipeline.progress import Lines
from edgemm.pipeline.runs import running
from edgemm.pipeline.store import Store, write_json
from edgemm.stage import Artifact, Context

EPOCHS = 8
HOLD_S = 60  # a test that failed lets go


def toy_nodes(*, hold: Path | None = None, log: Path | None = None, seed: int = 0) -> list[PlannedStage]:
    """Train (resumes from scratch; goes on once ``hold`` is there), double it, and sum both."""

    def note(name: str) -> None:
        if log:
            with log.open("a") as file:
                file.write(name + "\n")

    def train(inputs: Mapping[str, Artifact], out: Path, context: Context) -> None:
        state, start = f"seed {seed}", 0
        checkpoint = context.scratch / "state.json"
        if checkpoint.exists():
            saved = json.loads(checkpoint.read_text())
            state, start = saved["state"], saved["epoch"]
        note(f"train from {start}")
        deadline = time.monotonic() + HOLD_S
        while hold and not hold.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with context.progress.task("train", total=EPOCHS) as task:
            for epoch in range(start, EPOCHS):
                state = hashlib.sha256(f"{state} {epoch}".encode()).hexdigest()
                write_json(checkpoint, {"state": state, "epoch": epoch + 1})
                task.advance()
        for index in range(4):  # several files, so that a kill can come between two
            (out / f"weights-{index}.txt").write_text(f"{state} {index}")

    def double(inputs: Mapping[str, Artifact], out: Path, context: Context) -> None:
        note("double")
        text = (inputs["model"].path / "weights-0.txt").read_text()
        (out / "sub").mkdir()
        (out / "sub" / "double.txt").write_text(text * 2)

    def join(inputs: Mapping[str, Artifact], out: Path, context: Context) -> None:
        note("join")
        (out / "join.txt").write_text(f"{inputs['a'].digest}{inputs['b'].digest}")

    return [
        PlannedStage("train", "teach", {}, {"seed": seed}, train),
        PlannedStage("double", "distill", {"model": "train"}, {}, double),
        PlannedStage("join", "pack", {"a": "train", "b": "double"}, {}, join),
    ]


def die_at(count: int, store: Path) -> None:
    """SIGKILL this process just before its ``count``-th change or opening of a file in the store."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"):
            return
        if str(store) in str(arguments[0]):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("store", type=Path)
    parser.add_argument("--hold", type=Path)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--die-at", type=int)
    given = parser.parse_args()
    if given.die_at is not None:
        die_at(given.die_at, given.store)
    store = Store(given.store)
    with running(store, "toy", recipe="toy", overrides=()) as run:
        made = run_stages(
            toy_nodes(hold=given.hold, log=given.log), store=store, run=run, progress=Lines(sys.stderr, every_s=0.0)
        )
    print(json.dumps({name: record.artifact.digest for name, record in made.items()}))


if __name__ == "__main__":
    main()
