"""Objectives: the losses of a stage, tied to the feeds of student and teacher.

Each is an ``Objective`` whose only trained parameters are the student's (and small adapters or a temperature that are
thrown away afterwards), so the trainer needs to know nothing about families.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.compress import losses
from edgemm.compress.augmentation import Augmentation
from edgemm.compress.corpus import Corpus
from edgemm.compress.feeds import Feeds, fast_arithmetic
from edgemm.compress.trainer import Objective
from edgemm.models.efficientnet import EfficientNetLite
from edgemm.models.fusion import unit
from edgemm.models.model import Model
from edgemm.models.text import TextTransformer
from edgemm.recipe import DistillConfig, TeachConfig
from edgemm.runtime.errors import ModelError

EMBEDDINGS = ("image_embedding", "text_embedding")
LARGEST_SCALE = 100.0  # as in CLIP
LENGTHS = 4  # groups that the texts of a batch are sorted into by length


def augmentation_of(config: TeachConfig | DistillConfig) -> Augmentation:
    """The augmentation that a stage's section describes."""
    section = config.augment
    return Augmentation(
        zoom=section.zoom,
        shift=section.shift,
        rotate=section.rotate,
        flip=section.flip,
        colour=section.colour,
        erase=section.erase,
    )


class _Fed(Objective):
    """What every objective shares: a model fed with rows of a corpus, with augmentation where it is trained."""

    def __init__(self, feeds: Feeds, *, augmented: Augmentation, views: int, tower_rate: float) -> None:
        super().__init__()
        self.model = feeds.model
        self.feeds, self.corpus = feeds, feeds.corpus
        self.augmented, self.views, self.tower_rate = augmented, views, tower_rate

    def rates(self) -> Mapping[str, float]:
        """Towers that have learnt already move slower than what is new."""
        towers = [part.name for part in self.model.chain if part.role == "tower"]
        slow = {f"model.modules_by_part.{name}.": self.tower_rate for name in towers}
        return slow | {f"model.modules_by_part.{name}.projection.": 1.0 for name in towers}

    def inputs(
        self, rows: Tensor, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], Tensor | None, Tensor | None]:
        """Values of a batch, and the rows of its texts and the views of its images."""
        values: dict[str, Tensor] = {}
        texts: Tensor | None = None
        views: Tensor | None = None
        if self.corpus.image_row is not None and "image" in self.model.inputs:
            images = self.corpus.image_row[rows]
            views = torch.randint(self.views, (len(rows),), generator=generator)
            augment = self.augmented.draw(len(rows), generator) if self.feeds.pixels is not None else None
            values |= self.feeds.image_values(images, views=views, augment=augment)
        if self.corpus.names is not None and "text" in self.model.inputs:
            texts = self.corpus.choose_texts(rows, generator)
            values |= self.feeds.text_values(texts)
        device = next(self.model.parameters()).device
        return {name: value.to(device) for name, value in values.items()}, texts, views


class ContrastiveTeaching(_Fed):
    """InfoNCE between the embeddings of images and of their names, with a learnt temperature."""

    def __init__(self, feeds: Feeds, config: TeachConfig) -> None:
        super().__init__(feeds, augmented=augmentation_of(config), views=config.views, tower_rate=config.tower_rate)
        self.feature_dropout = config.feature_dropout
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.contrast_scale)))

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        values, _, _ = self.inputs(rows, generator)
        made = self.model(_dropped(values, self.feeds, self.feature_dropout))
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        image, text = (made[name] for name in EMBEDDINGS)
        return losses.info_nce(image, text, self.corpus.concept[rows].to(image.device), scale=scale)


class ClassifierTeaching(_Fed):
    """Cross-entropy of the logits, with label smoothing."""

    def __init__(self, feeds: Feeds, config: TeachConfig) -> None:
        super().__init__(feeds, augmented=augmentation_of(config), views=config.views, tower_rate=config.tower_rate)
        self.feature_dropout, self.label_smoothing = config.feature_dropout, config.label_smoothing

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        values, _, _ = self.inputs(rows, generator)
        logits: Tensor = self.model(_dropped(values, self.feeds, self.feature_dropout))["logits"]
        return F.cross_entropy(
            logits, self.corpus.label[rows].to(logits.device), label_smoothing=self.label_smoothing, ignore_index=-1
        )


def _dropped(values: dict[str, Tensor], feeds: Feeds, probability: float) -> dict[str, Tensor]:
    """Dropout on cached features, and on nothing else."""
    if probability == 0:
        return values
    cached = feeds.images.keys() | feeds.texts.keys()
    return {name: F.dropout(value, probability) if name in cached else value for name, value in values.items()}


