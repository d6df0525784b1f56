"""Texts: strings, made into ids and mask by a ``tokenizer.json``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from edgemm.runtime.errors import BundleError, EdgemmError, EngineNotInstalled, InputError
from edgemm.runtime.fields import Fields, one_line
from edgemm.runtime.hints import pip_install
from edgemm.runtime.paths import check_path
from edgemm.runtime.readers.base import RawInput, Taken
from edgemm.runtime.signature import Signature, TensorSpec
from edgemm.runtime.tokenizer_safety import check_tokenizer
from edgemm.runtime.values import Samples, Value, name_of, size_range

MOST_TOKENS = 2**20  # of one text
CHARACTERS_OF_A_TOKEN = 64  # that are looked at of a long text; words of a language have 5 to 20
LEAST_LOOKED_AT = 1 << 14  # characters
LONGEST_TEXT = 1 << 20  # characters that are looked at before a text that makes too few tokens is refused


@dataclass(frozen=True, slots=True)
class TextInput(RawInput):
    """Raw strings, tokenized by ``tokenizer`` (a ``tokenizer.json`` in the bundle) into int64 ids and mask."""

    tokenizer: str
    max_tokens: int
    ids: str = "input_ids"
    mask: str = "attention_mask"
    kind: ClassVar[str] = "text"
    inline: ClassVar[bool] = True
    takes: ClassVar[tuple[str, int] | None] = ("int64", 2)

    @property
    def values(self) -> tuple[str, ...]:
        """See RawInput."""
        return self.ids, self.mask

    @property
    def files(self) -> dict[str, str]:
        """See RawInput."""
        return {"tokenizer": self.tokenizer}

    @classmethod
    def from_json(cls, fields: Fields) -> TextInput:
        """See RawInput."""
        return cls(
            tokenizer=check_path(fields.string("tokenizer"), fields.path("tokenizer")),
            max_tokens=fields.integer("max_tokens", minimum=1, maximum=MOST_TOKENS),
            ids=fields.string("ids", "input_ids"),
            mask=fields.string("mask", "attention_mask"),
        )

    def to_json(self) -> dict[str, Any]:
        """See RawInput."""
        said = {"kind": self.kind, "tokenizer": self.tokenizer, "max_tokens": self.max_tokens}
        return {**said, "ids": self.ids, "mask": self.mask}

    def check(self, spec: TensorSpec, signature: Signature, *, where: str) -> None:
        """See RawInput."""
        RawInput.check(self, spec, signature, where=where)
        if signature.least(spec.shape[1]) > MOST_TOKENS:
            raise BundleError(f"{where}: a part takes more than {MOST_TOKENS} tokens at least")

    def reader(self, modality: str, taken: Taken, read: Callable[[str], bytes]) -> TextReader:
        """See RawInput."""
        return TextReader(self, modality, taken, read)

    def golden(self, held: str, read: Callable[[str], bytes]) -> Any:  # noqa: ARG002
        """See RawInput: the text itself."""
        return held

    def noise(self, taken: Taken, rng: np.random.Generator) -> Any:  # noqa: ARG002
        """See RawInput: words that make about as many tokens as is usual."""
        _, dims = taken[self.ids]
        return "a " * max(1, dims["tokens"].opt - 2 if "tokens" in dims else self.max_tokens // 2)


class TextReader:
    """See ``Reader``: strings. The tokenizer is read when the first comes."""

    def __init__(self, raw: TextInput, modality: str, taken: Taken, read: Callable[[str], bytes]) -> None:
        self._raw, self._modality, self._taken, self._read = raw, modality, taken, read
        self._encoder: TextEncoder | None = None
        self._reading = threading.Lock()

    def samples(self, raw: Any) -> Samples:
        """See Reader."""
        return raw if isinstance(raw, (list, tuple)) else [raw]

    def values(self, many: Samples) -> dict[str, Value]:
        """See Reader."""
        if self._encoder is None:
            with self._reading:  # threads that come meanwhile wait, and take the same
                if self._encoder is None:
                    self._encoder = self._read_tokenizer()
        ids, mask = self._encoder.encode(many)
        return {self._raw.ids: ids, self._raw.mask: mask}

    def _read_tokenizer(self) -> TextEncoder:
        raw = self._raw
        spec, dims = self._taken[raw.ids]
        low, high = size_range(spec, dims, axis=1)
        longest = raw.max_tokens if high is None else min(raw.max_tokens, high)
        return TextEncoder(
            self._read(raw.tokenizer), file=raw.tokenizer, min_tokens=low, max_tokens=longest, where=self._modality
        )


class TextEncoder:
    """Strings to ids and mask by a ``tokenizer.json``.

    Args:
        data: the file.
        file, where: for messages.
        min_tokens, max_tokens: shorter batches are padded, longer texts cut (special tokens stay), each on the side
            that the file names.

    Raises:
        BundleError: ``tokenizers`` cannot read the file.
        EngineNotInstalled: ``tokenizers`` is not installed.
    """

    def __init__(self, data: bytes, *, file: str, min_tokens: int, max_tokens: int, where: str) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise EngineNotInstalled(f"{where}: tokenizers is not installed; {pip_install('tokenizers')}") from error
        check_tokenizer(data, file=file)
        try:
            self._tokenizer = Tokenizer.from_str(data.decode("utf-8"))
            self._pad_id = _pad_id(self._tokenizer)
            self._pads_left = (self._tokenizer.padding or {}).get("direction") == "left"
            self._tokenizer.no_padding()
            cut = (self._tokenizer.truncation or {}).get("direction", "right")
            self._tokenizer.enable_truncation(max_length=max_tokens, direction=cut)
            added = int(self._tokenizer.num_special_tokens_to_add(False))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # plain Exception, and panics, which are none
            raise BundleError(f"{file}: not a tokenizer.json: {one_line(error)}") from error
        if added >= max_tokens:
            raise BundleError(f"{file}: it adds {added} special tokens, which leaves none of {max_tokens} for a text")
        self._cuts_left = cut == "left"
        self._file = file
        self._max_tokens = max_tokens
        self._looked_at = max(LEAST_LOOKED_AT, CHARACTERS_OF_A_TOKEN * max_tokens)
        self._min_tokens = min_tokens
        self._where = where

    def encode(self, texts: Samples) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask, int64 (batch, longest). Raises InputError on an empty text or something else than a string."""
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(f"{name_of(self._where, i, texts)}: got {type(text).__name__}, expected a string")
            if not text or text.isspace():
                raise InputError(f"{name_of(self._where, i, texts)}: the text is empty")
        try:
            if len(texts) == 1 or any(len(text) > self._looked_at for text in texts):
                rows = [self._ids(text, name_of(self._where, i, texts)) for i, text in enumerate(texts)]
            else:
                rows = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        except (EdgemmError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # lone surrogates, plain Exception, and panics, which are none
            raise InputError(f"{self._where}: cannot be tokenized: {one_line(error)}") from error
        if (most := max(map(len, rows))) > self._max_tokens:
            raise BundleError(f"{self._file}: it makes {most} tokens of a text, expected at most {self._max_tokens}")
        longest = max(self._min_tokens, *(len(row) for row in rows)) if len(rows) > 1 else len(rows[0])
        if len(rows) == 1 and longest >= self._min_tokens:
            if longest == 0:
                raise InputError(f"{self._where}: the tokenizer makes no tokens of {texts[0][:40]!r}")
            ids = np.array(rows, np.int64)
            return ids, np.ones_like(ids)
        longest = max(longest, self._min_tokens)
        ids = np.full((len(rows), longest), self._pad_id, np.int64)
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            if not row:
                raise InputError(f"{name_of(self._where, i, texts)}: the tokenizer makes no tokens of it")
            filled = slice(longest - len(row), None) if self._pads_left else slice(len(row))
            ids[i, filled] = row
            mask[i, filled] = 1
        return ids, mask

    def _ids(self, text: str, where: str) -> list[int]:
        """Return the ids of one text. Of a long one no more is looked at than what fills ``max_tokens`` and goes on."""
        looked_at = self._looked_at
        while True:
            short = len(text) <= looked_at
            piece = text if short else text[-looked_at:] if self._cuts_left else text[:looked_at]
            encoding = self._tokenizer.encode(piece)
            if short or encoding.overflowing:
                ids: list[int] = encoding.ids
                return ids
            if looked_at >= LONGEST_TEXT:
                raise InputError(
                    f"{where}: a text of {len(text)} characters, of which {looked_at} make fewer than "
                    f"{self._max_tokens} tokens; give a shorter text"
                )
            looked_at = min(8 * looked_at, LONGEST_TEXT)


def _pad_id(tokenizer: Any) -> int:
    if tokenizer.padding:
        return int(tokenizer.padding["pad_id"])
    for token in ("[PAD]", "<pad>", "<|endoftext|>"):
        if (found := tokenizer.token_to_id(token)) is not None:
            return int(found)
    return 0
