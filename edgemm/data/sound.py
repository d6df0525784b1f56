"""Sound files: a check of their bytes by decoding them as on the device."""

from __future__ import annotations

from edgemm.runtime.errors import DataError, InputError
from edgemm.runtime.waveforms import RATES, read_audio

_OGG_HEADER = 27  # bytes of a page before the sizes of its segments
_OGG_LAST_PAGE = 4  # flag of a page's header
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)  # what a writer to a pipe leaves there


def check_sound(data: bytes) -> None:
    """Check that ``data`` is a whole sound: it decodes, is not empty, is finite, and its framing has an end.

    libsndfile plays a cut file as far as it goes, so a WAV's announced size and the last page of an OGG are looked at
    as well. A cut MP3 can't be told from a short one.

    Raises:
        DataError: it isn't; the message says why, the caller says where.
    """
    try:
        read_audio(data, sample_rate=RATES[0], where="audio")
    except InputError as error:
        raise DataError(str(error).removeprefix("audio: ")) from error
    if data[:4] in (b"RIFF", b"FORM"):
        announced = int.from_bytes(data[4:8], "little" if data[:4] == b"RIFF" else "big") + 8
        if announced - 8 not in _UNKNOWN_SIZES and announced > len(data):
            raise DataError(f"truncated sound: {len(data)} bytes of {announced}")
    if data[:4] == b"OggS" and not _is_last(data[data.rfind(b"OggS") :]):
        raise DataError("truncated OGG (no last page)")


def _is_last(page: bytes) -> bool:
    """Whether a page of an OGG is whole and says that no other follows. Source: RFC 3533, section 6."""
    if len(page) < _OGG_HEADER:
        return False
    count = page[_OGG_HEADER - 1]
    sizes = page[_OGG_HEADER : _OGG_HEADER + count]
    return bool(page[5] & _OGG_LAST_PAGE) and len(page) >= _OGG_HEADER + count + sum(sizes)
