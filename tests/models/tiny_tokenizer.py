"""A tokenizer of a few words, as Hugging Face keeps it."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.pipeline.small import COLOURS, SHAPES

WORDS = ("<unk>", "<pad>", "<s>", "</s>", "a", "cat", *COLOURS, *SHAPES)


def save_tokenizer(folder: Path) -> None:
    """Write ``tokenizer.json``."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
