"""Image files: a quick check of their bytes, and decoding as on the device."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.images import Depth, Range, decode_deep, decode_image, image_header

_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # within a scan 0xff is followed by 0 or by a restart's number
_BARE = (0x01, *range(0xD0, 0xD8))  # markers without a length
_SCAN, _END = 0xDA, 0xD9
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # frames that every libjpeg decodes; others are tried


def check_image(data: bytes, *, grey_range: Range | None = None) -> Depth | None:
    """Check that ``data`` is an image that the device decodes.

    A PNG by its chunks' checksums, a JPEG by its markers up to the end of the picture (a thumbnail in front has an end
    of its own, and a camera may write anything behind), a WEBP by its size. What these leave in doubt, other formats,
    and images with more than 8 bits a sample are decoded, which takes longer.

    Returns:
        What the samples are, where they have more than 8 bits.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    kind = ""
    try:
        header = image_header(data, where="image")
        if not header.deep and _FRAMINGS.get(header.format, _in_doubt)(data):
            return None
        kind = f"truncated or corrupt {header.format}: "
        return decode_deep(data, where="image", grey_range=grey_range)[1]
    except InputError as error:
        reason = str(error).removeprefix("image: ")
        raise DataError(kind + reason.removeprefix("cannot be decoded: ") if "decoded" in reason else reason) from error


def read_image(path: Path, *, grey_range: Range | None = None) -> NDArray[np.uint8]:
    """Decode an image file to uint8 (height, width, 3) RGB, by the device's own decoder.

    Raises:
        DataError: the file can't be decoded.
    """
    try:
        return decode_image(path, where="image", grey_range=grey_range)
    except InputError as error:
        raise DataError(f"data: {error}") from error


def _in_doubt(_: bytes) -> bool:
    return False


def _jpeg_is_whole(data: bytes) -> bool:
    """Return whether the markers lead from the start of the picture to its end. Source: ITU-T T.81, annex B."""
    place, frames = 2, 0
    while data[place : place + 1] == b"\xff":
        while data[place : place + 1] == b"\xff":  # any number of fill bytes
            place += 1
        if place >= len(data):
            return False
        kind = data[place]
        place += 1
        if kind == _END:
            return frames == 1
        if kind in _BARE:
            continue
        length = int.from_bytes(data[place : place + 2], "big")
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frames += 1
            if kind not in _HUFFMAN or data[place + 2 : place + 3] != b"\x08":
                return False
        place += max(length, 2)
        if kind == _SCAN:
            if (found := _MARKER.search(data, place)) is None:
                return False
            place = found.start()
    return False


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to the last is there and has its checksum. Source: the PNG specification, section 5."""
    place, has_pixels = 8, False
    while len(data) >= place + 12:
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return False
        if zlib.crc32(memoryview(data)[place + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        kind = data[place + 4 : place + 8]
        if kind == b"IEND":
            return has_pixels
        has_pixels |= kind == b"IDAT"
        place = end
    return False


def _webp_is_whole(data: bytes) -> bool:
    return len(data) >= int.from_bytes(data[4:8], "little") + 8


_FRAMINGS = {"JPEG": _jpeg_is_whole, "MPO": _jpeg_is_whole, "PNG": _png_is_whole, "WEBP": _webp_is_whole}
