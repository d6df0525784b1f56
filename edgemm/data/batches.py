"""Batches: samples as the values that a model's towers take, fast enough for two cores.

Images are decoded and brought to the tower's geometry once, by the model's own frontend, and kept as small uint8
squares; augmentation then works on whole batches of them. Evaluation doesn't take that short cut: there every
image goes through the frontend as on the device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from edgemm.data.dataset import Sample
from edgemm.data.image import read_image
from edgemm.models.frontend import ImageFrontend
from edgemm.models.model import Model
from edgemm.models.tokenizer import encode, tokenizer_from_json
from edgemm.runtime.errors import DataError


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How much training images vary; every field at 0 (and ``smallest_crop`` at 1) leaves them as they are.

    Args:
        smallest_crop: of the area; the rest of a crop's area is drawn evenly up to all of it.
        aspect: crops are up to this factor wider or taller.
        degrees: rotation either way.
        flip: probability of mirroring left and right; 0 where sides mean something (radiographs, arrows).
        brightness, contrast, saturation: factor of up to 1 ± this.
        grey: probability of losing all colour.
    """

    smallest_crop: float = 0.7
    aspect: float = 1.15
    degrees: float = 10.0
    flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.3
    grey: float = 0.05


def augment(images: Tensor, size: int, settings: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Random crop, rotation, flip and colour in one resampling, each image its own draw.

    Args:
        images: (B, 3, A, A) uint8; A up to about 1.5 x size, as the resampling is bilinear without antialias.
        size: pixels per side of the result.

    Returns:
        (B, 3, size, size) float32 in 0..255.
    """
    count = len(images)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    side = draw(settings.smallest_crop, 1.0).sqrt()
    ratio = torch.exp(draw(-1.0, 1.0) * float(np.log(settings.aspect)) / 2)
    width, height = (side * ratio).clamp(max=1.0), (side / ratio).clamp(max=1.0)
    left = (1 - width) * draw(-1.0, 1.0)  # centre of the crop; grid_sample's image spans -1..1
    top = (1 - height) * draw(-1.0, 1.0)
    angle = torch.deg2rad(draw(-settings.degrees, settings.degrees))
    mirror = 1.0 - 2.0 * (draw(0.0, 1.0) < settings.flip).float()
    cos, sin = angle.cos(), angle.sin()
    rows = [torch.stack((cos * width * mirror, -sin * height, left), dim=1)]
    rows.append(torch.stack((sin * width * mirror, cos * height, top), dim=1))
    grid = F.affine_grid(torch.stack(rows, dim=1), [count, 3, size, size], align_corners=False)
    x = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return _colour(x, settings, draw)


def _colour(x: Tensor, settings: Augmentation, draw: object) -> Tensor:
    """Brightness, contrast and saturation of (B, 3, S, S) in 0..255."""
    assert callable(draw)
    luma = x.new_tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    saturation = draw(1 - settings.saturation, 1 + settings.saturation)
    saturation = torch.where(draw(0.0, 1.0) < settings.grey, torch.zeros_like(saturation), saturation)
    contrast = draw(1 - settings.contrast, 1 + settings.contrast)[:, None, None, None]
    brightness = draw(1 - settings.brightness, 1 + settings.brightness)[:, None, None, None]
    if settings.saturation or settings.grey:
        grey = (x * luma).sum(1, keepdim=True)
        x = grey + (x - grey) * saturation[:, None, None, None]
    if settings.contrast or settings.brightness:
        mean = x.mean((1, 2, 3), keepdim=True)
        x = ((x - mean) * contrast + mean) * brightness
    return x.clamp(0.0, 255.0)


class ImageCache:
    """Images in memory as uint8 squares, decoded once each.

    Args:
        frontend: the model's; its geometry (stretch, or shortest edge and crop) makes the squares.
        margin: squares are this factor larger than the frontend's output, so that crops lose nothing.

    300 kB an image at 224 pixels and the default margin: 10,000 images of 64 pixels take 250 MB.
    """

    def __init__(self, frontend: ImageFrontend, *, margin: float = 1.25) -> None:
        self.frontend = frontend
        self.side = max(1, round(frontend.size * margin))
        shortest = round(frontend.shortest * margin) if frontend.fit == "crop" else None
        self._geometry = ImageFrontend(
            size=self.side, fit=frontend.fit, shortest=shortest and max(shortest, self.side), resample=frontend.resample
        )
        self._squares: dict[Path, Tensor] = {}

    def squares(self, paths: Sequence[Path]) -> Tensor:
        """(B, 3, A, A) uint8. Raises DataError for a file that can't be decoded."""
        found = []
        for path in paths:
            square = self._squares.get(path)
            if square is None:
                with torch.no_grad():
                    made = self._geometry.resize(torch.from_numpy(read_image(path))[None])[0]
                square = self._squares[path] = made.round().clamp(0, 255).to(torch.uint8)
            found.append(square)
        return torch.stack(found)


class Batches:
    """The values of a model for lists of samples: ``pixels``, ``input_ids``, ``attention_mask``, ``image``.

    Args:
        model: its frontend and tokenizer make the values; nothing of it is trained here.
    """

    def __init__(self, model: Model, *, margin: float = 1.25) -> None:
        self.tokenizer = tokenizer_from_json(model.tokenizer_json) if model.tokenizer_json is not None else None
        frontends = [p.module for p in model.chain if isinstance(p.module, ImageFrontend)]
        self.frontend = frontends[0] if frontends else None
        self.cache = ImageCache(self.frontend, margin=margin) if self.frontend is not None else None
        self.modalities = tuple(model.inputs)

    def text(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask``, int64 (B, T), padded to the longest."""
        if self.tokenizer is None:
            raise DataError("the model has no tokenizer, but the data has text")
        ids, mask = encode(self.tokenizer, texts)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def images(self, paths: Sequence[Path]) -> dict[str, Tensor]:
        """``pixels`` float32 (B, 3, S, S), every image through the whole frontend, as on the device."""
        assert self.frontend is not None
        with torch.no_grad():
            return {"pixels": torch.cat([self.frontend(torch.from_numpy(read_image(p))[None]) for p in paths])}

    def augmented(self, paths: Sequence[Path], settings: Augmentation, *, generator: torch.Generator) -> dict[str, Tensor]:
        """``pixels`` float32 (B, 3, S, S), each image varied by its own draw from ``generator``."""
        assert self.frontend is not None and self.cache is not None
        with torch.no_grad():
            varied = augment(self.cache.squares(paths), self.frontend.size, settings, generator=generator)
            return {"pixels": self.frontend.normalise(varied)}

    def values(self, samples: Sequence[Sample]) -> dict[str, Tensor]:
        """Everything that the model takes of these samples, unaugmented. Raises DataError naming a sample's gap."""
        made: dict[str, Tensor] = {}
        if "image" in self.modalities and (paths := image_paths(samples)):
            made |= self.images(paths)
        if "text" in self.modalities and (texts := sample_texts(samples)):
            made |= self.text(texts)
        return made


def image_paths(samples: Sequence[Sample]) -> list[Path]:
    """The image files, or none at all. Raises DataError where only some samples have one."""
    paths = [s.image for s in samples if s.image is not None]
    if paths and len(paths) != len(samples):
        raise DataError(f"sample '{next(s.id for s in samples if s.image is None)}' has no image, others have")
    return paths


def sample_texts(samples: Sequence[Sample]) -> list[str]:
    """The texts, or none at all. Raises DataError where only some samples have one."""
    texts = [s.text for s in samples if s.text is not None]
    if texts and len(texts) != len(samples):
        raise DataError(f"sample '{next(s.id for s in samples if s.text is None)}' has no text, others have")
    return texts


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """A generator that depends on seed and epoch alone, so that a resumed epoch draws what an undisturbed one does."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def epoch_batches(
    count: int, batch: int, *, generator: torch.Generator, drop_last: bool = True
) -> Iterator[NDArray[np.int64]]:
    """Shuffled indices of one epoch, ``batch`` at a time; a last one that is smaller is dropped where any remain."""
    order = torch.randperm(count, generator=generator).numpy()
    full = count // batch * batch if drop_last and count >= batch else count
    for start in range(0, full, batch):
        yield order[start : start + batch]


def in_order(samples: Sequence[Sample], batch: int) -> Iterator[list[Sample]]:
    """Consecutive lists of up to ``batch`` samples."""
    for start in range(0, len(samples), batch):
        yield list(samples[start : start + batch])


def raw_value_stream(
    samples: Sequence[Sample], model: Model, *, limit: int | None = None
) -> Iterator[Mapping[str, NDArray[np.generic]]]:
    """Raw values one sample at a time, as the device would feed them: for calibration, parity and golden samples.

    Takes an even stride of ``limit`` samples, so that calibration sees every vendor and answer. Nothing is kept.

    Yields:
        ``image`` uint8 (1, H, W, 3), ``input_ids`` and ``attention_mask`` int64 (1, T), as the model takes them.
    """
    tokenizer = tokenizer_from_json(model.tokenizer_json) if model.tokenizer_json is not None else None
    count = len(samples) if limit is None else min(limit, len(samples))
    for i in range(count):
        sample = samples[i * len(samples) // count]
        values: dict[str, NDArray[np.generic]] = {}
        for raw in model.inputs.values():
            if raw.kind == "image" and sample.image is not None:
                values[raw.feeds] = read_image(sample.image)[None]
            elif raw.kind == "text" and sample.text is not None:
                if tokenizer is None:
                    raise DataError("the model has no tokenizer, but the data has text")
                values[raw.ids], values[raw.mask] = encode(tokenizer, [sample.text])
        yield values
