"""Cards: samples to look at and listen to with what each model says, for ``cards.html``, on every page alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgemm.measure.examples import Example
from edgemm.report import figures
from edgemm.report.media import shades, uri


@dataclass(frozen=True, slots=True)
class Seen:
    """Where a model looks in one sample; what it doesn't attend to is empty."""

    heat: bytes = b""  # PNG
    words: Sequence[tuple[str, float]] = ()
    strip: figures.Drawing | None = None


def card(example: Example, seen: Sequence[Seen] = ()) -> dict[str, Any]:
    """Return one sample for the template.

    Args:
        seen: where the model behind each answer looks; empty: not shown.
    """
    return {
        "text": example.text,
        "truth": example.truth,
        "picture": uri(example.picture, "image/png"),
        "sound": uri(example.sound, "audio/wav"),
        "note": example.note,
        "answers": [
            {
                "variant": a.variant,
                "said": a.said,
                "right": a.right,
                "detail": a.detail,
                "sound": uri(a.sound, "audio/wav"),
                "hits": [(uri(h.picture, "image/png"), h.label, h.right) for h in a.hits],
                "heat": uri(s.heat, "image/png"),
                "words": shades(s.words),
                "strip": s.strip,
            }
            for a, s in zip(example.answers, seen or [Seen()] * len(example.answers), strict=True)
        ],
    }
