"""Images: a file, its bytes or an array become uint8 (height, width, 3) RGB, the one form that frontends take.

Bytes come from anywhere: only the formats of ``FORMATS`` are tried, what is larger than a limit is refused before its
pixels are made, and pixels are converted in tiles, so that nothing but Pillow's own image and the answer is large.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgemm.runtime.errors import EngineNotInstalled, InputError
from edgemm.runtime.fields import one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.quiet import Quiet
from edgemm.runtime.regular import open_given

MAX_PIXELS = 100_000_000  # 300 MB as RGB: a larger file is a decompression bomb until somebody shows otherwise
MAX_FILE_BYTES = 1 << 30  # of an image file; 100 megapixels of 16-bit RGB are 600 MB
MAX_WORK = 3_000_000_000  # pixels of all scans of a progressive JPEG: thirty scans of the largest
MAX_BYTES = 1_400_000_000  # in memory at a time while one image is decoded

_FIRST = ("PNG", "JPEG", "GIF", "BMP", "PPM")  # Pillow has these at hand; the others are imported when they are needed
_OTHERS = (
    "AVIF", "BLP", "CUR", "DCX", "DDS", "DIB", "FLI", "FTEX", "GBR", "ICNS", "ICO", "IM", "IMT", "JPEG2000", "MCIDAS",
    "MPO", "MSP", "PCD", "PCX", "PIXAR", "PSD", "QOI", "SGI", "SPIDER", "SUN", "TGA", "TIFF", "WEBP", "XBM", "XPM",
    "XVTHUMB",
)  # fmt: skip
FORMATS = _FIRST + _OTHERS
"""Pillow's names of the formats that are read. Not among them: EPS, which starts Ghostscript; IPTC, which opens a
picture of any format inside; FITS, which unpacks gzip without a limit; WMF, BUFR, GRIB, HDF5 and MPEG, which need
another library; FPX and MIC, which need a package that nothing here asks for."""

_PEAK = {"TIFF": 14, "WEBP": 13, "AVIF": 18, "JPEG2000": 28}  # bytes per pixel at the peak, measured
_USUAL_PEAK = 10
_TILE = 1 << 20  # pixels that are converted at a time

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Depth:
    """What the samples of an image with more than 8 bits each were: the least, the greatest, and the file's white."""

    least: float
    greatest: float
    white: float
    grey: bool = True


@dataclass(frozen=True, slots=True)
class Header:
    """What an image file says of itself. ``deep``: its samples have more than 8 bits."""

    format: str
    width: int
    height: int
    deep: bool


def decode_image(raw: Any, *, where: str, grey_range: Range | None = None) -> np.ndarray:
    """Decode one image.

    Args:
        raw: a path, the bytes of a file, a PIL image, or an array: uint8 (height, width, 3) or (height, width); with
            ``grey_range`` also numbers of any type (height, width).
        where: names the sample in messages.
        grey_range: of a grey image with more than 8 bits a sample, what becomes 0 and what becomes 255; values outside
            are clipped. None: 0 and the white of the file's bits. Images of 8 bits are taken as they are. A TIFF that
            says WhiteIsZero has its black and white the other way round.

    Returns:
        uint8 (height, width, 3), RGB, contiguous; of several frames or pages the first. EXIF orientation is applied,
        transparency lies on white, palettes are resolved, and deep grey is scaled: 65535 of 16 bits and 4095 of a
        TIFF's 12 become 255.

    Raises:
        InputError: the file is missing, no regular file, corrupt, of a format that is not in ``FORMATS``, or larger
            than ``MAX_PIXELS`` or ``MAX_BYTES``; grey values without an agreed white and no ``grey_range``; an array of
            another dtype or shape.
        EngineNotInstalled: Pillow is needed and not installed.
    """
    if isinstance(raw, np.ndarray):
        return _check_array(raw, where, grey_range)
    return decode_deep(raw, where=where, grey_range=grey_range)[0]


def decode_deep(raw: Any, *, where: str, grey_range: Range | None = None) -> tuple[np.ndarray, Depth | None]:
    """``decode_image`` of a file, and what its samples were where they have more than 8 bits."""
    with _opened(raw, where) as (name, image):
        deep = _is_deep(image)  # of the file: loading it makes fewer bits of some
        image.load()
        _check_size(image, name)  # an icon's own header says less than the PNG inside
        return _rgb(image, name, grey_range, deep=deep)


def grey_extremes(raw: Any, *, where: str) -> Range | None:
    """Return the least and the greatest value of a grey image with more than 8 bits, which differ; None for others.

    Raises what ``decode_image`` raises of files.
    """
    if isinstance(raw, np.ndarray):
        return None
    with _opened(raw, where) as (name, image):
        if image.mode[:1] not in ("I", "F"):
            return None
        image.load()
        depth = _depth(image, name, (0, 1), np.dtype(np.uint32) if _is_unsigned(image) else None)
        return depth.least, max(depth.greatest, depth.least + 1)


