"""Sound files: a check of their bytes by decoding them as on the device."""

from __future__ import annotations

import io

from edgemm.runtime.chunks import find_samples
from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.waveforms import read_sound

_OGG_HEADER = 27  # bytes of a page before the sizes of its segments
_OGG_LAST_PAGE = 4  # flag of a page's header
_AU_UNKNOWN = 0xFFFFFFFF  # what a writer to a pipe leaves there


def check_sound(data: bytes) -> None:
    """Check that ``data`` is a whole sound: it decodes, is not empty, is finite, and all that it announces is there.

    libsndfile plays a cut file as far as it goes, and so does a device. So the announced size of the samples of a WAV,
    AIFF, CAF or AU, the last page of an OGG and the number of samples that other headers claim are looked at as well. A
    cut MP3 without such a header can't be told from a short one.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    try:
        sound = read_sound(data, where="audio")
    except InputError as error:
        raise DataError(str(error).removeprefix("audio: ")) from error
    if (lacking := _lacking(data)) is not None:
        raise DataError(f"truncated sound: {lacking[0]} bytes of {lacking[1]} of its samples")
    if data[:4] == b"OggS":
        if not _is_last(data[data.rfind(b"OggS") :]):
            raise DataError("truncated OGG (no last page)")
    elif sound.claimed is not None and len(sound.samples) < sound.claimed:
        raise DataError(f"truncated sound: {len(sound.samples)} samples of {sound.claimed}")


def _lacking(data: bytes) -> tuple[int, int] | None:
    """Return how many bytes of samples are there, and how many are announced, where these are more."""
    if data[:4] == b".snd":  # AU
        begin, announced = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
        there = len(data) - begin
        return (there, announced) if there < announced != _AU_UNKNOWN else None
    if data[:8] == b"riff\x2e\x91\xcf\x11":  # Wave64
        announced = int.from_bytes(data[16:24], "little")
        return (len(data), announced) if len(data) < announced else None
    found = find_samples(io.BytesIO(data))
    if found is None or found.announced is None or found.announced <= found.there:
        return None
    return found.there, found.announced


def _is_last(page: bytes) -> bool:
    """Return whether a page of an OGG is whole and says that no other follows. Source: RFC 3533, section 6."""
    if len(page) < _OGG_HEADER:
        return False
    count = page[_OGG_HEADER - 1]
    sizes = page[_OGG_HEADER : _OGG_HEADER + count]
    return bool(page[5] & _OGG_LAST_PAGE) and len(page) >= _OGG_HEADER + count + sum(sizes)
