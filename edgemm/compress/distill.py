"""Stage distill: a student that starts from its teacher's weights and learns from its teacher's cached outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from edgemm.compress.corpus import Corpus, corpus_of, made_up_texts
from edgemm.compress.feeds import feeds_of
from edgemm.compress.objectives import (
    EMBEDDINGS,
    ClassifierDistillation,
    ContrastiveDistillation,
    augmentation_of,
    check_widths,
    contrast_corpus,
)
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
        ModelError: a section that contradicts itself, embeddings of different widths, a loss that is not finite.
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


def distillation(
    student: Model, teacher: Model, config: DistillConfig, *, dataset: Dataset, seed: int, context: Context
) -> ContrastiveDistillation | ClassifierDistillation:
    """The objective that distils ``student`` from ``teacher`` on split ``train``; the student is trained in place.

    Args:
        context: the teacher's outputs are looked up in, or added to, its cache.
    """
    teacher.requires_grad_(False).eval()
    for part in student.chain:
        part.module.requires_grad_(part.role != "frontend")
    dual = student.family == "dual-encoder"
    extra = _extra_texts(teacher, dataset, count=config.extra_texts, seed=seed) if dual else []
    plain = corpus_of(dataset)
    corpus = corpus_of(dataset, extra_texts=extra)
    augmented = augmentation_of(config)
    if dual:
        contrast_corpus(corpus, stage="distill")
        check_widths(student, teacher, config)
    frozen = [part.name for part in teacher.chain]
    cached = feeds_of(
        teacher, plain, context, frozen=frozen, views=config.views, augmented=augmented, seed=seed, title="teacher"
    )
    fed = feeds_of(student, corpus, context, frozen=[], title="student")
    if not dual:
        return ClassifierDistillation(fed, config, teacher=teacher, teacher_feeds=cached, views=config.views)
    texts = dict(cached.texts)
    if corpus.extra:
        more = feeds_of(teacher, _only_extra(corpus), context, frozen=frozen, title="teacher, made-up texts").texts
        texts = {name: torch.cat((rows, more[name])) for name, rows in texts.items()}
    images = [
        _embeddings(teacher, {name: rows[view] for name, rows in cached.images.items()}, EMBEDDINGS[0])
        for view in range(config.views)
    ]
    features = {
        modality: rows[f"{modality}_features"]
        for modality, rows in (("image", cached.images), ("text", texts))
        if f"{modality}_features" in rows
    }
    if config.hidden and not features:
        raise ModelError(
            "distill.hidden: the teacher has no features before its embeddings, since its projections are inside its "
            "towers; set distill.hidden = 0"
        )
    return ContrastiveDistillation(
        fed,
        config,
        teacher_embeddings={"image": torch.stack(images), "text": _embeddings(teacher, texts, EMBEDDINGS[1])},
        teacher_features=features,
        views=config.views,
    )


def _only_extra(corpus: Corpus) -> Corpus:
    """A corpus of nothing but the extra texts; a table of its own, so that the plain one is found in the cache."""
    nothing = torch.zeros(0, dtype=torch.int64)
    return Corpus((), (), corpus.texts[len(corpus.texts) - corpus.extra :], None, None, None, nothing, nothing)


@torch.inference_mode()
def _embeddings(model: Model, cached: Mapping[str, Tensor], name: str) -> Tensor:
    """Run what comes after frozen towers on their cached rows: (U, D) float32."""
    count = len(next(iter(cached.values())))
    made = [
        model({key: rows[start : start + 1024].float() for key, rows in cached.items()})[name].float()
        for start in range(0, count, 1024)
    ]
    return torch.cat(made)


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