def image_header(raw: Any, *, where: str) -> Header:
    """What a file says of itself; its pixels are not decoded. Raises what ``decode_image`` raises of a header."""
    with _opened(raw, where) as (_, image):
        return Header(str(image.format), image.width, image.height, _is_deep(image))


@contextmanager
def _opened(raw: Any, where: str) -> Iterator[tuple[str, Any]]:
    """The PIL image and its name for messages; whatever goes wrong with it in the block is an InputError."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise EngineNotInstalled(
            f"{where}: Pillow is not installed; {pip_install('Pillow')}, or give a uint8 array"
        ) from error
    name, source = where, None
    try:
        if not isinstance(raw, Image.Image):
            expected = "a uint8 array (H, W, 3)"
            source, name = open_given(raw, where=where, largest=MAX_FILE_BYTES, expected=expected)
        with _QUIET:
            image = raw if source is None else _identified(source)
            _check_size(image, name)
            if source is not None and image.format in ("JPEG", "MPO") and image.info.get("progressive"):
                _check_scans(image, source, name)
            yield name, image
    except UnidentifiedImageError as error:
        known = ", ".join(_USUAL)
        raise InputError(f"{name}: not an image of a format that edgemm reads ({known} ...), or corrupt") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: {one_line(error)}") from error
    except InputError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, IndexError and more
        raise InputError(f"{name}: cannot be decoded: {one_line(error)}") from error
    finally:
        if source is not None:
            source.close()


def _check_size(image: Any, name: str) -> None:
    most = min(MAX_PIXELS, MAX_BYTES // _PEAK.get(image.format, _USUAL_PEAK))
    if image.width * image.height > most:
        raise InputError(f"{name}: {image.width}×{image.height} pixels, expected at most {most}")


def _check_scans(image: Any, source: Any, name: str) -> None:
    """Refuse a progressive JPEG of so many scans that decoding it takes minutes; one has ten, a few bytes make one."""
    place = source.tell()
    source.seek(0)
    scans = source.read().count(b"\xff\xda")
    source.seek(place)
    if scans * image.width * image.height > MAX_WORK:
        raise InputError(
            f"{name}: a progressive JPEG of {scans} scans of {image.width}×{image.height} pixels, expected at most "
            f"{MAX_WORK} pixels in all; save it again"
        )


_USUAL = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")


def _identified(source: Any) -> Any:
    """Return the image in a file, by the formats that are read and no other."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(source, formats=_FIRST)
    except UnidentifiedImageError:
        Image.init()
        source.seek(0)
        return Image.open(source, formats=[name for name in _OTHERS if name in Image.OPEN])  # AVIF came with Pillow 11


# what Pillow warns of half-broken metadata; broken pixels raise
_QUIET = Quiet(r"PIL\.|edgemm\.runtime\.images")


def _check_array(raw: np.ndarray, where: str, grey_range: Range | None) -> np.ndarray:
    if grey_range is not None and raw.ndim == 2 and raw.dtype != np.uint8 and raw.dtype.kind in "iuf":
        raw = _scaled(raw, grey_range, where)
    if raw.dtype != np.uint8:
        raise InputError(f"{where}: got an array of {raw.dtype}, expected uint8 (0..255)")
    if raw.ndim == 2:
        raw = np.repeat(raw[:, :, None], 3, axis=2)
    if raw.ndim != 3 or raw.shape[2] != 3 or 0 in raw.shape:
        raise InputError(f"{where}: got an array of shape {raw.shape}, expected (height, width, 3)")
    return np.ascontiguousarray(raw)


def _is_deep(image: Any) -> bool:
    """Return whether the samples of a file have more than 8 bits, by its mode, PNG's header or TIFF's BitsPerSample."""
    if image.mode[:1] in ("I", "F"):
        return True
    if image.format == "PNG":
        return any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    return bool(max(_bits(image), default=8) > 8)


def _bits(image: Any) -> tuple[int, ...]:
    """BitsPerSample of a TIFF; empty for other formats."""
    found = image.tag_v2.get(258, ()) if image.format == "TIFF" and hasattr(image, "tag_v2") else ()
    return found if isinstance(found, tuple) else (int(found),)


