"""Outputs: how each kind of answer is held against the truth, in one table.

``classes``: one class of several, or any number of independent ones. ``quantity``: a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import as_text
from edgemm.runtime.errors import DataError
from edgemm.runtime.outputs import Answer, Classes, Output, Quantity, task_of

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample

ACCURACY: Final = "accuracy"
PROBABILITY: Final = "probability of the truth"
ERROR: Final = "negative absolute error"
R_SQUARED: Final = "R²"

PerSample = NDArray[np.float64]  # (samples,)
Truth = NDArray[np.bool_] | PerSample  # (samples, classes) which are right, or (samples,) quantities
Made = NDArray[np.floating]  # (samples, classes) logits, or (samples, 1) quantities


class Scoring(Protocol):
    """How one kind of answer is measured."""

    def recorded(self) -> str:
        """Return the kind of the raw results: ``"answers"``, ``"probabilities"`` or ``"values"``; see ``Scored``."""
        ...

    def check(self, split: str, samples: Sequence[Sample]) -> None:
        """Raise DataError naming a sample without the truth."""
        ...

    def details(self, samples: Sequence[Sample]) -> dict[str, Any]:
        """Return what the raw results need to be read again: ``truth`` of each sample, and how many ``classes``."""
        ...

    def kept(self, made: Made) -> list[float]:
        """Return what is kept of an output; six figures of a probability or a quantity."""
        ...

    def truth(self, where: str, split: str, samples: Sequence[Sample]) -> Truth:
        """Return the truth as an array. Raises DataError where it is lacking, naming bundle and split (``where``)."""
        ...

    def measures(self, made: Made, truth: Truth) -> dict[str, PerSample]:
        """Return (samples,) of each measure that can be shared out among modalities; the first stands for the kind."""
        ...

    def losses(self, made: Made, samples: Sequence[Sample]) -> PerSample:
        """Return (samples,) losses; infinite where the answer has no class for the truth."""
        ...

    def right(self, measured: PerSample) -> NDArray[np.bool_]:
        """Return (samples,) which answers are right, by the first of ``measures``."""
        ...

    def said(self, made: Made, samples: Sequence[Sample]) -> list[tuple[str, str]]:
        """Return what is answered to each sample, and how sure or how wrong it is."""
        ...

    def expected(self, sample: Sample) -> str:
        """Return the truth of a sample in as_text."""
        ...


@dataclass(frozen=True, slots=True)
class _OfClasses:
    classes: Classes

    def recorded(self) -> str:
        return "probabilities" if self.classes.independent else "answers"

    def check(self, split: str, samples: Sequence[Sample]) -> None:
        if self.classes.independent:
            if not any(s.labels for s in samples):
                raise DataError(
                    f"split '{split}': no sample has labels, which a multi-label classifier is measured by"
                    f"{_mapped('labels')}"
                )
        elif all(s.label is None for s in samples):
            raise DataError(
                f"split '{split}': no sample has a label, which a classifier is measured by{_mapped('label')}"
            )
        elif empty := next((s for s in samples if s.label is None), None):
            raise DataError(f"split '{split}', sample '{empty.id}': no label, which a classifier is measured by")

    def details(self, samples: Sequence[Sample]) -> dict[str, Any]:
        classes = self.classes
        index = {label: i for i, label in enumerate(classes.labels)}
        if not classes.independent:
            return {"truth": [index.get(str(s.label), -1) for s in samples]}
        truth = [sorted(index.get(label, -1) for label in s.labels) for s in samples]
        return {"truth": truth, "classes": len(classes.labels)}

    def kept(self, made: Made) -> list[float]:
        if not self.classes.independent:
            return [float(c) for c in made.argmax(axis=1)]
        return _six_figures(_probabilities(made, independent=True))

    def truth(self, where: str, split: str, samples: Sequence[Sample]) -> Truth:  # noqa: ARG002
        classes = self.classes
        if not classes.labels or (not classes.independent and any(s.label is None for s in samples)):
            raise DataError(f"{where}: contributions need labels, in bundle and samples")
        return _one_hot(samples, classes)

    def measures(self, made: Made, truth: Truth) -> dict[str, PerSample]:
        """Accuracy and probability of the truth; of independent classes the mean over the classes."""
        independent = self.classes.independent
        p = _probabilities(made, independent=independent)
        if independent:
            return {
                ACCURACY: ((p > 0.5) == truth).mean(axis=1),
                PROBABILITY: np.where(truth, p, 1 - p).mean(axis=1),
            }
        rows = np.arange(len(p))
        return {
            ACCURACY: truth[rows, p.argmax(axis=1)].astype(np.float64),
            PROBABILITY: (p * truth).sum(axis=1),
        }

    def losses(self, made: Made, samples: Sequence[Sample]) -> PerSample:
        """Cross-entropy in nats; over independent classes its mean."""
        truth = _one_hot(samples, self.classes)
        logits = made.astype(np.float64)
        if self.classes.independent:
            per_class = np.logaddexp(0.0, np.where(truth, -logits, logits))
            return np.asarray(per_class.mean(axis=1))
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return np.asarray(np.where(truth.any(axis=1), -(log_p * truth).sum(axis=1), np.inf))

    def right(self, measured: PerSample) -> NDArray[np.bool_]:
        return np.asarray(measured == 1.0)

    def said(self, made: Made, samples: Sequence[Sample]) -> list[tuple[str, str]]:  # noqa: ARG002
        """Return the likeliest class, or every class above one half, and its probability."""
        classes = self.classes
        p = _probabilities(made, independent=classes.independent)
        if not classes.independent:
            said, sure = [classes.labels[int(i)] for i in p.argmax(axis=1)], p.max(axis=1)
        else:
            given = [[classes.labels[i] for i in np.flatnonzero(row > 0.5)] for row in p]
            said, sure = [", ".join(names) or "none" for names in given], np.where(p > 0.5, p, 1 - p).min(axis=1)
        return [(name, f"probability {q:.2f}") for name, q in zip(said, sure, strict=True)]

    def expected(self, sample: Sample) -> str:
        return ", ".join(sample.labels) if self.classes.independent else str(sample.label)


@dataclass(frozen=True, slots=True)
class _OfQuantity:
    quantity: Quantity

    def recorded(self) -> str:
        return "values"

    def check(self, split: str, samples: Sequence[Sample]) -> None:
        if all(s.value is None for s in samples):
            raise DataError(
                f"split '{split}': no sample has a value, which a regression is measured by{_mapped('value')}"
            )
        if empty := next((s for s in samples if s.value is None), None):
            raise DataError(f"split '{split}', sample '{empty.id}': no value, which a regression is measured by")

    def details(self, samples: Sequence[Sample]) -> dict[str, Any]:
        return {"truth": [s.value for s in samples]}

    def kept(self, made: Made) -> list[float]:
        return _six_figures(made)

    def truth(self, where: str, split: str, samples: Sequence[Sample]) -> Truth:  # noqa: ARG002
        self.check(split, samples)
        return _quantities(samples)

    def measures(self, made: Made, truth: Truth) -> dict[str, PerSample]:
        """Errors; and R², shared out so that its mean over the samples is R² itself.

        R² is left out where the truth has no spread.
        """
        errors = made[:, 0].astype(np.float64) - truth
        found = {ERROR: -np.abs(errors)}
        return {**found, R_SQUARED: 1 - errors**2 / truth.var()} if np.ptp(truth) else found

    def losses(self, made: Made, samples: Sequence[Sample]) -> PerSample:
        """Absolute errors."""
        return np.abs(_errors(made, samples))

    def right(self, measured: PerSample) -> NDArray[np.bool_]:
        """Return those whose error is at most the mean absolute error."""
        return np.asarray(measured >= measured.mean())

    def said(self, made: Made, samples: Sequence[Sample]) -> list[tuple[str, str]]:
        """Return the quantity, and its error with the sign."""
        said = [as_text.three_figures(float(value)) for value in made[:, 0]]
        off = [f"error {as_text.signed_figures(float(e))}" for e in _errors(made, samples)]
        return list(zip(said, off, strict=True))

    def expected(self, sample: Sample) -> str:
        return f"{sample.value:g}"


SCORING: Final[Mapping[str, Callable[[Any], Scoring]]] = {"classes": _OfClasses, "quantity": _OfQuantity}
"""Kind of an answer -> how an answer of it is measured."""


def scoring_of(answer: Answer) -> Scoring:
    """Return how an answer is measured."""
    return SCORING[answer.kind](answer)


def answer_among(outputs: Mapping[str, Output]) -> tuple[str, Answer] | None:
    """Return the name and the kind of what is answered; None where nothing is."""
    found = [(name, output) for name, output in outputs.items() if output.kind in SCORING]
    return found[0] if found else None  # type: ignore[return-value]  # the table holds answers alone


def name_of(answer: Answer) -> str:
    """Return what a model with that answer is called: ``"classifier"``, ``"regression"``."""
    if not isinstance(answer, Classes):
        return task_of(answer)
    return "multi-label classifier" if answer.independent else "classifier"


def _mapped(column: str) -> str:
    return f'; is the column called otherwise? data.columns = {{ {column} = "..." }} maps it'


def _six_figures(values: Made) -> list[float]:
    return [float(f"{x:.6g}") for x in values.astype(np.float64).reshape(-1)]


def _one_hot(samples: Sequence[Sample], classes: Classes) -> NDArray[np.bool_]:
    """(samples, classes): the right ones. A row is empty where the bundle doesn't know the answer."""
    index = {label: i for i, label in enumerate(classes.labels)}
    right = np.zeros((len(samples), len(index)), bool)
    for row, sample in zip(right, samples, strict=True):
        for label in sample.labels if classes.independent else (sample.label,):
            if label in index:
                row[index[label]] = True
    return right


def _probabilities(logits: Made, *, independent: bool) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    if independent:  # sigmoid without overflow
        return np.asarray(np.exp(-np.logaddexp(0.0, -wide)))
    return np.asarray(np.exp(wide - np.logaddexp.reduce(wide, axis=1, keepdims=True)))


def _quantities(samples: Sequence[Sample]) -> PerSample:
    return np.array([s.value for s in samples], np.float64)


def _errors(made: Made, samples: Sequence[Sample]) -> PerSample:
    """(samples,) what is predicted less what is true."""
    return np.asarray(made[:, 0].astype(np.float64) - _quantities(samples))
