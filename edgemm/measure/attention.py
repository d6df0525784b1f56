"""Attention: what a model looks at, from its attention maps to one weight for each token, patch or frame.

The maps come out of the very graphs that ship (``edgemm.graph.attention`` makes them outputs); here they are followed
through the layers and, across parts, back to the modality they look at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgemm.runtime import chain
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.engines import Session
from edgemm.runtime.readers import RawInput

_CAUSAL = 1e-6  # attention to later tokens below which a model is taken to look back only


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """One attention map of a graph: output ``output``, (batch, heads, queries, keys).

    Args:
        keys: names of the graph's inputs that the keys are made from.
    """

    output: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Watched:
    """A part whose graph gives its attention maps beside its outputs.

    Args:
        patches: (frequencies, times) of a spectrogram that it cuts into patches; None where its tokens are no such.
    """

    session: Session
    maps: tuple[AttentionMap, ...]
    patches: tuple[int, int] | None = None


def roll_out(layers: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return how much each token after the last layer holds of each token before the first.

    Heads are averaged, the shortcut is taken as half of each layer, and the layers are multiplied:
    A = prod (mean_h W + I) / 2, the last layer on the left.

    Args:
        layers: one (heads, tokens, tokens) per layer, the first first; rows sum to 1.

    Returns:
        (tokens, tokens); rows sum to 1.

    Source: Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers", section 3 (attention rollout).
    """
    rolled = np.eye(layers[0].shape[-1])
    for layer in layers:
        mean = layer.astype(np.float64).mean(axis=0)
        rolled = 0.5 * (mean + np.eye(len(mean))) @ rolled
    return rolled


def read_out(
    rolled: NDArray[np.floating], layers: Sequence[NDArray[np.floating]], *, first: int
) -> NDArray[np.float64]:
    """Return one weight for each token, from the rows that the model goes on with; they sum to 1.

    A graph does not say which token it reads, so: the first ones where there are class tokens; the last one where no
    token looks at later ones (CLIP's text tower); else the mean of all (mean pooling).

    Args:
        rolled: (tokens, tokens) of ``roll_out``.
        layers: what it was made of.
        first: how many class tokens there are.
    """
    if first:
        return np.asarray(rolled[:first].mean(axis=0), np.float64)
    mean = np.mean([layer.mean(axis=0) for layer in layers], axis=0)
    causal = len(mean) > 1 and float(np.triu(mean, 1).max()) < _CAUSAL
    return np.asarray(rolled[-1] if causal else rolled.mean(axis=0), np.float64)


