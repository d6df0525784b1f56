"""Views by parameters: the identity changes nothing, the seed decides everything, limits are kept."""

from __future__ import annotations

import torch

from edgemm.compress import augmentation
from edgemm.compress.augmentation import Augmentation


def images(count: int = 4, size: int = 24) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator).float()


def test_the_identity_changes_no_pixel() -> None:
    plain = images()
    got = augmentation.apply(plain, augmentation.identity(len(plain)))
    # bilinear weights at pixel centres are 0 and 1 up to float32 rounding of the grid, times 255
    assert (got - plain).abs().max() < 0.02


def test_a_mirrored_view_is_the_mirror_image() -> None:
    plain = images()
    parameters = augmentation.identity(len(plain))
    parameters[:, -1] = 1
    assert (augmentation.apply(plain, parameters) - plain.flip(-1)).abs().max() < 0.02


def test_a_shift_of_a_quarter_moves_by_a_quarter() -> None:
    plain = images()
    parameters = augmentation.identity(len(plain))
    parameters[:, 2] = 0.25
    got = augmentation.apply(plain, parameters)
    assert (got[..., :18] - plain[..., 6:]).abs().max() < 0.02


def test_the_seed_decides_the_view() -> None:
    augmented = Augmentation(flip=0.5, erase=0.3)
    first, again, other = (augmented.draw(8, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_views_keep_shape_and_range() -> None:
    augmented = Augmentation(zoom=0.5, shift=0.3, rotate=45, flip=0.5, colour=0.8, erase=0.5)
    got = augmentation.apply(images(16), augmented.draw(16, torch.Generator().manual_seed(0)))
    assert got.shape == (16, 3, 24, 24)
    assert got.min() >= 0
    assert got.max() <= 255


def test_without_limits_a_drawn_view_is_the_plain_image() -> None:
    nothing = Augmentation(zoom=0, shift=0, rotate=0, flip=0, colour=0, erase=0)
    plain = images()
    drawn = nothing.draw(len(plain), torch.Generator().manual_seed(0))
    assert (augmentation.apply(plain, drawn) - plain).abs().max() < 0.02
