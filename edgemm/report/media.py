"""Media for a page: heat maps over pictures, words with weights, and how bytes are embedded."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_HEAT = (240, 120, 20)
_SIDE = 320  # pixels of a heat map's longer side: sharp at 2x in a 160 px box


def heat_map(picture: NDArray[np.floating], weights: NDArray[np.floating]) -> bytes:
    """Return a picture in grey with a weight per patch laid over it in colour, the largest strongest; a PNG.

    Args:
        picture: (height, width) or (channels, height, width), any range: what the model sees.
        weights: (rows, columns) >= 0.
    """
    from PIL import Image

    grey = picture.astype(np.float64) if picture.ndim == 2 else picture.mean(axis=0, dtype=np.float64)
    grey = (grey - grey.min()) / max(float(np.ptp(grey)), 1e-12)
    height, width = (round(_SIDE * side / max(grey.shape)) for side in grey.shape)
    paper = Image.fromarray((255 * grey).astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    strength = weights.astype(np.float32) / max(float(weights.max()), 1e-12)
    over = Image.fromarray(strength).resize((width, height), Image.Resampling.BICUBIC)
    alpha = 0.8 * np.clip(np.asarray(over, np.float64), 0, 1)[:, :, None]
    mixed = (1 - alpha) * np.asarray(paper, np.float64)[:, :, None] + alpha * np.array(_HEAT)
    held = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).quantize(128).save(held, format="PNG", optimize=True)
    return held.getvalue()


def shades(words: Sequence[tuple[str, float]]) -> list[tuple[str, int]]:
    """Words with how strongly to colour each, 0..80 percent; the strongest word 80."""
    most = max((weight for _, weight in words), default=0.0) or 1.0
    return [(word, round(80 * weight / most)) for word, weight in words]


def uri(data: bytes, kind: str) -> str:
    """Return bytes of a media type as a ``data:`` address; empty for none."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}" if data else ""