class ContrastiveDistillation(_Fed):
    """Affinity mimicking, interactive contrastive, feature and plain contrastive losses, each with its weight.

    Args:
        feeds: what the student is fed.
        config: weights of the losses.
        teacher_embeddings: of the teacher, image (V, U, E) and text (U', E), unit vectors.
        teacher_features: the teacher's features before its projections, image (V, U, W) and text (U', W'), where it
            has projections of their own; compared where the student's have the same width.
        views: cached views V of each image.
    """

    def __init__(
        self,
        feeds: Feeds,
        config: DistillConfig,
        *,
        teacher_embeddings: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
        views: int,
    ) -> None:
        super().__init__(feeds, augmented=augmentation_of(config), views=views, tower_rate=config.tower_rate)
        self.config = config
        self.teacher_image, self.teacher_text = teacher_embeddings["image"], teacher_embeddings["text"]
        self.teacher_features = dict(teacher_features) if config.hidden else {}
        # pooled features share a large mean, which would hide what differs
        self.centres = {name: rows.float().flatten(0, -2).mean(0) for name, rows in self.teacher_features.items()}

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        config, corpus = self.config, self.corpus
        values, texts, views = self.inputs(rows, generator)
        assert texts is not None
        assert views is not None
        assert corpus.image_row is not None
        images, count = corpus.image_row[rows], len(rows)
        if corpus.extra:  # made-up texts ride along in the same batch of the text tower
            first = len(corpus.texts) - corpus.extra
            more = first + torch.randint(corpus.extra, (config.extra_batch,), generator=generator)
            texts = torch.cat((texts, more))
        image, image_features = self._tower("image", values)
        text, text_features = self._texts(texts)
        device = image.device
        teacher_image = self.teacher_image[views, images].float().to(device)
        teacher_text = self.teacher_text[texts].float().to(device)
        loss = image.new_zeros(())
        paired = (image, text[:count], teacher_image, teacher_text[:count])
        concept = corpus.concept[rows].to(device)
        if config.affinity:
            loss = loss + config.affinity * losses.affinity_mimicking(*paired, scale=config.affinity_scale)
        if config.interactive:
            loss = loss + config.interactive * losses.interactive_contrastive(
                *paired, concept, scale=config.contrast_scale
            )
        if config.contrastive:
            loss = loss + config.contrastive * losses.info_nce(
                image, text[:count], concept, scale=config.contrast_scale
            )
        if config.feature:
            both = losses.feature_distance(image, teacher_image) + losses.feature_distance(text, teacher_text)
            loss = loss + config.feature * both / 2
        if config.hidden:
            loss = loss + config.hidden / 2 * self._hidden("image", image_features, (views, images))
            loss = loss + config.hidden / 2 * self._hidden("text", text_features, (texts,))
        return loss

    def _texts(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings and features of (B,) texts, short and long ones apart: padding is paid for like any token."""
        device = next(self.model.parameters()).device
        lengths = self.feeds.mask[rows].sum(1) if self.feeds.mask is not None else torch.zeros(len(rows))
        order = torch.argsort(lengths, stable=True)
        made = []
        # a transformer trains in bfloat16 in half the time; convolutions would take twice as long
        with fast_arithmetic():
            for piece in order.chunk(LENGTHS):
                values = self.feeds.text_values(rows[piece])
                made.append(self._tower("text", {name: value.to(device) for name, value in values.items()}))
        back = torch.argsort(order).to(device)
        embeddings = torch.cat([embedding.float() for embedding, _ in made])[back]
        features = [found.float() for _, found in made if found is not None]
        return embeddings, torch.cat(features)[back] if features else None

    def _tower(self, modality: str, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Embeddings of one modality, and the features they are projected from where they can be had."""
        part = self.model.part(modality)
        inputs = [values[name] for name in part.signature.input_names if name in values]
        module = part.module
        if (
            self.config.hidden
            and isinstance(module, EfficientNetLite | TextTransformer)
            and module.projection is not None
        ):
            features: Tensor = module.pooled(*inputs)
            return unit(module.projection(features)), features
        made = self.model({name: values[name] for name in part.signature.input_names})
        features_of = made.get(f"{modality}_features")
        return made[f"{modality}_embedding"], features_of

    def _hidden(self, name: str, features: Tensor | None, rows: tuple[Tensor, ...]) -> Tensor:
        """Distance of centred features; nothing where the teacher has none, or a pruned student fewer."""
        teacher = self.teacher_features.get(name)
        if teacher is None or features is None or features.shape[-1] != teacher.shape[-1]:
            return torch.zeros(())
        centre = self.centres[name].to(features.device)
        return losses.feature_distance(features - centre, teacher[rows].float().to(features.device) - centre)


class ClassifierDistillation(_Fed):
    """Cross-entropy, softened Kullback-Leibler divergence to the teacher's logits, and features through adapters.

    Args:
        teacher_features: name of the student's value -> the teacher's, as rows of images (V, U, W) or texts (U', W).
        teacher: the parts of the teacher that join modalities, run on the cached features of each batch.
    """

    def __init__(
        self,
        feeds: Feeds,
        config: DistillConfig,
        *,
        teacher: Model,
        teacher_feeds: Feeds,
        views: int,
    ) -> None:
        super().__init__(feeds, augmented=augmentation_of(config), views=views, tower_rate=config.tower_rate)
        self.config = config
        self.teacher_feeds = teacher_feeds
        object.__setattr__(self, "teacher", teacher)  # no submodule: it is neither trained nor saved
        self.adapters = nn.ModuleDict()
        self.centres: dict[str, Tensor] = {}  # pooled features share a large mean, which would hide what differs
        made = {spec.name: spec for part in self.model.chain for spec in part.signature.outputs}
        for name, rows in {**teacher_feeds.images, **teacher_feeds.texts}.items():
            if config.feature and name in made:
                width = made[name].shape[-1]
                assert isinstance(width, int)
                # of one width they should be the same features, as a fusion that was inherited expects
                self.adapters[name] = nn.Linear(width, rows.shape[-1]) if width != rows.shape[-1] else nn.Identity()
                self.centres[name] = rows.float().flatten(0, -2).mean(0)

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        config, corpus = self.config, self.corpus
        device = next(self.model.parameters()).device
        made: dict[str, Tensor] = {}
        given: dict[str, Tensor] = {}
        texts: Tensor | None = None
        if corpus.image_row is not None and "image" in self.model.inputs:
            # many questions, few images: each distinct image of the batch goes through the tower once
            images, place = torch.unique(corpus.image_row[rows], return_inverse=True)
            views = torch.randint(self.views, (len(images),), generator=generator)
            augment = self.augmented.draw(len(images), generator) if self.feeds.pixels is not None else None
            values = self.feeds.image_values(images, views=views, augment=augment)
            made |= self._towers({name: value.to(device) for name, value in values.items()}, place.to(device))
            target = self.teacher_feeds.image_values(images, views=views)
            given |= {name: value[place].to(device) for name, value in target.items()}
        if corpus.names is not None and "text" in self.model.inputs:
            texts = corpus.choose_texts(rows, generator)
            made |= self._towers(
                {name: value.to(device) for name, value in self.feeds.text_values(texts).items()}, None
            )
            given |= {name: value.to(device) for name, value in self.teacher_feeds.text_values(texts).items()}
        logits = self.model(made)["logits"]
        teacher: Model = self.__dict__["teacher"]
        with torch.no_grad():
            teacher_logits = teacher(given)["logits"]
        loss: Tensor = logits.new_zeros(())
        if config.task:
            label = corpus.label[rows].to(device)
            loss = loss + config.task * F.cross_entropy(logits, label, ignore_index=-1)
        if config.kd:
            loss = loss + config.kd * losses.classifier_kd(logits, teacher_logits, temperature=config.temperature)
        if config.mixed and texts is not None:
            loss = loss + config.kd * self._mixed(made, given, len(rows), generator)
        for name, adapter in self.adapters.items():
            centre = self.centres[name].to(device)
            distance = losses.feature_distance(adapter(_pooled(made[name])) - centre, _pooled(given[name]) - centre)
            loss = loss + config.feature * distance / len(self.adapters)
        return loss

    def _towers(self, values: dict[str, Tensor], place: Tensor | None) -> dict[str, Tensor]:
        """What one modality's parts make of ``values``, with rows repeated as ``place`` (B,) says."""
        made = self.model(values)
        return {n: v if place is None else v[place] for n, v in made.items() if n not in values}

    def _mixed(
        self, made: dict[str, Tensor], given: dict[str, Tensor], count: int, generator: torch.Generator
    ) -> Tensor:
        """Divergence to the teacher on images with other samples' texts, which no label is needed for.

        The towers' outputs are used again, so it costs a run of fusion and head only.
        """
        moved = {n for part in self.model.chain if part.modality == "text" for n in part.signature.output_names}
        stay = torch.arange(count).repeat(self.config.mixed)
        move = torch.cat([torch.randperm(count, generator=generator) for _ in range(self.config.mixed)])
        student = self.model({n: value[move if n in moved else stay] for n, value in made.items()})["logits"]
        texts = self.teacher_feeds.texts
        teacher: Model = self.__dict__["teacher"]
        with torch.no_grad():
            target = teacher({n: value[move if n in texts else stay] for n, value in given.items()})["logits"]
        return losses.classifier_kd(student, target, temperature=self.config.temperature)


def _pooled(value: Tensor) -> Tensor:
    """(B, W) as it is, (B, N, W) as its mean over N."""
    return value.mean(1) if value.ndim == 3 else value


def check_widths(student: Model, teacher: Model, config: DistillConfig) -> None:
    """The losses that compare embeddings need one width.

    Raises:
        ModelError: naming both and the weights that ask for it.
    """

    def width(model: Model) -> int:
        found = {spec.name: spec.shape[-1] for part in model.chain for spec in part.signature.outputs}
        size = found[EMBEDDINGS[0]]
        assert isinstance(size, int)
        return size

    ours, theirs = width(student), width(teacher)
    if ours != theirs and (config.feature or config.interactive):
        raise ModelError(
            f"distill: the student's embeddings have {ours} dimensions, the teacher's {theirs}; set "
            f"student.embed_dim = {theirs}, or distill.feature = 0 and "
            "distill.interactive = 0 (affinity compares across widths)"
        )


def contrast_corpus(corpus: Corpus, *, stage: str) -> None:
    """A dual encoder learns from pairs. Raises ModelError where the split has no images or no texts."""
    if corpus.image_row is None or corpus.names is None:
        raise ModelError(f"{stage}: a dual encoder needs an image and a text in each sample of split 'train'")
