"""Objectives of models that end in embeddings: dual encoders of two or more towers, and embedders of one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from edgemm.compress import losses
from edgemm.compress.objective import LARGEST_SCALE, Drawn, Fed, weighted
from edgemm.compress.tower_inputs import Feeds, fast_arithmetic
from edgemm.models.heads import unit
from edgemm.models.model import Model
from edgemm.models.structure import features_before
from edgemm.recipe import DistillConfig, TeachConfig
from edgemm.runtime.errors import DataError, ModelError
from edgemm.runtime.outputs import embeddings_in

LENGTHS = 4  # groups that the texts of a batch are sorted into by length
FEWEST = 2  # samples that a contrastive loss needs


def check_pairs(feeds: Feeds, *, stage: str, each: bool = True) -> None:
    """A dual encoder learns from pairs.

    Args:
        each: whether nothing but its pairs teaches a modality.

    Raises:
        DataError: no two modalities come together, or with ``each`` one that never comes with another.
    """
    everything = torch.arange(len(feeds.corpus))
    modalities = feeds.modalities
    if lacking := [m for m in feeds.model.inputs if m not in modalities]:
        raise DataError(f"{stage}: no sample of {feeds.corpus.where} has '{lacking[0]}', which the model learns from")
    present = {m: feeds.corpus.present(m, everything) for m in modalities}
    couples = itertools.combinations(modalities, 2)
    paired = {m for a, b in couples if int((present[a] & present[b]).sum()) >= FEWEST for m in (a, b)}
    if not paired:
        raise DataError(
            f"{stage}: a dual encoder needs samples of {feeds.corpus.where} that have two of {list(modalities)}"
        )
    if each and (lone := [m for m in modalities if m not in paired]):
        raise DataError(
            f"{stage}: '{lone[0]}' comes with no other modality in {feeds.corpus.where}, so nothing teaches it; give "
            f"{FEWEST} samples or more that have both, or leave its tower out"
        )


def pairs(drawn: Mapping[str, Drawn]) -> Iterator[tuple[str, str, Tensor]]:
    """Every two modalities and the (B,) bool of the samples that have both, where there are enough to contrast."""
    for a, b in itertools.combinations(drawn, 2):
        both = drawn[a].present & drawn[b].present
        if int(both.sum()) >= FEWEST:
            yield a, b, both


class ContrastiveTeaching(Fed):
    """InfoNCE between the embeddings of every two modalities of a sample, with a learnt temperature."""

    def __init__(self, feeds: Feeds, config: TeachConfig) -> None:
        super().__init__(feeds, config)
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.contrast_scale)))

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        drawn = self.draw(rows, generator)
        made = {m: self._embedding(m, one, generator) for m, one in drawn.items()}
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        concept = self.corpus.concept[rows].to(self.device)
        found = [
            self.between(made[a][both], made[b][both], concept[both.to(concept.device)], scale)
            for a, b, both in pairs(drawn)
        ]
        return torch.stack(found).mean() if found else scale * 0

    def between(self, a: Tensor, b: Tensor, concept: Tensor, scale: Tensor) -> Tensor:
        """Return the loss of two modalities' unit vectors (n, D) of the same samples, whose concepts are (n,)."""
        return losses.info_nce(a, b, concept, scale=scale)

    def _embedding(self, modality: str, one: Drawn, generator: torch.Generator) -> Tensor:
        """(B, D), rows of samples without the modality zero."""
        there = one.present.nonzero().flatten()
        if len(there) == 0:
            return torch.zeros(len(one.items), embedding_width(self.model), device=self.device)
        made = self.through(modality, one.items[there], one.views[there], generator, self.model)
        return scattered(made[f"{modality}_embedding"], there, len(one.items))


class IdentityTeaching(Fed):
    """Angular-margin classification of identities, whose prototypes are thrown away afterwards."""

    def __init__(self, feeds: Feeds, config: TeachConfig) -> None:
        super().__init__(feeds, config)
        self.margin, self.scale = config.margin, config.contrast_scale
        (self.modality,) = feeds.modalities
        self.prototypes = nn.Parameter(torch.randn(int(self.corpus.concept.max()) + 1, embedding_width(self.model)))

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        one = self.draw(rows, generator)[self.modality]
        made = self.through(self.modality, one.items, one.views, generator, self.model)
        identity = self.corpus.concept[rows].to(self.device)
        return losses.angular_margin(
            made[f"{self.modality}_embedding"],
            self.prototypes,
            identity,
            margin=self.margin,
            scale=self.scale,
        )


