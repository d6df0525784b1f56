"""Sources: where the values of one modality come from in training: pixels, tokens, or rows of a table.

``feeds_of`` chooses one for each modality, by its kind and by whether its tower is frozen; nobody else asks which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgemm.compress import augmentation
from edgemm.compress.augmentation import Augmentation
from edgemm.models.frontend import ImageFrontend
from edgemm.runtime.readers.text import TextInput


@dataclass
class Source(ABC):
    """Makes the values of items, which are files or texts.

    Args:
        rows: name -> (V, U, ...) of U files in V views, or (U, ...) of texts; empty where a tower is fed otherwise.
        texts: whether the items are texts: they have no views, and may have extra ones at the end.
        frozen: whether the values are a frozen tower's, and not only a frontend's.
        viewed: whether an item may be seen in several views.
        masks: whether bands of the values may be masked, as those of sounds.
    """

    rows: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)
    texts: bool = field(default=False, kw_only=True)
    frozen: bool = field(default=False, kw_only=True)
    viewed: bool = field(default=False, kw_only=True)
    masks: bool = field(default=False, kw_only=True)

    @abstractmethod
    def values(self, items: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None) -> dict[str, Tensor]:
        """Return the values of (B,) items: name -> (B, ...).

        Args:
            views: (B,) which cached view of each; the plain one without it.
            augment: (B, P) parameters of the view that a trained tower is fed; the plain item without it.
        """

    def groups(self, items: Tensor) -> list[Tensor]:
        """Return places in (B,) items that a tower is run on together."""
        return [torch.arange(len(items))]

    def lengths(self, items: Tensor) -> Tensor:
        """Return how long each of (B,) items is, as far as batches should be of like ones: (B,)."""
        return torch.zeros(len(items))

    def augment(  # noqa: B027
        self, items: Tensor, views: Tensor, generator: torch.Generator, drawn: Augmentation
    ) -> Tensor | None:
        """Return the parameters of a view of each of (B,) items, (B, P); None where they are fed as they are."""

    def show(self, views: Callable[[int], Tensor]) -> None:  # noqa: B027
        """Show items in fixed views from now on; ``views``: of their number U, parameters (V, U, P)."""


@dataclass
class Pixels(Source):
    """What a trained image tower is fed: pixels, augmented as they are drawn.

    Args:
        table: (U, 3, S, S) uint8.
        frontend: normalises them.
        name: of the value that it makes.
        shown: (V, U, P) augmentation of each view; None: any is drawn.
    """

    table: Tensor
    frontend: ImageFrontend
    name: str
    shown: Tensor | None = None

    def values(self, items: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002
        """See ``Source``."""
        # channels last halves the time of training a CNN on CPUs; the modules follow their input's layout
        x = self.table[items].float().contiguous(memory_format=torch.channels_last)
        if augment is not None:
            x = augmentation.apply(x, augment)
        return {self.name: self.frontend.normalise(x.to(self.frontend.scale.device))}

    def augment(self, items: Tensor, views: Tensor, generator: torch.Generator, drawn: Augmentation) -> Tensor:
        """See ``Source``."""
        return drawn.draw(len(items), generator) if self.shown is None else self.shown[views, items]

    def show(self, views: Callable[[int], Tensor]) -> None:
        """See ``Source``."""
        self.shown = views(len(self.table))


@dataclass
class Tokens(Source):
    """What a trained text tower is fed.

    Args:
        ids, mask: (U, T) int64, padded to the longest text.
        fewest: to how many a batch is padded at least.
    """

    raw: TextInput
    ids: Tensor
    mask: Tensor
    fewest: int

    def values(self, items: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002
        """Return (B, t) ids and mask, padded to the longest of these texts only."""
        mask = self.mask[items]
        longest = max(int(mask.sum(1).max()), self.fewest)
        return {self.raw.ids: self.ids[items, :longest], self.raw.mask: mask[:, :longest]}

    def lengths(self, items: Tensor) -> Tensor:
        """See ``Source``."""
        return self.mask[items].sum(1)


@dataclass
class Files(Source):
    """Rows of what a frontend makes of files, or of their numbers as they are.

    Args:
        shapes: name of a value of any size, padded with zeros to the largest -> (U, dims) how large each is.
    """

    shapes: Mapping[str, Tensor] = field(default_factory=dict)

    def values(self, items: Tensor, *, views: Tensor | None = None, augment: Tensor | None = None) -> dict[str, Tensor]:  # noqa: ARG002
        """Return the rows; of any size, those of this batch are padded with zeros to the largest of it."""
        chosen = torch.zeros_like(items) if views is None else views
        found = {name: rows[items] if self.texts else rows[chosen, items] for name, rows in self.rows.items()}
        for name in found.keys() & self.shapes.keys():
            for axis, size in enumerate(self.shapes[name][items].amax(0).tolist(), start=1):
                found[name] = found[name].narrow(axis, 0, size)
        return {name: value.float() if value.is_floating_point() else value for name, value in found.items()}

    def groups(self, items: Tensor) -> list[Tensor]:
        """Return places of items of one size, since the device pads no sound."""
        sizes = [rows[items] for rows in self.shapes.values()]
        if not sizes:
            return super().groups(items)
        _, group = torch.unique(torch.cat(sizes, dim=1), dim=0, return_inverse=True)
        return [(group == i).nonzero().flatten() for i in range(int(group.max()) + 1)]


@dataclass
class Frozen(Files):
    """Rows of what a frozen tower makes; what joins the tokens of frozen towers knows padding."""

    def __post_init__(self) -> None:
        self.frozen = True

    def groups(self, items: Tensor) -> list[Tensor]:
        """See ``Source``."""
        return Source.groups(self, items)
