"""Families: the table of what models are made of, which recipes, their checks and reference, and the stages read.

To add one: a module with what it names, and a line here; docs/your-own-family.md shows both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from edgemm.recipe.section import known_in, listed
from edgemm.runtime.errors import ModelError


class Family(NamedTuple):
    """A line of the table. What is named as ``"module:function"`` is imported when it is needed.

    Args:
        about: what it is, for the reference.
        towers: how many a model has, at least and at most.
        built_by: of towers, the model's section and the answer, the ``Model``; see ``edgemm.models.builders``.
        taught_by: of feeds and ``[teach]``, the objective that teaches it; see ``edgemm.compress.family_objectives``.
        distilled_by: of student, teacher, ``[distill]`` and training, the objective that distils it.
        checked_by: what measuring it needs of the samples; see ``edgemm.measure.accuracy``.
        answers: whether its modalities are joined and answer for a sample; else each is embedded by itself.
        teach, distill: options of these sections that not every family reads, and it does.
    """

    about: str
    towers: tuple[int, int]
    built_by: str
    taught_by: str
    distilled_by: str
    checked_by: str
    answers: bool = False
    teach: tuple[str, ...] = ()
    distill: tuple[str, ...] = ()

    @property
    def searches(self) -> bool:
        """Whether several modalities are embedded in one space, so that one finds another in a gallery."""
        return not self.answers and self.towers[1] > 1

    @property
    def makers(self) -> tuple[str, ...]:
        """All that it names as ``"module:function"``."""
        return self.built_by, self.taught_by, self.distilled_by, self.checked_by


FAMILIES: dict[str, Family] = {
    "dual-encoder": Family(
        "two modalities or more, each embedded in one space",
        (2, 8),
        built_by="edgemm.models.builders:dual_encoder",
        taught_by="edgemm.compress.family_objectives:contrastive",
        distilled_by="edgemm.compress.family_objectives:embedding",
        checked_by="edgemm.measure.accuracy:check_search",
        distill=("affinity", "interactive", "contrastive", "similarity", "hidden"),
    ),
    "fusion-classifier": Family(
        "modalities joined, with a head that answers",
        (1, 8),
        built_by="edgemm.models.builders:fusion_classifier",
        taught_by="edgemm.compress.family_objectives:labels",
        distilled_by="edgemm.compress.family_objectives:answering",
        checked_by="edgemm.measure.accuracy:check_answers",
        answers=True,
        teach=("label_smoothing", "balance"),
        distill=("gram", "unimodal", "task", "kd", "mixed"),
    ),
    "embedder": Family(
        "one modality, embedded to be compared with itself",
        (1, 1),
        built_by="edgemm.models.builders:embedder",
        taught_by="edgemm.compress.family_objectives:identities",
        distilled_by="edgemm.compress.family_objectives:embedding",
        checked_by="edgemm.measure.accuracy:check_verification",
        teach=("margin",),
        distill=("similarity", "hidden"),
    ),
}


def family_of(name: str) -> Family:
    """Return the line of a family. Raises ModelError naming those that there are."""
    if name not in FAMILIES:
        raise ModelError(f"family '{name}' is unknown; expected one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def searches(name: str) -> bool:
    """Return whether one modality finds another in a gallery, in a model of that family; of an unknown one: no."""
    return name in FAMILIES and FAMILIES[name].searches


FamilyName = Annotated[str, AfterValidator(known_in(FAMILIES)), Field(json_schema_extra=listed(FAMILIES))]
"""A name in ``FAMILIES``."""


def read_by(stage: str) -> Mapping[str, tuple[str, ...]]:
    """Return of the options of ``[teach]`` or ``[distill]`` that not every family reads, which families do."""
    options = {name: getattr(family, stage) for name, family in FAMILIES.items()}
    every = dict.fromkeys(option for listed_here in options.values() for option in listed_here)
    return {option: tuple(name for name, has in options.items() if option in has) for option in every}
