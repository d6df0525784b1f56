"""The sections of the stages that train: teach, distill, prune."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from edgemm.recipe.section import Ratio, Section


class AugmentConfig(Section):
    """How far the images that a trained tower sees may be from the plain ones."""

    zoom: float = Field(0.15, ge=0, le=2, description="Largest zoom in or out, as a fraction of the size.")
    shift: float = Field(0.08, ge=0, le=0.5, description="Largest shift, as a fraction of the side.")
    rotate: float = Field(8.0, ge=0, le=180, description="Largest rotation, degrees.")
    flip: float = Field(0.0, ge=0, le=1, description="Probability of mirroring left to right.")
    colour: float = Field(0.2, ge=0, lt=1, description="Largest change of brightness, contrast and saturation.")
    erase: float = Field(0.0, ge=0, lt=1, description="Largest side of a grey rectangle, as a fraction of the side.")
    mask: float = Field(
        0.0, ge=0, lt=1, description="Largest share of a sound's frames, and of its mel bands, that are masked."
    )


class TrainingSection(Section):
    """What every stage that trains has."""

    epochs: int = Field(10, ge=0, description="Passes over the training split.")
    batch: int = Field(256, ge=2, description="Samples in a batch.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of AdamW.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    clip: float = Field(5.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the moving average of the weights that is kept; 0: none.")
    tower_rate: float = Field(1.0, ge=0, description="Factor of the learning rate for the towers.")
    views: int = Field(1, ge=1, description="Views of each image that frozen towers' outputs are cached for.")
    modality_dropout: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Chance that a sample's modality is taken away, never all of them; default 0.2 with fusion.missing "
        "= 'placeholder', which it needs, else 0 (fusion-classifier).",
    )
    augment: AugmentConfig = Field(AugmentConfig(), description="Augmentation of what trained towers see.")


class TeachConfig(TrainingSection):
    """Train a teacher from its parts, or fine-tune a trained one."""

    epochs: int = Field(10, ge=0, description="Passes over the training split; 0 takes the model as it is.")
    freeze: Literal["towers", "none"] = Field(
        "towers",
        description="towers: those that come with weights stay as they are, and the rest learns, on their cached "
        "features; none: everything learns.",
    )
    contrast_scale: float = Field(20.0, gt=0, le=100, description="First inverse temperature (dual-encoder).")
    feature_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the features of frozen towers.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing (fusion-classifier, single-label).")
    balance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="Rare classes: as they come, weighted by 1 / frequency in the loss, or drawn as often as "
        "the others (fusion-classifier).",
    )
    margin: float = Field(0.3, ge=0, lt=1.5, description="Angular margin between identities, radians (embedder).")


Compared = Literal["embeddings", "features", "answers", "voices"]


@dataclass(frozen=True)
class Loss:
    """Marks a key of ``[distill]`` as the weight of a function of what student and teacher make.

    Args:
        function: ``"module:function"``, a function of two tensors, the student's and the teacher's, and of those of
            ``temperature``, ``task`` and ``spread`` that it names.
        of: what it is given: of a dual encoder and an embedder each modality's ``"embeddings"``; of a fusion classifier
            each modality's ``"features"`` (a text's or a sound's tokens where both have the same ones, padded with
            zeros, else their means), the ``"answers"``, or single modalities' decisions, the ``"voices"``.
    """

    function: str
    of: Compared


class DistillConfig(TrainingSection):
    """Train the student on what the teacher says."""

    affinity: float = Field(1.0, ge=0, description="Weight of affinity mimicking (dual-encoder).")
    affinity_scale: float = Field(50.0, gt=0, description="Inverse temperature of affinity mimicking.")
    interactive: float = Field(1.0, ge=0, description="Weight of the interactive contrastive loss (dual-encoder).")
    contrastive: float = Field(0.0, ge=0, description="Weight of the plain contrastive loss (dual-encoder).")
    contrast_scale: float = Field(20.0, gt=0, description="Inverse temperature of the two contrastive losses.")
    feature: Annotated[float, Loss("edgemm.compress.losses:feature_distance", "embeddings")] = Field(
        8.0, ge=0, description="Weight of 1 - cosine between features of student and teacher."
    )
    similarity: Annotated[float, Loss("edgemm.compress.losses:similarity_distance", "embeddings")] = Field(
        0.0,
        ge=0,
        description="Weight of the difference between the two's similarities of a batch's samples (embedder).",
    )
    gram: Annotated[float, Loss("edgemm.compress.losses:gram_distance", "features")] = Field(
        0.0,
        ge=0,
        description="Weight of the same within each modality; of a sample's tokens where student and teacher have the "
        "same ones (fusion-classifier).",
    )
    unimodal: Annotated[float, Loss("edgemm.compress.outputs:voice_kd", "voices")] = Field(
        0.0,
        ge=0,
        description="Weight of the divergence between single modalities' decisions, less where the teacher's is unsure "
        "(fusion-classifier with late or hybrid fusion).",
    )
    hidden: float = Field(
        0.0,
        ge=0,
        description="Weight of the same between features before the projections (dual-encoder).",
    )
    task: float = Field(0.5, ge=0, description="Weight of cross-entropy with the labels (fusion-classifier).")
    kd: Annotated[float, Loss("edgemm.compress.outputs:answer_kd", "answers")] = Field(
        0.5, ge=0, description="Weight of the softened divergence to the teacher (fusion-classifier)."
    )
    temperature: float = Field(4.0, gt=0, description="Temperature of that divergence.")
    mixed: int = Field(
        0,
        ge=0,
        description="Other texts of the batch that each sample is asked, the teacher's answer being the target.",
    )
    extra_texts: int = Field(
        0,
        ge=0,
        description="Made-up texts for the text tower: a third words like those of the texts, then phrases of them.",
    )
    extra_batch: int = Field(128, ge=1, description="How many of those are in each batch.")

    def losses(self, of: Compared) -> Iterator[tuple[str, float, str]]:
        """Key, weight and ``"module:function"`` of every loss of ``of`` that has a weight, in the order of the keys."""
        for name, field in type(self).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Loss) and mark.of == of and getattr(self, name):
                    yield name, getattr(self, name), mark.function

    @property
    def teaches_joints(self) -> bool:
        """Whether any loss reaches a classifier's fusion and head."""
        return bool(self.task or any(self.losses("answers")) or any(self.losses("voices")))


class PruneConfig(Section):
    """Remove structure from parts of the student, then recover with the losses of distill."""

    ratios: dict[str, Ratio] = Field(
        default_factory=dict, description="Part name → fraction of its channels removed (0 keeps the part)."
    )
    importance: Literal["taylor", "l2"] = Field(
        "taylor", description="What ranks a group of channels: gradient times weight, or the weights' norm."
    )
    batches: int = Field(4, ge=1, description="Batches whose gradients rank the channels (taylor).")
    round_to: int = Field(8, ge=1, description="Widths stay multiples of this.")
    floor: float = Field(0.25, gt=0, le=1, description="No layer keeps less than this fraction of its channels.")
    epochs: int = Field(2, ge=0, description="Passes over the training split to recover.")
    batch: int = Field(256, ge=2, description="Samples in a batch.")
    learning_rate: float = Field(2e-4, gt=0, description="Peak learning rate of the recovery.")
