"""The trainer: what it resumes is what it would have been, and what goes wrong is said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
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
        self.seen: list[float] = []  # the weight before each step

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        self.steps += 1
        self.seen.append(self.linear.weight.item())
        x = rows[:, None].float() / 10
        self.frozen(x)
        loss: Tensor = ((self.linear(x) - 2 * x) ** 2).mean()
        return loss * float("nan") if self.steps == self.broken_at else loss


def fit(objective: Objective, scratch: Path, *, checkpoint_seconds: float = 20.0, **changes: float) -> None:
    values: dict[str, float] = {"epochs": 60, "batch": 4, "learning_rate": 0.1, **changes}
    schedule = Schedule(**values)  # type: ignore[arg-type]
    train_(
        objective, schedule, samples=12, seed=0, scratch=scratch, progress=Silent(), title="teach",
        checkpoint_seconds=checkpoint_seconds,
    )  # fmt: skip


def fitted(scratch: Path, *, checkpoint_seconds: float = 20.0, **changes: float) -> Line:
    torch.manual_seed(0)
    line = Line()
    fit(line, scratch, checkpoint_seconds=checkpoint_seconds, **changes)
    return line


def trained(scratch: Path, out: Path, *die_at: int) -> int:
    """Exit status of a training process, which kills itself at the given change of its scratch folder."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(scratch), str(out), *map(str, die_at)]
    return subprocess.run(command, env=environment, timeout=120).returncode


@pytest.mark.slow
def test_a_run_killed_three_times_ends_in_the_same_bits_as_an_undisturbed_one(tmp_path: Path) -> None:
    assert trained(tmp_path / "a", tmp_path / "a.safetensors") == 0
    for count in (7, 8, 9):  # before the third checkpoint, when it is written but not in place, when it is in place
        assert trained(tmp_path / "b", tmp_path / "b.safetensors", count) == -signal.SIGKILL
        assert (tmp_path / "b" / CHECKPOINT).is_file()
    assert trained(tmp_path / "b", tmp_path / "b.safetensors") == 0
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert {"net.0.weight", "net.1.running_mean"} <= load_file(tmp_path / "a.safetensors").keys()


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


@pytest.mark.parametrize("changed", [{"learning_rate": 0.05}, {"batch": 3}, {"weight_decay": 0.1}, {"ema": 0.9}])
def test_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path, changed: dict[str, float]) -> None:
    fitted(tmp_path / "shared", checkpoint_seconds=0.0, epochs=6)
    assert fitted(tmp_path / "shared", epochs=6).steps == 1  # its own: only the step after it is left
    second, alone = fitted(tmp_path / "shared", epochs=6, **changed), fitted(tmp_path / "alone", epochs=6, **changed)
    assert second.steps == alone.steps > 1
    assert torch.equal(second.linear.weight, alone.linear.weight)


def cut(data: bytes) -> bytes:
    return data[:-8]


def flipped(data: bytes) -> bytes:
    """One bit of the last tensor's last number."""
    return data[:-1] + bytes([data[-1] ^ 0x20])


def of_another_step(data: bytes) -> bytes:
    """The same file, as long as before, whose header names an earlier step."""
    assert b'"step":"17"' in data
    return data.replace(b'"step":"17"', b'"step":"12"')


@pytest.mark.parametrize("damage", [cut, flipped, of_another_step])
def test_a_damaged_checkpoint_is_passed_over_and_said(
    tmp_path: Path, damage: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(Silent, "say", lambda self, line: said.append(line))
    fitted(tmp_path / "torn", checkpoint_seconds=0.0, epochs=6)
    torn = tmp_path / "torn" / CHECKPOINT
    torn.write_bytes(damage(torn.read_bytes()))
    said.clear()
    damaged = fitted(tmp_path / "torn", epochs=6)
    assert f"teach: {torn}: damaged since it was written; training starts again" in said
    assert torch.equal(damaged.linear.weight, fitted(tmp_path / "alone", epochs=6).linear.weight)


def test_the_average_of_the_weights_is_what_is_kept(tmp_path: Path) -> None:
    plain = fitted(tmp_path / "plain", epochs=16)
    averaged = fitted(tmp_path / "averaged", epochs=16, ema=0.8)
    assert plain.seen == averaged.seen  # averaging doesn't change the way
    expected, after = plain.seen[0], [*plain.seen[1:], plain.linear.weight.item()]
    for step, weight in enumerate(after):
        decay = min(0.8, (1 + step) / (10 + step))  # the first steps count more, or the start would stay in it
        expected = decay * expected + (1 - decay) * weight
    assert averaged.linear.weight.item() == pytest.approx(expected, rel=1e-5)
    assert abs(expected - after[-1]) > 1e-3


def test_the_rate_rises_then_falls_to_nothing() -> None:
    schedule = Schedule(epochs=1, batch=1, learning_rate=1.0, warmup=0.1)
    rates = [schedule.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(1.0)
    assert rates[-1] < 1e-3
