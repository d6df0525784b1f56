"""Zero-shot classification: the labels of a split as sentences, and which of them lies nearest to an image or sound.

Source: Radford et al. 2021, "Learning transferable visual models from natural language supervision", section 3.1.4: a
class is the normalised mean of the unit embeddings of its prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgemm.measure.retrieval import distinct, embed, embedded, random_recall, ranks_of
from edgemm.measure.scores import Scored
from edgemm.runtime.bundle import Bundle
from edgemm.runtime.prediction import unit

if TYPE_CHECKING:
    from edgemm.data.dataset import Sample


def zero_shot(
    bundle: Bundle,
    split: str,
    samples: Sequence[Sample],
    vectors: Mapping[str, np.ndarray],
    *,
    prompts: Sequence[str],
    advance: Callable[[int], None] = lambda _: None,
) -> list[Scored]:
    """Return every modality but text against the split's labels; nothing without prompts, text or two labels.

    Args:
        bundle: embeds the prompts.
        vectors: its ``embeddings`` of these samples.
        prompts: templates; ``{}`` is where the label goes.
        advance: told how many prompts were embedded.
    """
    names = zero_shot_labels(samples)
    outputs = embedded(bundle)
    text = next((m for m in outputs if bundle.manifest.inputs[m].inline), None)
    if not prompts or len(names) < 2 or text is None:
        return []
    said = [prompt.replace("{}", name) for name in names for prompt in prompts]
    classes = embed(bundle, text, outputs[text], said, advance=advance)
    classes = unit(classes.reshape(len(names), len(prompts), -1).mean(axis=1))
    index = {name: i for i, name in enumerate(names)}
    found = []
    for modality, held in vectors.items():
        items = distinct([s for s in samples if s.label is not None], modality)
        if modality == text or not items.raws:
            continue
        place = {raw: i for i, raw in enumerate(distinct(samples, modality).raws)}
        ranks, positives = ranks_of(held[[place[raw] for raw in items.raws]], classes, items.labels, names)
        task = f"zero-shot {modality}"
        details: dict[str, Any] = {
            "split": split,
            "task": task,
            "clusters": list(items.labels),
            "cutoffs": {"top-1": 1, "top-5": 5},
            "chance": {f"top-{k}": random_recall(positives, len(names), k) for k in (1, 5)},
            "truth": [index[label] for label in items.labels],
            "labels": list(names),
            "prompts": list(prompts),
        }
        found.append(Scored("ranks", split, task, tuple(map(float, ranks)), details))
    return found


def zero_shot_labels(samples: Sequence[Sample]) -> list[str]:
    """Return the distinct labels of a split, sorted."""
    return sorted({s.label for s in samples if s.label is not None})
