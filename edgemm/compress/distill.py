"""Stage distill: a student that starts from its teacher's weights and learns from its teacher's cached outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgemm.compress.answering import AnswerDistillation
from edgemm.compress.corpus import Corpus, corpus_of, made_up_texts
from edgemm.compress.embedding import EmbeddingDistillation, check_hidden, check_pairs, check_widths
from edgemm.compress.feeds import Feeds, feeds_of, joint_answers
from edgemm.compress.objectives import augmentation_of
from edgemm.compress.teach import schedule_of
from edgemm.compress.trainer import train_
from edgemm.data import Dataset
from edgemm.models.inherit import build_student, token_order
from edgemm.models.model import Model
from edgemm.models.store import load_model, save_model
from edgemm.models.tokenizer import tokenizer_from_json
from edgemm.recipe import DistillConfig, StudentSection
from edgemm.runtime.errors import ModelError
from edgemm.stage import Context, Inputs


def run(
    config: DistillConfig,
    inputs: Inputs,
    out: Path,
    context: Context,
    *,
    student: StudentSection,
    dataset: Dataset,
    family: str,
    seed: int,
    threads: int,
    factory: str | None = None,
) -> None:
    """Build the student, distil it from ``inputs["teacher"]``, and save it in ``out``.

    Args:
        factory: the Python factory that the teacher may come from; see ``load_model``.

    Raises:
        ModelError: a section that contradicts itself, embeddings of different widths, a fusion or head that nothing
            teaches, a loss that is not finite.
        DataError: samples that can't be paired or read.
    """
    torch.set_num_threads(threads)
    teacher = load_model(inputs["teacher"].path, factory=factory)
    model = build_student(
        student,
        teacher,
        family=family,
        texts=dataset.all_texts(),
        seed=seed,
        say=lambda line: context.progress.say(f"distill: {line}"),
    )
    if config.epochs:
        check_hidden(model, teacher, config)
        check_joints(model, teacher, config)
        objective = distillation(model, teacher, config, dataset=dataset, seed=seed, context=context)
        train_(
            objective,
            schedule_of(config),
            samples=len(objective.corpus),
            seed=seed,
            scratch=context.scratch,
            progress=context.progress,
            title="distill",
        )
    save_model(model, out)


def check_joints(student: Model, teacher: Model, config: DistillConfig) -> None:
    """What joins modalities is taught, or is the teacher's already. Raises ModelError naming what is neither."""
    if student.family != "fusion-classifier" or config.teaches_joints:
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


def distillation(
    student: Model, teacher: Model, config: DistillConfig, *, dataset: Dataset, seed: int, context: Context
) -> EmbeddingDistillation | AnswerDistillation:
    """The objective that distils ``student`` from ``teacher`` on split ``train``; the student is trained in place.

    Args:
        context: the teacher's outputs are looked up in, or added to, its cache.
    """
    teacher.requires_grad_(False).eval()
    for part in student.chain:
        part.module.requires_grad_(part.role != "frontend")
    if set(student.inputs) != set(teacher.inputs):
        raise ModelError(
            f"distill: the student takes {list(student.inputs)}, the teacher {list(teacher.inputs)}; expected the same"
        )
    if student.labels != teacher.labels:
        raise ModelError(
            f"distill: the student's {len(student.labels)} classes and the teacher's {len(teacher.labels)} are not the "
            "same in the same order; build the student from this teacher"
        )
    if student.family == "fusion-classifier":
        return _answering(student, teacher, config, dataset=dataset, seed=seed, context=context)
    extra = _extra_texts(teacher, dataset, count=config.extra_texts, seed=seed) if "text" in student.inputs else []
    plain, corpus = corpus_of(dataset), corpus_of(dataset, extra_texts=extra)
    check_widths(student, teacher, config)
    cached = _cached(teacher, plain, config, seed=seed, context=context)
    if student.family == "dual-encoder":
        check_pairs(cached, stage="distill")
    fed = feeds_of(student, corpus, context, frozen=[], title="student")
    tables = {modality: dict(rows) for modality, rows in cached.cached.items()}
    if corpus.extra:
        names = [part.name for part in teacher.chain]
        more = feeds_of(teacher, _only_extra(corpus), context, frozen=names, title="teacher, made-up texts").cached
        tables["text"] = {name: torch.cat((rows, more["text"][name])) for name, rows in tables["text"].items()}
    features = {m: rows[f"{m}_features"] for m, rows in tables.items() if f"{m}_features" in rows}
    return EmbeddingDistillation(
        fed,
        config,
        teacher_embeddings={m: _embeddings(teacher, rows, f"{m}_embedding") for m, rows in tables.items()},
        teacher_features=features,
    )


def _answering(
    student: Model, teacher: Model, config: DistillConfig, *, dataset: Dataset, seed: int, context: Context
) -> AnswerDistillation:
    """From a teacher's cached features where it has towers of single modalities, else from its answers."""
    if config.extra_texts and not any(part.role == "tower" and part.modality == "text" for part in teacher.chain):
        raise ModelError(
            "distill.extra_texts: this teacher has no text tower of its own that the student's could be compared with; "
            "set distill.extra_texts = 0"
        )
    extra = _extra_texts(teacher, dataset, count=config.extra_texts, seed=seed)
    corpus = corpus_of(dataset, labels=student.labels, task=student.task, extra_texts=extra)
    for model in (student, teacher):
        if not model.placeholders:
            corpus.require(model.inputs, stage="distill")
    fed = feeds_of(student, corpus, context, frozen=[], title="student")
    if any(part.role == "tower" and part.modality is not None for part in teacher.chain):
        cached = _cached(teacher, corpus, config, seed=seed, context=context)
        return AnswerDistillation(fed, config, teacher=teacher, teacher_feeds=cached)
    answers = joint_answers(teacher, corpus, context, title="teacher: answers")
    return AnswerDistillation(fed, config, teacher=teacher, teacher_feeds=None, answers=answers)


def _cached(teacher: Model, corpus: Corpus, config: DistillConfig, *, seed: int, context: Context) -> Feeds:
    return feeds_of(
        teacher, corpus, context, frozen=[part.name for part in teacher.chain], views=config.views,
        augmented=augmentation_of(config), seed=seed, title="teacher",
    )  # fmt: skip


def _only_extra(corpus: Corpus) -> Corpus:
    """A corpus of nothing but the extra texts; a table of its own, so that the plain one is found in the cache."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Corpus(
        corpus.texts[len(corpus.texts) - corpus.extra :], nothing, nothing,
        names=torch.zeros(0, 1, dtype=torch.int64), name_counts=nothing,
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


def _extra_texts(teacher: Model, dataset: Dataset, *, count: int, seed: int) -> list[str]:
    """Words like those of the training texts, and texts made up of them, without any text that is evaluated.

    The words are the teacher's, not the student's: one that a trimmed vocabulary has lost falls into pieces, and how
    those add up to the word is what the student has to learn.
    """
    if count == 0 or teacher.tokenizer_json is None:
        return []
    trained = dataset.all_texts()
    vocabulary = tokenizer_from_json(teacher.tokenizer_json).get_vocab()
    token = {i: t for t, i in vocabulary.items()}
    order = token_order(teacher, trained) or sorted(token)
    words = [token[i] for i in order if len(token[i]) > 2 and token[i].isascii() and token[i].isalpha()]
    evaluated = {text for split in dataset.splits for text in dataset.all_texts(split)} - set(trained)
    return made_up_texts(words[: max(1, count // 3)], trained, count=count, seed=seed, without=evaluated)
