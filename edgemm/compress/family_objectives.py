"""Family objectives: how families are taught and distilled; the table of families names what is here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

from edgemm.compress.answer_objectives import AnswerDistillation, AnswerTeaching
from edgemm.compress.embedding_objectives import (
    ContrastiveTeaching,
    EmbeddingDistillation,
    IdentityTeaching,
    check_hidden,
    check_pairs,
    check_widths,
)
from edgemm.compress.objective import augmentation_of
from edgemm.compress.outputs import answer_of_model
from edgemm.compress.tower_inputs import Feeds, feeds_of, joint_answers, view_parameters
from edgemm.compress.trainer import Objective
from edgemm.compress.training import Training
from edgemm.compress.training_rows import Corpus, corpus_of, made_up_texts
from edgemm.data.dataset import UNLABELLED
from edgemm.models.inherit import token_order
from edgemm.models.model import Model
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.recipe import DistillConfig, TeachConfig
from edgemm.recipe.families import family_of
from edgemm.recipe.import_named import resolve
from edgemm.runtime.errors import ModelError

Distillation = EmbeddingDistillation | AnswerDistillation


class Distilling(Protocol):
    """What makes the objective that a student is distilled by."""

    def __call__(self, student: Model, teacher: Model, config: DistillConfig, training: Training) -> Distillation:
        """Return the objective; the student is trained in place."""


def teaching_of(family: str) -> Callable[[Feeds, TeachConfig], Objective]:
    """Return what makes the objective that a family is taught by, of the feeds of the model and the stage's section."""
    teaching: Callable[[Feeds, TeachConfig], Objective] = resolve(
        family_of(family).taught_by, what=f"family '{family}'"
    )
    return teaching


def distilling_of(family: str) -> Distilling:
    """Return what makes the objective that a family's student is distilled by."""
    distilling: Distilling = resolve(family_of(family).distilled_by, what=f"family '{family}'")
    return distilling


def contrastive(feeds: Feeds, config: TeachConfig) -> Objective:
    """Teach what belongs together, among all that a batch holds."""
    check_pairs(feeds, stage="teach")
    return ContrastiveTeaching(feeds, config)


def identities(feeds: Feeds, config: TeachConfig) -> Objective:
    """Teach which samples are of one identity."""
    feeds.corpus.require(feeds.model.inputs, stage="teach")
    return IdentityTeaching(feeds, config)


def labels(feeds: Feeds, config: TeachConfig) -> Objective:
    """Teach what each sample's answer is."""
    if not feeds.model.placeholders:
        feeds.corpus.require(feeds.model.inputs, stage="teach")
    return AnswerTeaching(feeds, config)


def embedding(student: Model, teacher: Model, config: DistillConfig, training: Training) -> EmbeddingDistillation:
    """From the embeddings that the teacher's cached towers lead to, and the features before them."""
    check_hidden(student, teacher, config)
    extra = extra_texts(teacher, training, count=config.extra_texts) if "text" in student.inputs else []
    plain, corpus = (
        corpus_of(training.dataset, extra_texts=texts, unlabelled=True, names=True) for texts in ([], extra)
    )
    check_widths(student, teacher, config)
    cached = _cached(teacher, plain, config, training)
    if len(student.inputs) > 1:
        alone = bool(config.hidden or any(config.losses("embeddings")))  # no pairs are needed for these
        check_pairs(cached, stage="distill", each=not alone)
    fed = _fed(student, corpus, config, training)
    tables = {modality: dict(rows) for modality, rows in cached.cached.items()}
    if corpus.extra:
        names = [part.name for part in teacher.chain]
        more = feeds_of(
            teacher, _only_extra(corpus), training.context, frozen=names, title="teacher, made-up texts"
        ).cached
        tables["text"] = {name: torch.cat((rows, more["text"][name])) for name, rows in tables["text"].items()}
    features = {m: rows[f"{m}_features"] for m, rows in tables.items() if f"{m}_features" in rows}
    return EmbeddingDistillation(
        fed,
        config,
        teacher_embeddings={m: _embeddings(teacher, rows, f"{m}_embedding") for m, rows in tables.items()},
        teacher_features=features,
    )


