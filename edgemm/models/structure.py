"""Structure: what in a module can be made smaller, can be asked for, and can be set, told by the module itself.

The stages ask these questions and never which class a module is. A module of one's own answers by the same methods;
one without a method has nothing of the kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Structure:
    """What can be cut out of a module without a change of what it takes and gives.

    Args:
        ends: the layers that make what the module gives: their outputs stay, the channels of all other layers may go.
        layers: of a transformer, in order, each with ``attention`` (``query``, ``key``, ``value``, ``out``, ``heads``,
            ``head_dim``), ``up`` and ``down``.
    """

    ends: tuple[nn.Module, ...] = ()
    layers: tuple[Any, ...] = ()


@runtime_checkable
class CanBeCut(Protocol):
    """A module of which something can be removed."""

    def structure(self) -> Structure | None:
        """What; None where this one has nothing to remove."""


@runtime_checkable
class EmbedsFeatures(Protocol):
    """A tower with a projection inside, whose features can be had before it."""

    projection: nn.Linear | None

    def pooled(self, *values: Tensor) -> Tensor:
        """Return the features (B, W) that the projection takes."""


@runtime_checkable
class HasUnits(Protocol):
    """A head that answers with a quantity in units of its own."""

    def set_units_(self, mean: float, spread: float) -> None:
        """Answer about ``mean`` in units of ``spread``; units that were set before stay."""


def features_before(module: nn.Module) -> EmbedsFeatures | None:
    """Return the tower, where a projection inside it hides its features; else None."""
    return module if isinstance(module, EmbedsFeatures) and module.projection is not None else None
