"""Image files: a quick check of their bytes, and the one way to decode them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgemm.runtime.errors import DataError


def check_image(data: bytes) -> None:
    """Check that ``data`` is an image whose framing is whole: PNG chunk checksums, JPEG's end marker.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind = image.format
            image.verify()
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ... by format
        raise DataError(f"not a readable image ({error})") from error
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < len(data) // 2:
        raise DataError("truncated JPEG (no end-of-image marker)")


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to uint8 (height, width, 3) RGB; transparency is laid on white.

    Raises:
        DataError: the file can't be decoded.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                rgba = image.convert("RGBA")
                white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
                return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
            return np.asarray(image.convert("RGB"))
    except Exception as error:
        raise DataError(f"{path}: can't decode the image ({error})") from error
