"""A tokenizer of a few words, as Hugging Face keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.pipeline.shapes_recipe import COLOURS, SHAPES

WORDS = ("<unk>", "<pad>", "<s>", "</s>", "a", "cat", *COLOURS, *SHAPES)


def save_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json``."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, (texts, T), as the tokenizer itself pads."""
    made = tokenizer.encode_batch(list(texts))
    return np.array([e.ids for e in made]), np.array([e.attention_mask for e in made])
