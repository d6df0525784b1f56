"""Tokenizers as ``tokenizer.json``: cut and padded for the tower, and trimmed to what the texts need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgemm.runtime.errors import ModelError


def tokenizer_from_json(tokenizer_json: str) -> Tokenizer:
    """Parse a ``tokenizer.json``. Raises ModelError where the library can't."""
    try:
        return Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"tokenizer.json can't be read: {error}") from error


def with_limits(
    tokenizer_json: str, max_tokens: int, *, pad_token: str | None = None, length: int | None = None
) -> str:
    """The same tokenizer, cutting at ``max_tokens`` and padding to the longest text of a batch, or to ``length``.

    Args:
        tokenizer_json: content of the file.
        max_tokens: special tokens included.
        pad_token: default: the file's own padding token, or the first of ``[PAD]``, ``<pad>``, ``<|endoftext|>``.
        length: None pads to the longest text of a batch.

    Raises:
        ModelError: no padding token is in the vocabulary.
    """
    tokenizer = tokenizer_from_json(tokenizer_json)
    known: Sequence[str] = [pad_token] if pad_token else []
    if not known and tokenizer.padding:
        known = [tokenizer.padding["pad_token"]]
    for token in known or ("[PAD]", "<pad>", "<|endoftext|>", "</s>"):
        if (pad_id := tokenizer.token_to_id(token)) is not None:
            tokenizer.enable_padding(pad_id=pad_id, pad_token=token, length=length)
            tokenizer.enable_truncation(max_tokens)
            text: str = tokenizer.to_str()
            return text
    raise ModelError(f"tokenizer.json: no padding token found; expected one of {list(known) or '[PAD], <pad>'}")


def nearest_tokens(tokenizer_json: str, texts: Iterable[str], table: NDArray[np.float32]) -> list[str]:
    """Every token of the vocabulary, those first that mean something like the words of ``texts``.

    Nearness is the mean of the ten highest cosines between a token's vector and those of the texts' whole words, after
    the mean vector is taken away. Of the words that emoji are called by and that no training text holds, the nearest
    4,000 tokens cover more than the 12,000 most frequent.

    Args:
        tokenizer_json: content of the file.
        texts: what the vocabulary is needed for.
        table: (vocabulary, width) word vectors of a trained encoder.

    Returns:
        Tokens, the nearest first.
    """
    tokenizer = tokenizer_from_json(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    token = {i: t for t, i in tokenizer.get_vocab(with_added_tokens=True).items() if i < len(table)}
    used = {i for encoding in tokenizer.encode_batch(list(texts)) for i in encoding.ids}
    words = [i for i in sorted(used) if len(token[i]) > 2 and token[i].isalpha()]
    ids = sorted(token)
    if not words:
        return [token[i] for i in ids]
    vectors = table[ids] - table[ids].mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ vectors[np.searchsorted(ids, words)].T  # (vocabulary, words)
    highest = np.partition(cosines, max(0, len(words) - 10), axis=1)[:, -10:].mean(axis=1)
    return [token[ids[i]] for i in np.argsort(-highest, kind="stable")]


def trim_vocabulary(
    tokenizer_json: str,
    texts: Iterable[str],
    *,
    extra_words: int = 0,
    order: Sequence[str] = (),
    keep: Iterable[str] = (),
) -> tuple[str, list[int]]:
    """Drop the WordPiece tokens that ``texts`` never use, so that the word table shrinks.

    Kept are: special tokens, ``keep``, every token of ``texts``, every single character and ``##`` character
    (so that an unseen word falls into letters, not into [UNK]), and the first ``extra_words`` other words and pieces
    in ``order``, then in the vocabulary's own, which for BERT's is frequency.

    Args:
        order: tokens, of this vocabulary or of another.

    Returns:
        The new ``tokenizer.json``, and the old id of every new id (rows to select from the word table).
        Law: texts used for trimming get the same tokens before and after.

    Raises:
        ModelError: not a WordPiece tokenizer.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    if content.get("model", {}).get("type") != "WordPiece":
        raise ModelError(
            f"tokenizer.json: a {content.get('model', {}).get('type')} vocabulary can't be trimmed; expected "
            'WordPiece; set vocabulary = "full"'
        )
    vocab: dict[str, int] = content["model"]["vocab"]
    by_id = {i: token for token, i in vocab.items()}
    prefix = content["model"].get("continuing_subword_prefix", "##")
    special = {t["content"] for t in content.get("added_tokens", [])} | {content["model"]["unk_token"]} | set(keep)
    for token in content.get("post_processor", {}).get("special_tokens", {}) if content.get("post_processor") else ():
        special.add(token)
    if padding := content.get("padding"):
        special.add(padding["pad_token"])
    kept = {vocab[token] for token in special if token in vocab}
    kept |= {i for token, i in vocab.items() if len(token.removeprefix(prefix)) == 1}
    tokenizer = tokenizer_from_json(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for encoding in tokenizer.encode_batch(list(texts)):
        kept.update(encoding.ids)
    bare = {i: token.removeprefix(prefix) for i, token in by_id.items()}
    ranked = dict.fromkeys([*(vocab[token] for token in order if token in vocab), *sorted(by_id)])
    words = (i for i in ranked if i not in kept and bare[i].isascii() and bare[i].isalnum())
    kept.update(i for _, i in zip(range(extra_words), words, strict=False))
    ids = sorted(kept)
    new_id = {old: new for new, old in enumerate(ids)}
    content["model"]["vocab"] = {by_id[old]: new for old, new in new_id.items()}
    _renumber_(content, new_id)
    return json.dumps(content, ensure_ascii=False), ids


def _renumber_(content: dict[str, Any], new_id: dict[int, int]) -> None:
    """Put the new ids wherever the file repeats them: added tokens, padding, post-processor."""
    for token in content.get("added_tokens", []):
        token["id"] = new_id[token["id"]]
    if padding := content.get("padding"):
        padding["pad_id"] = new_id[padding["pad_id"]]
    post = content.get("post_processor") or {}
    for name in ("sep", "cls"):
        if name in post:  # BertProcessing: ["[SEP]", 102]
            post[name][1] = new_id[post[name][1]]
    if isinstance(post.get("special_tokens"), dict):  # TemplateProcessing
        for token in post["special_tokens"].values():
            token["ids"] = [new_id[i] for i in token["ids"]]
