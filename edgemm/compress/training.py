"""Training: what every stage that trains is given beside its section of the recipe."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from edgemm.data import Dataset
from edgemm.stage import Context


@dataclass(frozen=True, slots=True)
class Training:
    """What a model is trained on and with.

    Args:
        dataset: whose split ``train`` is learnt from.
        context: where checkpoints and cached rows lie, and where progress is reported.
        seed: of weights, batches, augmentation and losses.
        threads: of torch; the sums of training depend on it in the last bit. 0 leaves torch's own number.
    """

    dataset: Dataset
    context: Context = field(repr=False)
    seed: int = 0
    threads: int = 0

    def set_threads(self) -> None:
        """Let torch use as many threads as were asked for."""
        if self.threads:
            torch.set_num_threads(self.threads)
