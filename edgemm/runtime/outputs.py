"""Outputs: what a model answers, typed as its inputs are. Every table by kind of output has one of these kinds as key.

A model and a bundle map the name of a value to one of these records. Whoever has to do something of its own with each
kind (name an answer, choose a loss, a score, a drawing) keeps one table whose keys are ``Output.kind``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from edgemm.runtime.signature import TensorSpec

JOINT = "joint"  # the space that a model's embeddings share where nobody names it


@dataclass(frozen=True, slots=True)
class Classes:
    """One score for each class, (batch, classes) float32: logits.

    Args:
        labels: names of the classes, in order; empty where nobody has named them.
        independent: any number of classes may be right at once, and a sigmoid of each score is its probability; else
            one is, and the softmax is over all.
    """

    labels: tuple[str, ...] = ()
    independent: bool = False
    kind: Literal["classes"] = "classes"


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number for each sample, (batch, 1) float32, in the unit of the data.

    Args:
        mean, spread: mean and standard deviation of the quantities that the model was trained on; 0 and 1 where they
            are not known.
    """

    mean: float = 0.0
    spread: float = 1.0
    kind: Literal["quantity"] = "quantity"


@dataclass(frozen=True, slots=True)
class Embedding:
    """A vector for each sample, (batch, width) float32, compared by its cosine with others of its space.

    Args:
        space: name of the space; outputs of one space can be searched by one another.
    """

    space: str = JOINT
    kind: Literal["embedding"] = "embedding"


@dataclass(frozen=True, slots=True)
class Values:
    """Numbers that edgemm gives no meaning to: features of an encoder, a map of scores."""

    kind: Literal["values"] = "values"


Output = Classes | Quantity | Embedding | Values
Answer = Classes | Quantity  # learnt from a column of the data, and measured against it

VALUES: Mapping[str, str] = {"classes": "logits", "quantity": "value"}
"""Kind of an answer -> the value's name in the models that edgemm builds, and by which others are recognised."""

TASKS: Mapping[str, Answer] = {
    "single-label": Classes(),
    "multi-label": Classes(independent=True),
    "regression": Quantity(),
}
"""What a recipe calls a task -> the answer that it asks for, without labels."""


def answer_of(task: str, labels: Iterable[str] = ()) -> Answer:
    """Return the answer that a recipe's ``task`` asks for; a quantity has no labels."""
    answer = TASKS[task]
    return replace(answer, labels=tuple(labels)) if isinstance(answer, Classes) else answer


def task_of(answer: Answer) -> str:
    """Return what a recipe calls the task of an answer. Law: ``task_of(answer_of(task)) == task``."""
    plain = Quantity() if isinstance(answer, Quantity) else Classes(independent=answer.independent)
    return next(task for task, known in TASKS.items() if known == plain)


def answers_in(outputs: Mapping[str, Output]) -> dict[str, Answer]:
    """Return the outputs that answer: classes and quantities, by name, in order."""
    return {name: output for name, output in outputs.items() if isinstance(output, Classes | Quantity)}


def embeddings_in(outputs: Mapping[str, object]) -> dict[str, Embedding]:
    """Return the outputs that are embeddings, by name, in order."""
    return {name: output for name, output in outputs.items() if isinstance(output, Embedding)}


def recognised(
    specs: Iterable[TensorSpec], *, task: str | None = None, labels: Iterable[str] = ()
) -> dict[str, Output]:
    """Return the kinds of outputs that nobody has typed, by their names and axes.

    ``logits`` are classes and ``value`` is a quantity; of the others, one vector a sample is an embedding.

    Args:
        specs: of the outputs.
        task: what a recipe, a saved model or a bundle of format 1 says of its answer; None: ``"single-label"``.
        labels: of the classes.
    """
    independent = task is not None and TASKS[task] == Classes(independent=True)
    kinds: dict[str, Output] = {
        VALUES["classes"]: Classes(tuple(labels), independent),
        VALUES["quantity"]: Quantity(),
    }
    return {spec.name: kinds.get(spec.name, Embedding() if len(spec.shape) == 2 else Values()) for spec in specs}
