"""Shuffle: other samples' items in the place of one's own, for what a model says when a modality tells it nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def other_items(which: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """Return for each sample the item of another sample, never its own item where the data allow it.

    Samples are laid out by item, the items in a random order, and the layout is turned by the size of the largest
    item's block; so every item is used as often as before.

    Args:
        which: (samples,) item of each sample; negative where it has none, which stays so.
    """
    turned = which.copy()
    has = np.flatnonzero(which >= 0)
    if not len(has):
        return turned
    own = which[has]
    rank = np.random.default_rng(seed).permutation(int(own.max()) + 1)
    order = np.argsort(rank[own], kind="stable")
    turned[has[order]] = own[np.roll(order, int(np.bincount(own).max()))]
    return turned