def _rgb(image: Any, name: str, grey_range: Range | None, *, deep: bool) -> tuple[np.ndarray, Depth | None]:
    """Pixels in tiles: Pillow's conversions make up to three more images of what they are given."""
    depth, kind = None, np.dtype(np.uint32) if _is_unsigned(image) else None
    ends: Range = (0, 255)
    if image.mode[:1] in ("I", "F"):
        depth = _depth(image, name, grey_range, kind)
        ends = grey_range or (0, depth.white)
        if image.format == "TIFF" and image.tag_v2.get(262) == 0:  # WhiteIsZero: Pillow heeds it of 8 bits alone
            ends = (ends[1], ends[0])
    made, view = _oriented(image)
    for left, upper, right, lower in _tiles(image.size):
        tile = image if (right - left, lower - upper) == image.size else image.crop((left, upper, right, lower))
        if depth is not None:
            numbers = _numbers(tile, kind)
            grey = _scaled(numbers, ends, name)
            if isinstance(clear := image.info.get("transparency"), int):  # a PNG's one value; Pillow knows it of 8 bits
                grey[numbers == clear] = 255
            view[upper:lower, left:right] = grey[:, :, None]
        else:
            view[upper:lower, left:right] = _colours(tile)
    if deep and depth is None:  # colour of 16 bits: Pillow keeps the upper 8
        depth = Depth(int(made.min()) * 257, int(made.max()) * 257, 65535, grey=False)
    return made, depth


def _tiles(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (left, upper, right, lower) of at most ``_TILE`` pixels that make up an image of a size."""
    width, height = size
    columns = min(width, _TILE)
    rows = max(1, _TILE // max(columns, 1))
    for upper in range(0, height, rows):
        for left in range(0, width, columns):
            yield left, upper, min(left + columns, width), min(upper + rows, height)


def _oriented(image: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the answer, upright as EXIF says, and a view of it that lies as the file's pixels do."""
    turn = image.getexif().get(0x0112)
    width, height = image.size
    made = np.empty((width, height, 3) if turn in (5, 6, 7, 8) else (height, width, 3), np.uint8)
    if turn == 2:
        return made, made[:, ::-1]
    if turn == 3:
        return made, made[::-1, ::-1]
    if turn == 4:
        return made, made[::-1]
    if turn == 5:
        return made, made.swapaxes(0, 1)
    if turn == 6:
        return made, made[:, ::-1].swapaxes(0, 1)
    if turn == 7:
        return made, made[::-1, ::-1].swapaxes(0, 1)
    if turn == 8:
        return made, made[::-1].swapaxes(0, 1)
    return made, made


def _depth(image: Any, name: str, grey_range: Range | None, kind: np.dtype[Any] | None) -> Depth:
    """Return what the values of a deep grey image are. Raises InputError where they have no agreed white."""
    least, greatest = np.inf, -np.inf
    for box in _tiles(image.size):
        numbers = _numbers(image.crop(box), kind)
        least, greatest = min(least, float(numbers.min())), max(greatest, float(numbers.max()))
    bits = max(_bits(image), default=16)
    white = 2.0**bits - 1 if 8 < bits < 16 else 65535.0
    mend = "give a uint8 array, or the range of the values as data.grey_range"
    if grey_range is None and image.mode[:1] == "F":
        raise InputError(
            f"{name}: a floating-point image has no agreed white (values from {least:.6g} to {greatest:.6g}); {mend}"
        )
    if grey_range is None and not 0 <= least <= greatest <= white:
        raise InputError(
            f"{name}: grey values from {least:.6g} to {greatest:.6g}, expected 0 to {white:.6g}; beyond it a file has "
            f"no agreed white; {mend}"
        )
    return Depth(least, greatest, white)


def _is_unsigned(image: Any) -> bool:
    """Return whether the 32 bits of a TIFF's samples have no sign; Pillow takes them as if they had one."""
    return image.mode == "I" and _bits(image) == (32,) and image.tag_v2.get(339, (1,)) in (1, (1,))


def _numbers(image: Any, kind: np.dtype[Any] | None) -> np.ndarray:
    """Return the values of a grey image of more than 8 bits, seen as ``kind`` where it is given."""
    numbers = np.asarray(image)
    return numbers if kind is None else numbers.view(kind)


def _scaled(numbers: np.ndarray, grey_range: Range, where: str) -> np.ndarray:
    """Numbers as uint8: those of ``grey_range``, in either order, become 0 and 255; what lies outside is clipped."""
    low, high = grey_range
    values = (numbers.astype(np.float64) - low) * 255 / (high - low)
    if not (numbers.dtype.kind in "iu" or not np.isnan(values).any()):
        raise InputError(f"{where}: {int(np.isnan(values).sum())} values are NaN")
    return np.floor(np.clip(values, 0, 255) + 0.5).astype(np.uint8)


def _colours(image: Any) -> np.ndarray:
    """Pixels of 8 bits as RGB, transparency on white."""
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(ground, rgba)
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
