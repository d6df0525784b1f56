"""Images: a file, its bytes or an array become uint8 (height, width, 3) RGB, the one form that frontends take."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from edgemm.runtime.errors import EngineNotInstalled, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install

MAX_PIXELS = 100_000_000  # 300 MB as RGB: a larger file is a decompression bomb until somebody shows otherwise


def decode_image(raw: Any, *, where: str) -> np.ndarray:
    """Decode one image.

    Args:
        raw: a path, the bytes of a file, a PIL image, or a uint8 array (height, width, 3) or (height, width).
        where: names the sample in messages.

    Returns:
        uint8 (height, width, 3), RGB, contiguous. EXIF orientation is applied, transparency lies on white,
        palettes are resolved, and 16-bit grey is scaled by its type's range (65535 becomes 255).

    Raises:
        InputError: the file is missing, corrupt, or larger than ``MAX_PIXELS``; the array has another dtype or shape.
        EngineNotInstalled: Pillow is needed and not installed.
    """
    if isinstance(raw, np.ndarray):
        return _check_array(raw, where)
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise EngineNotInstalled(
            f"{where}: Pillow is not installed; {pip_install('Pillow')}, or give a uint8 array"
        ) from error
    name = where
    try:
        if isinstance(raw, (str, os.PathLike)):
            name = f"{where} ({raw})"
            source: Any = io.BytesIO(Path(raw).read_bytes())
        elif isinstance(raw, (bytes, bytearray, memoryview)):
            source = io.BytesIO(raw)
        elif isinstance(raw, Image.Image):
            source = None
        else:
            raise InputError(f"{where}: got {type(raw).__name__}, expected a path, bytes or a uint8 array (H, W, 3)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of half-broken metadata; broken pixels raise
            image = raw if source is None else Image.open(source)
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"{name}: {image.width}×{image.height} pixels, expected at most {MAX_PIXELS}")
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image that Pillow knows, or corrupt") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: {one_line(error)}") from error
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such file") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError and more
        raise InputError(f"{name}: cannot be decoded: {one_line(error)}") from error


def _check_array(raw: np.ndarray, where: str) -> np.ndarray:
    if raw.dtype != np.uint8:
        raise InputError(f"{where}: got an array of {raw.dtype}, expected uint8 (0..255)")
    if raw.ndim == 2:
        raw = np.repeat(raw[:, :, None], 3, axis=2)
    if raw.ndim != 3 or raw.shape[2] != 3 or 0 in raw.shape:
        raise InputError(f"{where}: got an array of shape {raw.shape}, expected (height, width, 3)")
    return np.ascontiguousarray(raw)


def _rgb(image: Any) -> np.ndarray:
    from PIL import Image

    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        wide = np.asarray(image).astype(np.int64)
        # Mode "I" is what older Pillow makes of a 16-bit PNG; values past 16 bits have no agreed white.
        grey = (np.clip(wide, 0, 65535) * 255 + 32767) // 65535
        return np.ascontiguousarray(np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2))
    if image.mode == "F":
        raise InputError("a floating-point image has no agreed white; give a uint8 array")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, rgba)
    return np.array(image.convert("RGB"), dtype=np.uint8)
