"""Examples: evaluation samples with what each model answered, so that a person can look and listen, not only count.

Law: ``read_examples(write_examples(e)) == e``; small copies of pictures and sounds lie inside the JSON.
"""

from __future__ import annotations

import base64
import io
import json
import wave
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgemm.runtime.disk import replacing
from edgemm.runtime.errors import DataError
from edgemm.runtime.fields import json_value
from edgemm.runtime.images import decode_image, grey_extremes
from edgemm.runtime.waveforms import decode_audio

FILE = "examples.json"
SECONDS = 5  # of an embedded sound: 160 kB, so that a page of them stays small
RATE = 16_000  # Hz of an embedded sound, whatever the model takes: enough to know it by ear
_THUMBNAIL = 320  # pixels of the longer side: sharp at 2x in a 160 px box, about 20 kB
_HIT = 96  # pixels of a picture that was found: sharp at 2x in its box


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved item: its picture as PNG where it has one, its name, and whether it is a positive."""

    picture: bytes
    label: str
    right: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What one model says of one sample.

    Args:
        said: a word, a rank, or the name of the nearest item.
        detail: probability, loss.
        hits: items found, the nearest first.
        sound: WAV of what was said, where it is a sound.
    """

    variant: str
    said: str
    right: bool
    detail: str = ""
    hits: tuple[Hit, ...] = ()
    sound: bytes = b""


@dataclass(frozen=True, slots=True)
class Example:
    """One sample: the truth, what each model says, and its text, picture (PNG) and sound (WAV)."""

    truth: str
    answers: tuple[Answer, ...]
    text: str = ""
    picture: bytes = b""
    sound: bytes = b""
    note: str = ""


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write ``examples.json`` into ``folder``; atomic."""
    records = [asdict(e) for e in examples]
    text = json.dumps(records, ensure_ascii=False, indent=1, default=lambda data: base64.b64encode(data).decode())
    with replacing(folder / FILE) as partial:
        partial.write_text(text, encoding="utf-8")


def read_examples(folder: Path) -> tuple[Example, ...]:
    """Read ``examples.json``; an absent file means none were wanted.

    Raises:
        DataError: the file is there and is not what ``write_examples`` writes.
    """
    path = folder / FILE
    if not path.exists():
        return ()
    try:
        return tuple(
            Example(
                **{
                    **_with_bytes(e, "picture", "sound"),
                    "answers": tuple(
                        Answer(
                            **{
                                **_with_bytes(a, "sound"),
                                "hits": tuple(Hit(**_with_bytes(h, "picture")) for h in a["hits"]),
                            }
                        )
                        for a in e["answers"]
                    ),
                }
            )
            for e in json_value(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a list of examples ({error})") from error


def _with_bytes(record: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {**record, **{key: base64.b64decode(record[key], validate=True) for key in keys}}


def media(raws: Mapping[str, Any], *, seconds: int = SECONDS) -> dict[str, Any]:
    """Return what an ``Example`` shows of a sample: its text, a small picture, the first seconds of its sound.

    Args:
        raws: modality -> raw, as ``predict`` takes it; what can be neither read, seen nor heard is left out.
        seconds: of a sound, at most.

    Raises:
        InputError: a file that is missing or corrupt.
    """
    found: dict[str, Any] = {}
    for modality, how in _SHOWING.items():
        if modality in raws:
            found |= how.media(raws[modality], seconds)
    return found


def hit(modality: str, raw: Any, label: str, right: bool) -> Hit:
    """Return an item that a search found: a picture is seen, a text read, anything else named by its label."""
    how = _SHOWING.get(modality)
    picture, name = (b"", label) if how is None else how.hit(raw, label)
    return Hit(picture, name, right)


def sound_of(modality: str, raw: Any) -> bytes:
    """Return what is heard of an item that a search found; empty for what has no sound."""
    how = _SHOWING.get(modality)
    return how.media(raw, SECONDS)["sound"] if how is not None and how.heard else b""


def _heard(raw: Any, seconds: int) -> dict[str, Any]:
    most = seconds * RATE
    samples = decode_audio(raw, sample_rate=RATE, where="audio", limit=most + 1)
    found: dict[str, Any] = {"sound": wav(samples[:most])}
    return {**found, "note": f"the first {seconds} s of it"} if len(samples) > most else found


def thumbnail(raw: Any, *, side: int = _THUMBNAIL) -> bytes:
    """A small PNG copy of an image, its longer side at most ``side`` pixels; deep grey from its own black to white."""
    from PIL import Image

    small = Image.fromarray(decode_image(raw, where="image", grey_range=grey_extremes(raw, where="image")))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    if len(np.unique(np.asarray(small).reshape(-1, 3)[::7], axis=0)) > 2000:  # a photograph: JPEG-like content
        small = small.quantize(256)  # PNG stays the one format; 256 colours keep it near 30 kB
    held = io.BytesIO()
    small.save(held, format="PNG", optimize=True)
    return held.getvalue()


def wav(samples: NDArray[np.float32]) -> bytes:
    """Return a sound (samples,) in -1..1 at ``RATE`` as a WAV file of 16 bits."""
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return held.getvalue()


class _Showing(NamedTuple):
    """How samples of a modality are shown.

    Args:
        media: of a raw sample and the most seconds, the fields of an ``Example``.
        hit: of a raw item and its label, the picture and the name of a ``Hit``.
        heard: whether its media have a sound.
    """

    media: Callable[[Any, int], dict[str, Any]]
    hit: Callable[[Any, str], tuple[bytes, str]]
    heard: bool = False


_SHOWING: Mapping[str, _Showing] = {  # a modality that isn't here is named by its label
    "text": _Showing(lambda raw, _: {"text": str(raw)}, lambda raw, _: (b"", str(raw))),
    "image": _Showing(
        lambda raw, _: {"picture": thumbnail(raw)}, lambda raw, label: (thumbnail(raw, side=_HIT), label)
    ),
    "audio": _Showing(_heard, lambda _, label: (b"", label), heard=True),
}
