"""Outputs: how each kind of answer is learnt, in one table: its truth, its loss, and how it is distilled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from edgemm.compress import losses
from edgemm.data import Sample
from edgemm.models.model import Model
from edgemm.runtime.errors import DataError, ModelError
from edgemm.runtime.outputs import Answer, Classes, Quantity, answers_in, task_of


class Learnt(Protocol):
    """How an answer is learnt."""

    def truth(self, samples: Sequence[Sample], split: str) -> Tensor | None:
        """Return (N, ...) float32 that the answer is compared with; None where each sample's class says it all."""
        ...

    def spread(self, truth: Tensor) -> Tensor:
        """Return the unit, a scalar, that the loss sees the truth (N, ...) of all known samples in."""
        ...

    def error(
        self,
        made: Tensor,
        truth: Tensor,
        *,
        spread: Tensor,
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of an answer against the truth.

        Args:
            made: (B, classes) logits or (B, 1) quantities, float32.
            truth: (B,) int64 classes, (B, classes) zeros and ones, or (B, 1) quantities.
            spread: scalar; quantities are compared in units of it.
            weights: (classes,) of a single class.

        Returns:
            Scalar: cross-entropy, binary cross-entropy (nats) or squared error, mean over samples.
        """
        ...

    def distilled(self, student: Tensor, teacher: Tensor, *, temperature: float, spread: Tensor) -> Tensor:
        """Return how far a student's answer is from its teacher's; see ``answer_kd``."""
        ...

    def distilled_voice(self, student: Tensor, teacher: Tensor, *, temperature: float, spread: Tensor) -> Tensor:
        """Return the same of what one modality alone says; see ``voice_kd``."""
        ...


def answer_of_model(model: Model) -> tuple[str, Answer]:
    """Return the name and the kind of what a model answers. Raises ModelError where it answers nothing, or more."""
    found = answers_in(model.outputs)
    if len(found) != 1:
        raise ModelError(
            f"the model ends in {list(model.outputs)}, of which {list(found) or 'none'} are classes or a quantity; "
            "expected one that is"
        )
    return next(iter(found.items()))


def answer_kd(student: Tensor, teacher: Tensor, *, output: Answer, temperature: float, spread: Tensor) -> Tensor:
    """Return how far a student's answer is from its teacher's, by the kind of the answer.

    Args:
        student, teacher: (B, C) float32 logits, or (B, 1) quantities; the teacher's detached.
        output: what the answer is.
        temperature: > 0; of logits only.
        spread: scalar, standard deviation of the quantities, > 0; of quantities only.

    Returns:
        Scalar: nats times temperature squared, or of quantities without a unit; mean over rows.
    """
    return learnt(output).distilled(student, teacher, temperature=temperature, spread=spread)


def voice_kd(student: Tensor, teacher: Tensor, *, output: Answer, temperature: float, spread: Tensor) -> Tensor:
    """Return how far what one modality alone says is from what it says in the teacher, by the kind of the answer.

    Args:
        student, teacher: (B, C) float32 logits, or (B, 1) quantities, of one modality alone; the teacher's detached.
        output, temperature, spread: as of ``answer_kd``.

    Returns:
        Scalar: nats times temperature squared, or of quantities without a unit; mean over rows.
    """
    return learnt(output).distilled_voice(student, teacher, temperature=temperature, spread=spread)


@dataclass(frozen=True, slots=True)
class _Classes:
    answer: Classes

    def truth(self, samples: Sequence[Sample], split: str) -> Tensor | None:
        """Zeros and ones of independent classes; None of one class a sample, which ``Corpus.label`` holds."""
        self._check_labels(samples, split)
        if not self.answer.independent:
            return None
        index = {label: i for i, label in enumerate(self.answer.labels)}
        right = torch.zeros(len(samples), len(index))
        for row, sample in enumerate(samples):
            for label in sample.labels:
                right[row, index[label]] = 1
        return right

    def _check_labels(self, samples: Sequence[Sample], split: str) -> None:
        """A sample may be of no class, but not all; where they have what another task learns from, it says so."""
        task = task_of(self.answer)
        wanted, other = ("labels", "label") if self.answer.independent else ("label", "labels")
        if any(getattr(s, wanted) for s in samples):
            return
        if mistaken := next((s for s in samples if getattr(s, other)), None):
            raise DataError(
                f"split '{split}', sample '{mistaken.id}': {other} and no {wanted}, which a {task} classifier learns "
                f'from; data.columns = {{ {wanted} = "..." }} maps a column, or set another task'
            )
        raise DataError(f"split '{split}': no sample has {wanted}, which a {task} classifier learns from")

    def spread(self, truth: Tensor) -> Tensor:  # noqa: ARG002
        return torch.ones(())

    def error(
        self,
        made: Tensor,
        truth: Tensor,
        *,
        spread: Tensor,  # noqa: ARG002
        label_smoothing: float = 0.0,
        weights: Tensor | None = None,
    ) -> Tensor:
        if self.answer.independent:
            return F.binary_cross_entropy_with_logits(made, truth)
        return F.cross_entropy(
            made,
            truth,
            weight=None if weights is None else weights.to(made.device),
            label_smoothing=label_smoothing,
        )

    def distilled(self, student: Tensor, teacher: Tensor, *, temperature: float, spread: Tensor) -> Tensor:  # noqa: ARG002
        compare = losses.multi_label_kd if self.answer.independent else losses.classifier_kd
        return compare(student, teacher, temperature=temperature)

    def distilled_voice(self, student: Tensor, teacher: Tensor, *, temperature: float, spread: Tensor) -> Tensor:  # noqa: ARG002
        compare = losses.multi_label_kd if self.answer.independent else losses.unimodal_kd
        return compare(student, teacher, temperature=temperature)


@dataclass(frozen=True, slots=True)
class _Quantity:
    answer: Quantity

    def truth(self, samples: Sequence[Sample], split: str) -> Tensor:
        if lacking := next((s for s in samples if s.value is None), None):
            raise DataError(f"split '{split}', sample '{lacking.id}': no value, which a regression learns from")
        return torch.tensor([[s.value] for s in samples], dtype=torch.float32)

    def spread(self, truth: Tensor) -> Tensor:
        return truth.std().clamp(min=1e-6)

    def error(
        self,
        made: Tensor,
        truth: Tensor,
        *,
        spread: Tensor,
        label_smoothing: float = 0.0,  # noqa: ARG002
        weights: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        return F.mse_loss(made / spread, truth / spread)

    def distilled(self, student: Tensor, teacher: Tensor, *, temperature: float, spread: Tensor) -> Tensor:  # noqa: ARG002
        return F.mse_loss(student / spread, teacher / spread)

    distilled_voice = distilled


LEARNT: Mapping[str, Callable[[Any], Learnt]] = {"classes": _Classes, "quantity": _Quantity}
"""Kind of an answer -> how an answer of it is learnt."""


def learnt(answer: Answer) -> Learnt:
    """Return how an answer is learnt."""
    return LEARNT[answer.kind](answer)
