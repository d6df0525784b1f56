"""Image files: a quick check of their bytes, and decoding as on the device."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.images import MAX_PIXELS, decode_image

FRAMED = ("PNG", "JPEG", "WEBP")
"""Formats whose framing tells a truncated file; others (BMP, GIF, TIFF, ...) tell it only when decoded."""


def check_image(data: bytes) -> None:
    """Check that ``data`` is a whole image: PNG by its chunks' checksums, JPEG by its end marker, WEBP by its size.

    Files of any other format are decoded, which takes longer. One with more pixels than are decoded is refused.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as in decoding
            with Image.open(io.BytesIO(data)) as image:
                kind, (width, height) = image.format, image.size
                image.verify()
    except UnidentifiedImageError as error:  # its own words hold the address of a buffer
        raise DataError("not an image that Pillow knows, or corrupt") from error
    except Exception as error:  # Pillow raises OSError, SyntaxError, ValueError, struct.error ... by format
        raise DataError(f"not a readable image ({error})") from error
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}×{height} pixels, expected at most {MAX_PIXELS}")
    if kind == "JPEG" and data.rfind(b"\xff\xd9") < len(data) // 2:
        raise DataError("truncated JPEG (no end-of-image marker)")
    if kind not in FRAMED:
        try:
            decode_image(data, where=str(kind))
        except InputError as error:
            raise DataError(f"truncated or corrupt {error}") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to uint8 (height, width, 3) RGB, by the device's own decoder.

    Raises:
        DataError: the file can't be decoded.
    """
    try:
        return decode_image(path, where="image")
    except InputError as error:
        raise DataError(f"data: {error}") from error
