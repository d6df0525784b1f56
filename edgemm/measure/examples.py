"""Examples: a few evaluation samples with what each variant answered, so that a person can look instead of only count.

Law: ``read_examples(write_examples(e)) == e``; pictures lie beside the JSON as small copies of the originals.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from edgemm.runtime.errors import DataError

FILE = "examples.json"
_THUMBNAIL = 320  # pixels of the longer side: sharp at 2x in a 160 px box, about 20 kB


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved item: its picture (path beside the JSON, or None), its label, and whether it is a positive."""

    image: str | None
    label: str
    right: bool


@dataclass(frozen=True, slots=True)
class Given:
    """What one variant gave: the nearest items in order, or one answer."""

    variant: str
    hits: tuple[Hit, ...] = ()
    answer: str = ""
    right: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """A query (a text, or a question about ``image``), the truth where it is a class, and what each variant gave."""

    query: str
    image: str | None
    truth: str
    given: tuple[Given, ...]


def write_examples(folder: Path, examples: Sequence[Example]) -> None:
    """Write ``examples.json`` into ``folder``; atomic."""
    partial = folder / f".{FILE}.{os.getpid()}.partial"
    partial.write_text(json.dumps([asdict(e) for e in examples], ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(folder / FILE)


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
                query=str(e["query"]),
                image=e["image"],
                truth=str(e["truth"]),
                given=tuple(
                    Given(str(g["variant"]), tuple(Hit(**h) for h in g["hits"]), str(g["answer"]), bool(g["right"]))
                    for g in e["given"]
                ),
            )
            for e in json.loads(path.read_text(encoding="utf-8"))
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: not a list of examples ({error})") from error


def write_thumbnail(image: np.ndarray, path: Path) -> None:
    """Write a small PNG copy of a uint8 (height, width, 3) image, its longer side at most 320 pixels."""
    path.write_bytes(thumbnail(image))


def thumbnail(image: np.ndarray, *, side: int = _THUMBNAIL) -> bytes:
    """The PNG that ``write_thumbnail`` writes, its longer side at most ``side`` pixels."""
    from PIL import Image

    small = Image.fromarray(image)
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    if len(np.unique(np.asarray(small).reshape(-1, 3)[::7], axis=0)) > 2000:  # a photograph: JPEG-like content
        small = small.quantize(256)  # PNG stays the one format; 256 colours keep it near 30 kB
    held = io.BytesIO()
    small.save(held, format="PNG", optimize=True)
    return held.getvalue()
