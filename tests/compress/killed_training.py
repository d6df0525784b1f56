"""A training run for test_trainer to kill: ``killed_training.py SCRATCH OUT [DIE_AT]``.

A small network with batch norm, dropout and drawn noise, so that everything a resume could forget is in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgemm.compress.trainer import Objective, Schedule, train_
from edgemm.stage import Silent
from tests.pipeline.three_toy_stages import die_at


class Small(Objective):
    """A convolution, batch norm, dropout and a linear layer on noise drawn by the step's generator."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 36, 5)
        )
        self.data = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = 0.1 * torch.randn(len(rows), 3, 8, 8, generator=generator)
        return nn.functional.cross_entropy(self.net(self.data[rows] + noise), rows % 5)


def main(scratch: Path, out: Path) -> None:
    """Train and save the averaged weights."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    objective = Small()
    schedule = Schedule(epochs=8, batch=8, learning_rate=1e-2, ema=0.9)
    train_(
        objective,
        schedule,
        samples=40,
        seed=3,
        scratch=scratch,
        progress=Silent(),
        title="small",
        checkpoint_seconds=0.0,
    )
    save_file(dict(objective.state_dict()), str(out))


if __name__ == "__main__":
    if len(sys.argv) > 3:
        die_at(int(sys.argv[3]), Path(sys.argv[1]))
    main(Path(sys.argv[1]), Path(sys.argv[2]))
