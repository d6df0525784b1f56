"""Tokenizers as ``tokenizer.json``: cut and padded for the tower, and trimmed to what the texts need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgemm.runtime.errors import ModelError
from edgemm.runtime.fields import json_value


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

    It cuts and pads on the sides that the file names; one that names none does so on the right.

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
            pads = (tokenizer.padding or {}).get("direction", "right")
            tokenizer.enable_padding(pad_id=pad_id, pad_token=token, length=length, direction=pads)
            limit_(tokenizer, max_tokens)
            text: str = tokenizer.to_str()
            return text
    raise ModelError(f"tokenizer.json: no padding token found; expected one of {list(known) or '[PAD], <pad>'}")


def limit_(tokenizer: Tokenizer, max_tokens: int) -> None:
    """Cut texts at ``max_tokens``, on the side that ``tokenizer`` cuts already, in place."""
    tokenizer.enable_truncation(max_tokens, direction=(tokenizer.truncation or {}).get("direction", "right"))


def nearest_tokens(tokenizer_json: str, texts: Iterable[str], table: NDArray[np.float32]) -> list[str]:
    """Return every token of the vocabulary, those first that mean something like the words of ``texts``.

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

    Kept are: special tokens and those of ``keep``, every token of ``texts``, every single character and ``##``
    character (so that an unseen word falls into letters, not into [UNK]), and the first ``extra_words`` other words
    and pieces in ``order``, then in the vocabulary's own, which for BERT's is frequency.

    Args:
        order: tokens, of this vocabulary or of another.

    Tokens that the owner has added behind the vocabulary stay where they are special or a text holds them; the
    others are words like any other then.

    Returns:
        The new ``tokenizer.json``, and the old id of every new id (rows to select from the word table).
        Law: texts used for trimming get the same tokens before and after (``hold_trimmed``).

    Raises:
        ModelError: not a WordPiece tokenizer.
    """
    content: dict[str, Any] = json_value(tokenizer_json)
    if content.get("model", {}).get("type") != "WordPiece":
        raise ModelError(
            f"tokenizer.json: a {content.get('model', {}).get('type')} vocabulary can't be trimmed; expected "
            'WordPiece; set vocabulary = "full"'
        )
    added: list[dict[str, Any]] = content.get("added_tokens") or []
    vocab: dict[str, int] = {t["content"]: t["id"] for t in added} | content["model"]["vocab"]
    by_id = {i: token for token, i in vocab.items()}
    prefix = content["model"].get("continuing_subword_prefix", "##")
    special = {t["content"] for t in added if t["special"]} | {content["model"]["unk_token"]} | set(keep)
    if padding := content.get("padding"):
        special.add(padding["pad_token"])
    kept = {vocab[token] for token in special if token in vocab} | set(_template_ids(content.get("post_processor")))
    kept |= {i for token, i in content["model"]["vocab"].items() if len(token.removeprefix(prefix)) == 1}
    tokenizer = tokenizer_from_json(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for encoding in tokenizer.encode_batch(list(texts)):
        kept.update(encoding.ids)
    bare = {i: token.removeprefix(prefix) for i, token in by_id.items()}
    ranked = dict.fromkeys([*(vocab[token] for token in order if token in vocab), *sorted(by_id)])
    known = set(content["model"]["vocab"].values())
    words = (i for i in ranked if i not in kept and i in known and bare[i].isascii() and bare[i].isalnum())
    kept.update(i for _, i in zip(range(extra_words), words, strict=False))
    ids = sorted(kept)
    new_id = {old: new for new, old in enumerate(ids)}
    content["model"]["vocab"] = {by_id[old]: new for old, new in new_id.items() if old in known}
    content["added_tokens"] = [token for token in added if token["id"] in new_id]
    _renumber_(content, new_id)
    return json.dumps(content, ensure_ascii=False), ids


def added_tokens(tokenizer_json: str) -> list[str]:
    """Return what a tokenizer finds in a text before anything else, by id."""
    content: dict[str, Any] = json_value(tokenizer_json)
    return [token["content"] for token in sorted(content.get("added_tokens") or (), key=lambda token: token["id"])]


def hold_trimmed(whole: str, trimmed: str, rows: Sequence[int], texts: Sequence[str]) -> None:
    """Raise ModelError where a word, of which every token was kept, has other tokens in the trimmed vocabulary.

    Args:
        whole, trimmed: ``tokenizer.json`` before and after ``trim_vocabulary``.
        rows: the old id of every new one.
        texts: to compare on. A text with an added token that was dropped is cut into other words, and left out.
    """
    before, after = tokenizer_from_json(whole), tokenizer_from_json(trimmed)
    for tokenizer in (before, after):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    kept = set(rows)
    dropped = set(added_tokens(whole)) - set(added_tokens(trimmed))
    for text in texts:
        if any(token in text for token in dropped):
            continue
        ours = _by_word(after.encode(text))
        for place, (word, ids) in enumerate(_by_word(before.encode(text))):
            if not kept.issuperset(ids):
                continue
            got = [rows[i] for i in ours[place][1]] if place < len(ours) else []
            if got != ids:
                raise ModelError(
                    f"tokenizer.json: trimmed, it reads word {word} of {text[:40]!a} as "
                    f"{[before.id_to_token(i) for i in got]}, expected {[before.id_to_token(i) for i in ids]}; set "
                    'vocabulary = "full"'
                )


def _by_word(encoding: Any) -> list[tuple[int | None, list[int]]]:
    """Return each word's ids; special tokens, which are no word, one by one."""
    found: list[tuple[int | None, list[int]]] = []
    for word, token in zip(encoding.word_ids, encoding.ids, strict=True):
        if word is not None and found and found[-1][0] == word:
            found[-1][1].append(token)
        else:
            found.append((word, [token]))
    return found


def _template_ids(post: dict[str, Any] | None) -> list[int]:
    """Ids that a post-processor puts around a text."""
    if not post:
        return []
    found = [post[name][1] for name in ("sep", "cls") if name in post]  # BertProcessing: ["[SEP]", 102]
    if isinstance(post.get("special_tokens"), dict):  # TemplateProcessing
        found += [i for token in post["special_tokens"].values() for i in token["ids"]]
    return found + [i for inner in post.get("processors", ()) for i in _template_ids(inner)]  # Sequence


def _renumber_(content: dict[str, Any], new_id: dict[int, int]) -> None:
    """Put the new ids wherever the file repeats them: added tokens, padding, post-processor."""
    for token in content.get("added_tokens", []):
        token["id"] = new_id[token["id"]]
    if padding := content.get("padding"):
        padding["pad_id"] = new_id[padding["pad_id"]]
    _renumber_template_(content.get("post_processor") or {}, new_id)


def _renumber_template_(post: dict[str, Any], new_id: dict[int, int]) -> None:
    for name in ("sep", "cls"):
        if name in post:  # BertProcessing: ["[SEP]", 102]
            post[name][1] = new_id[post[name][1]]
    if isinstance(post.get("special_tokens"), dict):  # TemplateProcessing
        for token in post["special_tokens"].values():
            token["ids"] = [new_id[i] for i in token["ids"]]
    for inner in post.get("processors", ()):
        _renumber_template_(inner, new_id)
