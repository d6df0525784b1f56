"""Stage teach: a teacher from parts, or one that is trained already, as a model folder.

With frozen towers only projections, fusion and head learn, on features that are made once; a second run with other
settings starts from the cache and takes seconds. A tower that comes without weights is always trained.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgemm.compress.family_objectives import teaching_of
from edgemm.compress.objective import augmentation_of
from edgemm.compress.tower_inputs import feeds_of
from edgemm.compress.trainer import Schedule, train_
from edgemm.compress.training import Training
from edgemm.compress.training_rows import corpus_of
from edgemm.data import Dataset
from edgemm.models.builders import build_model
from edgemm.models.model import Model
from edgemm.models.store import save_model
from edgemm.models.structure import HasUnits
from edgemm.recipe import TeachConfig, TeacherSection, TrainingSection
from edgemm.recipe.families import family_of
from edgemm.runtime.errors import ModelError
from edgemm.runtime.outputs import Quantity, answer_of, answers_in


def run(
    config: TeachConfig,
    training: Training,
    out: Path,
    *,
    teacher: TeacherSection,
    family: str,
    task: str = "single-label",
) -> None:
    """Make the teacher and save it in ``out``.

    Args:
        teacher: its towers and what joins them, or where a trained one is.
        task: what a fusion-classifier answers; see ``outputs.TASKS``.

    Raises:
        ModelError: a section that contradicts itself, weights that don't fit, a loss that is not finite.
        DataError: samples that can't be paired or read.
    """
    training.set_threads()
    dataset = training.dataset
    model = _model(teacher, dataset, family=family, task=task, seed=training.seed)
    see_in_range_of_(model, dataset)
    teach_(model, config, training, section=teacher)
    save_model(model, out)


def _model(section: TeacherSection, dataset: Dataset, *, family: str, task: str, seed: int) -> Model:
    if section.source is not None:
        from edgemm.models.outside import teacher_from_source  # transformers takes seconds to import

        return teacher_from_source(section.source, family=family, labels=dataset.labels, task=task)
    answer = answer_of(task, dataset.labels)
    model = build_model(section, family=family, answer=answer, texts=dataset.all_texts(), seed=seed)
    answer_in_units_of_(model, dataset)
    return model


def see_in_range_of_(model: Model, dataset: Dataset) -> None:
    """Let a model read grey images of more than 8 bits in the range that the data says, in place."""
    for modality, raw in model.inputs.items():
        if dataset.grey_range is not None:
            model.inputs[modality] = raw.in_range(dataset.grey_range)


def answer_in_units_of_(model: Model, dataset: Dataset) -> None:
    """Let every head of a regression answer about the mean of the training samples' quantities, in place.

    In units of their spread; a head that has units already, inherited from a teacher, keeps them.
    """
    values = torch.tensor([s.value for s in dataset.split("train") if s.value is not None], dtype=torch.float64)
    if len(values):
        mean, spread = float(values.mean()), float(values.std(correction=0)) or 1.0
        for name, output in model.outputs.items():
            if output == Quantity():
                model.outputs[name] = Quantity(mean, spread)
    for part in model.chain:
        if isinstance(part.module, HasUnits) and len(values):
            part.module.set_units_(mean, spread)


def teach_(model: Model, config: TeachConfig, training: Training, *, section: TeacherSection) -> None:
    """Train ``model`` in place on split ``train``: contrastively, or for its labels.

    Args:
        section: which of the towers come with weights, and can be frozen.
    """
    frozen = {part.name for part in model.chain if part.role == "frontend"}
    if config.freeze == "towers":
        towers = {} if section.source else section.towers
        random = [modality for modality, tower in towers.items() if tower.weights is None]
        frozen |= {part.name for part in model.chain if part.role == "tower" and part.modality not in random}
        if random and config.epochs:
            training.context.progress.say(
                f"teach: trained, since there are no weights to keep: the tower of {', '.join(random)}"
            )
    for part in model.chain:
        part.module.requires_grad_(part.name not in frozen)
    if config.epochs == 0:
        return
    if not any(p.requires_grad for p in model.parameters()):
        raise ModelError(
            "teach: nothing to learn, every part is a frozen tower; set teach.epochs = 0 to take the teacher as it is, "
            "or teach.freeze = 'none' to train it"
        )
    # any text of a label is as good as a sample's own, where texts are searched for; a classifier's are questions
    names = not family_of(model.family).answers
    answer = next(iter(answers_in(model.outputs).values()), None)
    corpus = corpus_of(training.dataset, answer=answer, names=names)
    feeds = feeds_of(
        model, corpus, training.context, frozen=frozen, views=config.views, augmented=augmentation_of(config),
        seed=training.seed, title="teacher",
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):  # what the losses draw for themselves depends on the seed alone
        torch.manual_seed(training.seed)
        objective = teaching_of(model.family)(feeds, config)
    train_(
        objective,
        schedule_of(config),
        samples=len(corpus),
        seed=training.seed,
        scratch=training.context.scratch,
        progress=training.context.progress,
        title="teach",
    )


def schedule_of(config: TrainingSection) -> Schedule:
    """Return the trainer's schedule from a stage's section."""
    return Schedule(
        epochs=config.epochs,
        batch=config.batch,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup=config.warmup,
        clip=config.clip,
        ema=config.ema,
    )