class EmbeddingDistillation(Fed):
    """Affinity mimicking, interactive and plain contrastive losses over pairs; features; similarities of a batch.

    Args:
        feeds: what the student is fed.
        config: weights of the losses.
        teacher_embeddings: modality -> of the teacher, (V, U, E) of files or (U', E) of texts, unit vectors.
        teacher_features: modality -> the teacher's features before its projections, where it has projections of their
            own; compared where the student's have the same width.
    """

    def __init__(
        self,
        feeds: Feeds,
        config: DistillConfig,
        *,
        teacher_embeddings: Mapping[str, Tensor],
        teacher_features: Mapping[str, Tensor],
    ) -> None:
        super().__init__(feeds, config)
        self.config, self.of_embeddings = config, weighted(config, "embeddings")
        self.teacher_embeddings = dict(teacher_embeddings)
        self.teacher_features = dict(teacher_features) if config.hidden else {}
        # pooled features share a large mean, which would hide what differs
        self.centres = {name: rows.float().flatten(0, -2).mean(0) for name, rows in self.teacher_features.items()}

    def forward(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """See Objective."""
        config, corpus, count = self.config, self.corpus, len(rows)
        drawn = self.draw(rows, generator)
        student: dict[str, Tensor] = {}
        teacher: dict[str, Tensor] = {}
        loss = torch.zeros((), device=self.device)
        for modality, one in drawn.items():
            there = one.present.nonzero().flatten()
            items, views = one.items[there], one.views[there]
            texts = self.feeds.sources[modality].texts
            if texts and corpus.extra:  # made-up texts ride along in the same batch of the text tower
                items = torch.cat((items, self.draw_made_up(config.extra_batch, generator)))
            if len(items) == 0:  # none of this batch has it; its pairs are left out as well
                continue
            if texts:
                found = self._texts(modality, items)
            else:
                found = self.through(modality, items, views, generator, partial(self._tower, modality))
            made, features = found["embedding"], found.get("features")
            target = self._of_teacher(self.teacher_embeddings[modality], items, views).to(self.device)
            student[modality] = scattered(made[: len(there)], there, count)
            teacher[modality] = scattered(target[: len(there)], there, count)
            for weight, compare in self.of_embeddings:
                loss = loss + weight / len(drawn) * compare(made, target)
            if config.hidden and modality in self.teacher_features:
                hidden = self._of_teacher(self.teacher_features[modality], items, views)
                loss = loss + config.hidden / len(drawn) * self._hidden(modality, features, hidden)
        return loss + self._over_pairs(drawn, student, teacher, corpus.concept[rows])

    def _over_pairs(
        self, drawn: Mapping[str, Drawn], student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], concepts: Tensor
    ) -> Tensor:
        """Return the losses that compare two modalities, mean over the pairs of modalities."""
        config = self.config
        found: list[Tensor] = []
        for a, b, both in pairs(drawn):
            paired = student[a][both], student[b][both], teacher[a][both], teacher[b][both]
            concept = concepts[both].to(self.device)
            loss = torch.zeros((), device=self.device)
            if config.affinity:
                loss = loss + config.affinity * losses.affinity_mimicking(*paired, scale=config.affinity_scale)
            if config.interactive:
                loss = loss + config.interactive * losses.interactive_contrastive(
                    *paired, concept, scale=config.contrast_scale
                )
            if config.contrastive:
                loss = loss + config.contrastive * losses.info_nce(
                    paired[0], paired[1], concept, scale=config.contrast_scale
                )
            found.append(loss)
        return torch.stack(found).mean() if found else torch.zeros((), device=self.device)

    @staticmethod
    def _of_teacher(rows: Tensor, items: Tensor, views: Tensor) -> Tensor:
        """Return the teacher's (n, D) float32 for items of files (V, U, D) or texts (U, D)."""
        return (rows[items] if rows.ndim == 2 else rows[views, items]).float()

    def _texts(self, modality: str, items: Tensor) -> Mapping[str, Tensor]:
        """``_tower`` of (n,) texts, short and long ones apart: padding is paid for like any token."""
        order = torch.argsort(self.feeds.sources[modality].lengths(items), stable=True)
        each = []
        # a transformer trains in bfloat16 in half the time; convolutions would take twice as long
        with fast_arithmetic():
            for piece in order.chunk(LENGTHS):
                values = self.feeds.values(modality, items[piece])
                each.append(self._tower(modality, {name: value.to(self.device) for name, value in values.items()}))
        back = torch.argsort(order).to(self.device)
        return {name: torch.cat([made[name].float() for made in each])[back] for name in each[0]}

    def _tower(self, modality: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``embedding`` of one modality, and the ``features`` it is projected from where they can be had."""
        part = self.model.part(modality)
        tower = features_before(part.module)
        if self.config.hidden and tower is not None and tower.projection is not None:
            features: Tensor = tower.pooled(*(values[name] for name in part.signature.input_names))
            return {"embedding": unit(tower.projection(features)), "features": features}
        made = self.model(values)
        names = {"embedding": f"{modality}_embedding", "features": f"{modality}_features"}
        return {key: made[name] for key, name in names.items() if name in made}

    def _hidden(self, modality: str, features: Tensor | None, teacher: Tensor) -> Tensor:
        """Distance of centred features; nothing where a pruned student has fewer."""
        if features is None or features.shape[-1] != teacher.shape[-1]:
            return torch.zeros(())
        centre = self.centres[modality].to(self.device)
        return losses.feature_distance(features - centre, teacher.to(self.device) - centre)


def scattered(made: Tensor, there: Tensor, count: int) -> Tensor:
    """(n, D) rows at places ``there`` (n,) of (count, D), the others zero."""
    if len(there) == count:
        return made
    return made.new_zeros(count, *made.shape[1:]).index_copy(0, there.to(made.device), made)


def embedding_width(model: Model) -> int:
    """Dimensions of the model's embeddings."""
    made = {spec.name: spec.shape[-1] for part in model.chain for spec in part.signature.outputs}
    width = made[next(iter(embeddings_in(model.outputs)))]
    assert isinstance(width, int)
    return width


def feature_widths(model: Model) -> dict[str, int]:
    """Modality -> width of the features that its embedding is projected from, where they can be had."""
    found: dict[str, int] = {}
    for part in model.chain:
        if part.role != "tower" or part.modality is None:
            continue
        tower = features_before(part.module)
        if tower is not None and tower.projection is not None:
            found[part.modality] = tower.projection.in_features
        elif (spec := part.signature.outputs[0]).name == f"{part.modality}_features" and isinstance(
            spec.shape[-1], int
        ):
            found[part.modality] = spec.shape[-1]
    return found


def check_hidden(student: Model, teacher: Model, config: DistillConfig) -> None:
    """The loss that compares features needs one width. Raises ModelError naming what differs."""
    if not config.hidden:
        return
    cached = {spec.name for part in teacher.chain for spec in part.signature.outputs}
    ours, theirs = feature_widths(student), feature_widths(teacher)
    for modality in student.inputs:
        if f"{modality}_features" not in cached:
            raise ModelError(
                f"distill.hidden: the teacher has no {modality} features before its embeddings; its projection is "
                "inside its tower; set distill.hidden = 0"
            )
        if ours.get(modality) != theirs.get(modality):
            raise ModelError(
                f"distill.hidden: the student's {modality} features are {ours.get(modality)} wide, the teacher's "
                f"{theirs.get(modality)}; make them equal, or set distill.hidden = 0"
            )


def check_widths(student: Model, teacher: Model, config: DistillConfig) -> None:
    """The losses that compare embeddings need one width.

    Raises:
        ModelError: naming both and the weights that ask for it.
    """
    ours, theirs = embedding_width(student), embedding_width(teacher)
    if ours != theirs and (config.feature or config.interactive):
        raise ModelError(
            f"distill: the student's embeddings have {ours} dimensions, the teacher's {theirs}; set "
            f"student.embed_dim = {theirs}, or distill.feature = 0 and "
            "distill.interactive = 0 (affinity and similarity compare across widths)"
        )
