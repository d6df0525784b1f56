"""Fusions: the table of ways to join modalities, which recipes, their reference and the models are made from.

To add one: a module with a subclass of ``edgemm.models.fusion.Fusion``, and a line here.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import AfterValidator, Field

from edgemm.recipe.section import known_in, listed


class Joining(NamedTuple):
    """A line of the table.

    Args:
        made_by: ``"module:Class"`` of what joins features into one vector; None: nothing does.
        about: what it does, for the reference.
        voices: whether every modality also decides for itself, and learnt weights say how much each decision counts.
    """

    made_by: str | None
    about: str
    voices: bool = False


FUSIONS: dict[str, Joining] = {
    "hadamard": Joining("edgemm.models.fusion:Hadamard", "pooled features multiplied"),
    "concat": Joining("edgemm.models.fusion:Concat", "pooled features beside each other"),
    "sum": Joining("edgemm.models.fusion:Sum", "pooled features added"),
    "mean": Joining("edgemm.models.fusion:Mean", "pooled features averaged"),
    "gated": Joining(
        "edgemm.models.fusion:Gated", "a sum in which all features say, unit by unit, how much of each is let through"
    ),
    "hierarchical": Joining(
        "edgemm.models.fusion:Hierarchical", "two pooled features, what came of them with the third, and so on"
    ),
    "cross-attention": Joining(
        "edgemm.models.fusion:CrossAttention", "one modality (query) looks at the others' tokens"
    ),
    "early": Joining("edgemm.models.fusion:Early", "all tokens in one transformer"),
    "hybrid": Joining("edgemm.models.fusion:Concat", "late, with one more voice: the concat of all", voices=True),
    "late": Joining(None, "each modality decides for itself, and learnt weights say how much each counts", voices=True),
}


FusionMode = Annotated[str, AfterValidator(known_in(FUSIONS)), Field(json_schema_extra=listed(FUSIONS))]
"""A name in ``FUSIONS``."""