def check_joints(student: Model, teacher: Model, config: DistillConfig) -> None:
    """What joins modalities is taught, or is the teacher's already. Raises ModelError naming what is neither."""
    if config.teaches_joints:
        return
    theirs = {part.name: part.module.state_dict() for part in teacher.chain}
    for part in student.chain:
        state, same = part.module.state_dict(), theirs.get(part.name, {})
        if part.role in ("fusion", "head") and not (
            state.keys() == same.keys() and all(torch.equal(value, same[name]) for name, value in state.items())
        ):
            raise ModelError(
                f"distill: no loss teaches the student's {part.name}, and its shape is not the teacher's, so it would "
                "stay random; give distill.kd or distill.task a weight, or make [student] as wide there as [teacher]"
            )


def answering(student: Model, teacher: Model, config: DistillConfig, training: Training) -> AnswerDistillation:
    """From a teacher's cached features where it has towers of single modalities, else from its answers."""
    check_joints(student, teacher, config)
    if config.extra_texts and not any(part.role == "tower" and part.modality == "text" for part in teacher.chain):
        raise ModelError(
            "distill.extra_texts: this teacher has no text tower of its own that the student's could be compared with; "
            "set distill.extra_texts = 0"
        )
    extra = extra_texts(teacher, training, count=config.extra_texts)
    _, answer = answer_of_model(student)
    corpus = corpus_of(training.dataset, answer=answer, extra_texts=extra, unlabelled=True)
    for model in (student, teacher):
        if not model.placeholders:
            corpus.require(model.inputs, stage="distill")
    fed = _fed(student, corpus, config, training)
    if any(part.role == "tower" and part.modality is not None for part in teacher.chain):
        cached = _cached(teacher, corpus, config, training)
        return AnswerDistillation(fed, config, teacher=teacher, teacher_feeds=cached)
    answers = joint_answers(teacher, corpus, training.context, title="teacher: answers")
    return AnswerDistillation(fed, config, teacher=teacher, teacher_feeds=None, answers=answers)


def _fed(student: Model, corpus: Corpus, config: DistillConfig, training: Training) -> Feeds:
    """Return the student's feeds, of the views of each image that the teacher's outputs are cached for."""
    fed = feeds_of(student, corpus, training.context, frozen=[], title="student")
    augmented = augmentation_of(config)

    def views(count: int) -> Tensor:
        return torch.stack([view_parameters(augmented, count, v, seed=training.seed) for v in range(config.views)])

    for source in fed.sources.values() if config.views > 1 else ():
        source.show(views)
    return fed


def _cached(teacher: Model, corpus: Corpus, config: DistillConfig, training: Training) -> Feeds:
    return feeds_of(
        teacher, corpus, training.context, frozen=[part.name for part in teacher.chain], views=config.views,
        augmented=augmentation_of(config), seed=training.seed, title="teacher",
    )  # fmt: skip


def _only_extra(corpus: Corpus) -> Corpus:
    """A corpus of nothing but the extra texts; a table of its own, so that the plain one is found in the cache."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Corpus(
        corpus.texts[len(corpus.texts) - corpus.extra :], nothing, nothing,
        rows={"text": nothing},
    )  # fmt: skip


@torch.inference_mode()
def _embeddings(model: Model, cached: Mapping[str, Tensor], name: str) -> Tensor:
    """What comes after frozen towers, of their cached rows (V, U, ...) or (U, ...): (V, U, D) or (U, D) float32."""
    if name in cached:
        return cached[name].float()
    (features,) = [key for key in cached if key.endswith("_features")] or [next(iter(cached))]
    rows = cached[features]
    flat = rows.flatten(0, -2) if rows.ndim == 3 else rows
    made = [model({features: flat[i : i + 1024].float()})[name].float() for i in range(0, len(flat), 1024)]
    return torch.cat(made).reshape(*rows.shape[:-1], -1)


def extra_texts(teacher: Model, training: Training, *, count: int) -> list[str]:
    """Words like those of the training texts, and texts made up of them, without any text that is held back.

    The words are the teacher's, not the student's: one that a trimmed vocabulary has lost falls into pieces, and how
    those add up to the word is what the student has to learn.
    """
    if count == 0 or teacher.tokenizer_json is None:
        return []
    dataset = training.dataset
    trained = dataset.all_texts()
    held_back = [split for split in dataset.splits if split not in ("train", UNLABELLED)]
    evaluated = {text for split in held_back for text in dataset.all_texts(split)} - set(trained)
    vocabulary = tokenizer_from_json(teacher.tokenizer_json).get_vocab()
    order = token_order(teacher, trained) or sorted(vocabulary, key=vocabulary.__getitem__)
    words = [token for token in order if len(token) > 2 and token.isascii() and token.isalpha()]
    return made_up_texts(words[: max(1, count // 3)], trained, count=count, seed=training.seed, without=evaluated)
