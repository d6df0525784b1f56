"""What every objective shares: a model fed with samples of a corpus, modality by modality.

An ``Objective`` holds losses tied to the feeds of student and teacher; its only trained parameters are the student's
(and small adapters or a temperature that are thrown away afterwards), so the trainer needs to know nothing about
families. Those that embed are in ``embedding_objectives.py``, those that answer in ``answer_objectives.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from edgemm.compress.augmentation import Augmentation
from edgemm.compress.cache import joined
from edgemm.compress.tower_inputs import Feeds
from edgemm.compress.trainer import Objective
from edgemm.models.model import Model
from edgemm.recipe import Compared, DistillConfig, TeachConfig
from edgemm.recipe.import_named import resolve

LARGEST_SCALE = 100.0  # as in CLIP


def augmentation_of(config: TeachConfig | DistillConfig) -> Augmentation:
    """Return the augmentation that a stage's section describes."""
    section = config.augment
    return Augmentation(
        zoom=section.zoom,
        shift=section.shift,
        rotate=section.rotate,
        flip=section.flip,
        colour=section.colour,
        erase=section.erase,
    )


def weighted(
    config: DistillConfig, of: Compared, **options: object
) -> list[tuple[float, Callable[[Tensor, Tensor], Tensor]]]:
    """Weights and functions of (student, teacher) of the losses that compare ``of``, in the order of ``[distill]``.

    Args:
        options: each function is given those that it names, ``temperature`` among them.

    Raises:
        ModelError: a function that isn't there.
    """
    found: list[tuple[float, Callable[[Tensor, Tensor], Tensor]]] = []
    known = {"temperature": config.temperature, **options}
    for key, weight, path in config.losses(of):
        function = resolve(path, what=f"distill.{key}")
        named = known.keys() & inspect.signature(function).parameters
        found.append((weight, partial(function, **{name: known[name] for name in named})))
    return found


@dataclass(frozen=True, slots=True)
class Drawn:
    """One modality of a batch of B samples.

    Args:
        items: (B,) int64 rows of the corpus's files or texts; what stands where a sample has none means nothing.
        present: (B,) bool.
        views: (B,) int64 which cached view of each.
    """

    items: Tensor
    present: Tensor
    views: Tensor


class Fed(Objective):
    """A model fed with samples of a corpus, with augmentation where its towers are trained."""

    def __init__(self, feeds: Feeds, config: TeachConfig | DistillConfig) -> None:
        super().__init__()
        self.model, self.feeds, self.corpus = feeds.model, feeds, feeds.corpus
        self.augmented, self.mask = augmentation_of(config), config.augment.mask
        self.views, self.tower_rate = config.views, config.tower_rate
        self.feature_dropout = config.feature_dropout if isinstance(config, TeachConfig) else 0.0

    def rates(self) -> Mapping[str, float]:
        """Towers that have learnt already move slower than what is new."""
        towers = [part.name for part in self.model.chain if part.role == "tower"]
        slow = {f"model.modules_by_part.{name}.": self.tower_rate for name in towers}
        return slow | {f"model.modules_by_part.{name}.projection.": 1.0 for name in towers}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def draw(self, rows: Tensor, generator: torch.Generator) -> dict[str, Drawn]:
        """Return for each modality, which item of it stands for each of the samples ``rows`` (B,)."""
        drawn: dict[str, Drawn] = {}
        for modality in self.feeds.modalities:
            present = self.corpus.present(modality, rows)
            views = torch.zeros_like(rows)
            items = self.corpus.choose(modality, rows, generator)
            if self.feeds.sources[modality].viewed and self.views > 1:
                # one for each file: repeated in a batch, it is run once
                views = torch.randint(self.views, (len(self.corpus.files[modality]),), generator=generator)[items]
            drawn[modality] = Drawn(items, present, views)
        return drawn

    def draw_made_up(self, count: int, generator: torch.Generator) -> Tensor:
        """(count,) rows of the corpus's texts that belong to no sample; there are some."""
        first = len(self.corpus.texts) - self.corpus.extra
        return first + torch.randint(self.corpus.extra, (count,), generator=generator)

    def values(self, modality: str, items: Tensor, views: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return what the model is fed for (n,) items of one modality, on its device."""
        source = self.feeds.sources[modality]
        augment = source.augment(items, views, generator, self.augmented)
        values = source.values(items, views=views, augment=augment)
        if self.feature_dropout and source.frozen:
            values = {name: F.dropout(value, self.feature_dropout) for name, value in values.items()}
        elif source.masks and self.mask:
            values = {name: masked(value, self.mask, generator) for name, value in values.items()}
        return {name: value.to(self.device) for name, value in values.items()}

    def through(
        self,
        modality: str,
        items: Tensor,
        views: Tensor,
        generator: torch.Generator,
        run: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    ) -> Mapping[str, Tensor]:
        """Return what ``run`` makes of (n,) items of one modality, those of one size at a time: name -> (n, ...)."""
        groups = self.feeds.sources[modality].groups(items)
        each = []
        for place in groups:
            with usual_norms(self.model, len(place)):
                each.append(run(self.values(modality, items[place], views[place], generator)))
        if len(each) == 1:
            return each[0]
        back = torch.argsort(torch.cat(groups)).to(self.device)
        return {name: joined([made[name] for made in each])[back] for name in each[0]}

    def examples(self, generator: torch.Generator) -> dict[str, Tensor]:
        """The values of every modality: of one sample where one has them all, or as many as can be, else of others."""
        everything = torch.arange(len(self.corpus))
        present = {m: self.corpus.present(m, everything) for m in self.feeds.modalities}
        row = torch.stack(list(present.values())).sum(0).argmax()
        values: dict[str, Tensor] = {}
        for modality, has in present.items():
            one = self.draw((row if has[row] else has.int().argmax())[None], generator)[modality]
            values |= self.values(modality, one.items, one.views, generator)
        return values


@contextmanager
def usual_norms(model: Model, count: int) -> Iterator[None]:
    """Batch norms go by what they have seen before where ``count`` is 1: one row alone has no spread."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    for norm in norms if count == 1 else ():
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


def masked(features: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """(B, mels, frames) with one run of frames and one of mel bands set to the sample's mean.

    Args:
        most: largest share of either that is masked.

    Source: Park et al. 2019, "SpecAugment".
    """
    if features.ndim != 3:
        return features
    count, bands, frames = features.shape
    mean = features.mean((1, 2), keepdim=True)
    for axis, size in ((1, bands), (2, frames)):
        width = torch.rand(count, 1, generator=generator) * most * size
        start = torch.rand(count, 1, generator=generator) * (size - width)
        place = torch.arange(size)[None]
        hidden = (place >= start) & (place < start + width)
        features = torch.where(hidden[:, :, None] if axis == 1 else hidden[:, None, :], mean, features)
    return features
