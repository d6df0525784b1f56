"""Requests: what a bundle is asked in one go. A latency is that of a request, and names it.

A search is asked by one modality at a time; a classifier that joins several needs all that a sample has.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from edgemm.runtime.bundle import Bundle
from edgemm.runtime.chain import sources_of
from edgemm.runtime.errors import InputError
from edgemm.runtime.manifest import Manifest
from edgemm.runtime.prediction import Prediction


def requests_of(bundle: Bundle, there: Collection[str] | None = None) -> dict[str, tuple[str, ...]]:
    """Return name -> modalities that are given together: for each output those that lead to it, each set once.

    ``"text"`` and ``"image"`` of a bundle that embeds both; ``"image and text"`` of one that joins them.

    Args:
        bundle: open.
        there: modalities that a sample has; None: all. What placeholders stand in for may be missing.
    """
    found: dict[str, tuple[str, ...]] = {}
    for output in bundle.manifest.outputs:
        asked = tuple(m for m in _leading_to(bundle.manifest, output) if there is None or m in there)
        if asked and _answers(bundle, asked):
            found.setdefault(" and ".join(asked), asked)
    return found


def ask(bundle: Bundle, given: Mapping[str, Any]) -> Prediction:
    """Predict, and find the matches where the bundle names any: all that a person who asks waits for."""
    made = bundle.predict(**given)
    made.matches  # noqa: B018  (made when first read)
    return made


def asking(bundle: Bundle, given: Mapping[str, Any]) -> Callable[[], Prediction]:
    """``ask`` as a call to time."""
    return lambda: ask(bundle, given)


def _leading_to(manifest: Manifest, output: str) -> tuple[str, ...]:
    sources = sources_of(manifest.parts, (output,))
    return tuple(m for m, raw in manifest.inputs.items() if sources.intersection(raw.values))


def _answers(bundle: Bundle, modalities: Collection[str]) -> bool:
    try:
        bundle.plan(modalities)
    except InputError:
        return False
    return True