def look(bundle: Bundle, watched: Mapping[str, Watched], given: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Where a bundle looks in one sample.

    Args:
        bundle: open.
        watched: part name -> the same part with its maps; parts without attention are left out.
        given: modality -> one raw sample, as ``predict`` takes it.

    Returns:
        Modality -> weights (tokens,) that sum to 1, padding and class tokens left out, for those modalities that
        something attends to; of a spectrogram's patches (times,), summed over the frequencies. Where a part attends to
        the tokens that another part's attention made (cross-attention over a vision transformer), the two are
        multiplied.
    """
    values = bundle.values(**given)
    made_of = chain.origins(bundle.parts, {name: m for m in given for name in bundle.manifest.inputs[m].values})
    towers: dict[str, list[NDArray[np.floating]]] = {}
    crossed: dict[str, NDArray[np.float64]] = {}
    patches: dict[str, tuple[int, int]] = {}
    for part, feeds, _ in bundle.trace(values):
        if part.name not in watched:
            continue
        made = watched[part.name].session.run(feeds)  # type: ignore[arg-type]  # one sample: arrays, not lists
        for each in watched[part.name].maps:
            modalities = frozenset[str]().union(*(made_of.get(name, ()) for name in each.keys))
            layer = made[each.output]
            if layer.ndim != 4 or len(layer) != 1 or len(modalities) != 1:
                continue  # windows, or tokens of several modalities in one sequence: no one place to be shown in
            modality = next(iter(modalities))
            layer = _without_padding(layer[0], bundle.manifest.inputs[modality], values)
            if layer.shape[1] == layer.shape[2] > 1:
                towers.setdefault(modality, []).append(layer)
                if cut := watched[part.name].patches:
                    patches[modality] = cut
            else:
                crossed[modality] = layer.astype(np.float64).mean(axis=(0, 1))
    found: dict[str, NDArray[np.float64]] = {}
    for modality in given:
        weights = _follow(
            towers.get(modality, []),
            crossed.get(modality),
            bundle.manifest.inputs[modality].kind,
            patches.get(modality),
        )
        if weights is not None:
            found[modality] = weights / max(float(weights.sum()), 1e-12)
    return found


def _without_padding(layer: NDArray[np.floating], kind: RawInput, known: Mapping[str, Any]) -> NDArray[np.floating]:
    """(heads, queries, keys) of the real tokens of a text; all of another modality's."""
    mask = next((known[name] for name in kind.values[1:]), None)
    if mask is None:  # what is padded is said by a text's mask alone
        return layer
    real, length = int(mask[0].sum()), mask.shape[1]
    return layer[:, : real if layer.shape[1] == length else None, : real if layer.shape[2] == length else None]


def _follow(
    layers: Sequence[NDArray[np.floating]],
    crossed: NDArray[np.float64] | None,
    kind: str,
    patches: tuple[int, int] | None,
) -> NDArray[np.float64] | None:
    """One weight per token, from the layers of a tower and from what attended to its tokens; of patches per time."""
    layers = [layer for layer in layers if layer.shape[1:] == layers[0].shape[1:]]
    if not layers:
        return crossed
    tokens = layers[0].shape[-1]
    first = _class_tokens(tokens, kind, patches)
    rolled = roll_out(layers)
    if crossed is not None and len(crossed) == tokens:
        weights = crossed @ rolled
    elif crossed is not None and first and len(crossed) == tokens - first:
        weights = crossed @ rolled[first:]
    else:
        weights = read_out(rolled, layers, first=first)
    weights = weights[first:]
    return weights.reshape(patches).sum(axis=0) if patches and len(weights) == np.prod(patches) else weights


def _class_tokens(tokens: int, kind: str, patches: tuple[int, int] | None) -> int:
    """Return how many tokens stand before an image's patches (none or one) or a spectrogram's (up to two)."""
    if patches:
        more = tokens - patches[0] * patches[1]
        return more if 0 <= more <= 2 else 0
    return int(kind == "image" and not _is_square(tokens) and _is_square(tokens - 1))


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count


def grid(weights: NDArray[np.floating]) -> NDArray[np.float64] | None:
    """Return weights (patches,) as a square (side, side), rows first; None where they make no square."""
    if not _is_square(len(weights)):
        return None
    side = round(len(weights) ** 0.5)
    return np.asarray(weights, np.float64).reshape(side, side)


def word_weights(
    weights: NDArray[np.floating], text: str, offsets: Sequence[tuple[int, int]], words: Sequence[int | None]
) -> list[tuple[str, float]]:
    """Return weights of tokens as weights of the words they are pieces of.

    Args:
        weights: (tokens,), special tokens included.
        offsets: (first, past) character of each token in ``text``.
        words: of each token the number of its word; None for special tokens.

    Returns:
        (word as it stands in ``text``, weight) in order; they sum to 1: what special tokens get is left out, since
        models park attention there (Clark et al. 2019, "What Does BERT Look At?").
    """
    found: dict[int, tuple[int, int, float]] = {}
    for weight, (start, end), word in zip(weights, offsets, words, strict=False):
        if word is None or start == end:
            continue
        first, past, before = found.get(word, (start, end, 0.0))
        found[word] = (min(first, start), max(past, end), before + float(weight))
    total = sum(weight for _, _, weight in found.values())
    return [(text[a:b], weight / total if total > 0 else 0.0) for a, b, weight in found.values()]
