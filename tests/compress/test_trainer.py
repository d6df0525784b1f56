"""The trainer: what it resumes is what it would have been, and what goes wrong is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from edgemm.compress.trainer import CHECKPOINT, Objective, Schedule, train_
from edgemm.runtime.errors import ModelError
from edgemm.stage import Silent

SCRIPT = Path(__file__).with_name("killed_training.py")
REPOSITORY = Path(__file__).parents[2]


class Line(Objective):
    """Fits y = 2 x."""

    def __init__(self, *, broken_at: int | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.frozen = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        self.frozen.requires_grad_(False)
        self.broken_at, self.steps = broken_at, 0

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        self.steps += 1
        x = rows[:, None].float() / 10
        self.frozen(x)
        loss: Tensor = ((self.linear(x) - 2 * x) ** 2).mean()
        return loss * float("nan") if self.steps == self.broken_at else loss


def fit(objective: Objective, scratch: Path, **changes: float) -> None:
    values: dict[str, float] = {"epochs": 60, "batch": 4, "learning_rate": 0.1, **changes}
    schedule = Schedule(**values)  # type: ignore[arg-type]
    train_(objective, schedule, samples=12, seed=0, scratch=scratch, progress=Silent(), title="teach")


def start(scratch: Path, out: Path, delay: float) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(SCRIPT), str(scratch), str(out), str(delay)], env=environment
    )


def test_a_run_killed_twice_ends_in_the_same_bits_as_an_undisturbed_one(tmp_path: Path) -> None:
    undisturbed = start(tmp_path / "a", tmp_path / "a.safetensors", 0.0)
    checkpoint = tmp_path / "b" / CHECKPOINT
    last = b""
    for _ in range(2):
        process = start(tmp_path / "b", tmp_path / "b.safetensors", 0.05)
        deadline = time.monotonic() + 120
        while not (checkpoint.is_file() and checkpoint.read_bytes() != last):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.12)  # a few steps past the checkpoint
        process.send_signal(signal.SIGKILL)
        process.wait()
        last = checkpoint.read_bytes()
        assert not (tmp_path / "b.safetensors").exists()
    assert start(tmp_path / "b", tmp_path / "b.safetensors", 0.0).wait() == 0
    assert undisturbed.wait() == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_training_fits_what_can_be_fitted(tmp_path: Path) -> None:
    torch.manual_seed(0)
    line = Line()
    fit(line, tmp_path)
    assert line.linear.weight.item() == pytest.approx(2.0, abs=0.05)


def test_frozen_parts_keep_weights_and_batch_norm_statistics(tmp_path: Path) -> None:
    line = Line()
    before = {name: value.clone() for name, value in line.frozen.state_dict().items()}
    fit(line, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in line.frozen.state_dict().items())


def test_a_loss_that_is_no_number_stops_the_run_and_says_where(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"teach: the loss is nan at step 5 of 180 \(epoch 2\); lower its learning_rate"
    ):
        fit(Line(broken_at=5), tmp_path)


class Said(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.parametrize(
    ("epochs", "batch", "said"),
    [
        (2, 256, ["teach: only 2 steps (12 samples, batch 12, epochs 2); that teaches little, lower its batch or raise "
                  "its epochs"]),
        (1, 12, ["teach: only 1 step (12 samples, batch 12, epochs 1); that teaches little, lower its batch or raise "
                 "its epochs"]),
        (20, 12, []),
    ],
)  # fmt: skip
def test_few_steps_are_said_to_be_few(tmp_path: Path, epochs: int, batch: int, said: list[str]) -> None:
    progress = Said()
    schedule = Schedule(epochs=epochs, batch=batch, learning_rate=0.1)
    train_(Line(), schedule, samples=12, seed=0, scratch=tmp_path, progress=progress, title="teach")
    assert progress.lines == said


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no samples"):
        train_(
            Line(), Schedule(epochs=1, batch=4, learning_rate=0.1), samples=0, seed=0, scratch=tmp_path,
            progress=Silent(), title="teach",
        )  # fmt: skip


def test_a_checkpoint_of_another_run_or_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    scratch = tmp_path / "s"
    scratch.mkdir()
    (scratch / CHECKPOINT).write_bytes(b"torn")
    torch.manual_seed(0)
    first = Line()
    fit(first, scratch)
    torch.manual_seed(0)
    other = Line()
    fit(other, tmp_path / "other")
    assert torch.equal(first.linear.weight, other.linear.weight)


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = Line()
    fit(plain, tmp_path / "plain", epochs=2)
    torch.manual_seed(0)
    averaged = Line()
    fit(averaged, tmp_path / "averaged", epochs=2, ema=0.9)
    assert not torch.equal(plain.linear.weight, averaged.linear.weight)


def test_the_rate_rises_then_falls_to_nothing() -> None:
    schedule = Schedule(epochs=1, batch=1, learning_rate=1.0, warmup=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[-1] < 1e-3


def test_the_saved_state_is_plain_tensors(tmp_path: Path) -> None:
    script = start(tmp_path / "a", tmp_path / "a.safetensors", 0.0)
    assert script.wait() == 0
    assert {"net.0.weight", "net.1.running_mean"} <= load_file(tmp_path / "a.safetensors").keys()
