"""A checkpoint's tokenizer as its owner uses it: what ``transformers.AutoTokenizer`` makes of all the files beside it.

``tokenizer.json`` alone doesn't say it. Lower-casing, special tokens, and the sides on which a text is cut and padded
may stand in ``tokenizer_config.json``, ``special_tokens_map.json`` or ``added_tokens.json``, and older checkpoints have
a vocabulary and no ``tokenizer.json`` at all. So AutoTokenizer reads the folder, its answer is written as one
``tokenizer.json``, and the device's own code has to make the same tokens with it of 200 odd texts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.normalizers import Lowercase, Normalizer
from tokenizers.normalizers import Sequence as Normalizers

from edgemm.models.checkpoint import is_pointer, pointer_error
from edgemm.models.odd_texts import odd_texts
from edgemm.models.tokenizer import tokenizer_from_json, with_limits
from edgemm.runtime.errors import EdgemmError, ModelError
from edgemm.runtime.fields import json_value, one_line
from edgemm.runtime.quiet import Quiet
from edgemm.runtime.readers.text import TextEncoder
from edgemm.runtime.tokenizer_safety import check_tokenizer

_ARGUMENTS = frozenset(
    {"padding_side", "truncation_side", "model_max_length", "do_lower_case", "add_prefix_space", "use_fast"}
)
"""What a folder may hand to AutoTokenizer besides its files (``tokenizer_args`` of sentence-transformers)."""

_FILES = ("tokenizer.json", "vocab.*", "*.model", "merges.txt", "bpe.codes")

_UNBOUNDED = 10**9  # transformers writes 10^30 where a tokenizer knows no limit


class OwnerTokenizer:
    """AutoTokenizer's reading of a folder.

    Args:
        folder: of the checkpoint.
        name: for messages.
        rows: of the model's word table. A token beyond them, which the model can't take, is left out where only the
            tokenizer's class brings it.
        lower: make texts lower case before anything else.
        arguments: for AutoTokenizer, beyond the files.

    Raises:
        ModelError: files that AutoTokenizer can't read or that need code of their own, no padding token, or tokens
            beyond the word table.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        rows: int,
        lower: bool = False,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        if odd := sorted(set(arguments or {}) - _ARGUMENTS):
            raise ModelError(f"{name}: asks for a tokenizer with {odd[0]}, which edgemm doesn't know; take it out")
        self._name, self._rows = name, rows
        self._owner = _auto_tokenizer(folder, name, dict(arguments or {}))
        backend = _backend(self._owner, folder, name)
        if lower:
            _lower_(backend)
            if self._owner.is_fast:
                _lower_(self._owner.backend_tokenizer)
            else:
                self._owner.do_lower_case = True
        self._json = self._written(backend, _raw_tokens(folder))

    @property
    def longest(self) -> int | None:
        """How many tokens the owner cuts a text at; None where no file says it."""
        limit = self._owner.model_max_length
        return int(limit) if limit < _UNBOUNDED else None

    def cut_at(self, max_tokens: int, *, length: int | None = None) -> str:
        """Return the ``tokenizer.json`` that cuts at ``max_tokens`` and pads to ``length``, held to the owner's.

        Raises:
            ModelError: a text of which the device would make other tokens than AutoTokenizer.
        """
        try:
            check_tokenizer(self._json.encode(), file="tokenizer.json")
            text = with_limits(self._json, max_tokens, length=length)
            self._hold(text, max_tokens, length)
        except (ModelError, KeyboardInterrupt, SystemExit):
            raise
        except EdgemmError as error:  # what a device would say of it
            raise ModelError(f"{self._name}: {error}") from error
        except BaseException as error:  # Rust's panics are no Exception, and a tokenizer's class may raise anything
            raise ModelError(f"{self._name}: the tokenizer fails on an odd text: {one_line(error)}") from error
        return text

    def _written(self, backend: Tokenizer, own: set[str]) -> str:
        owner = self._owner
        content: dict[str, Any] = json_value(backend.to_str())
        # a model that never saw a batch may have none; any token will do, since the mask hides it
        possible = (owner.pad_token, "[PAD]", "<pad>", owner.eos_token, owner.sep_token, owner.unk_token)
        ids = {token: backend.token_to_id(token) for token in possible if token is not None}
        pad = next((token for token, number in ids.items() if number is not None and number < self._rows), None)
        if pad is None:
            raise ModelError(f"{self._name}: the tokenizer has no padding token; set pad_token, save it again")
        owner.pad_token = pad
        kept: list[dict[str, Any]] = []
        for token in content["added_tokens"]:
            if owner.split_special_tokens and token["special"]:
                continue  # a text that spells one is split like any other
            if token["id"] < self._rows:
                kept.append(token)
            elif token["content"] in own:
                raise ModelError(
                    f"{self._name}: the tokenizer's '{token['content']}' has the id {token['id']}, and the model's "
                    f"word table {self._rows} rows; give it more with "
                    "resize_token_embeddings(len(tokenizer)), save it again"
                )
        content["added_tokens"] = kept
        direction = {"left": "Left", "right": "Right"}
        content["padding"] = {
            "strategy": "BatchLongest", "direction": direction[owner.padding_side], "pad_to_multiple_of": None,
            "pad_id": owner.pad_token_id, "pad_type_id": 0, "pad_token": pad,
        }  # fmt: skip
        content["truncation"] = {
            "direction": direction[owner.truncation_side], "max_length": 512, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        return json.dumps(content, ensure_ascii=False)

    def _hold(self, text: str, max_tokens: int, length: int | None) -> None:
        """Raise ModelError on the first odd text of which ``text`` makes other ids or another mask than the owner's."""
        tokenizer = tokenizer_from_json(text)
        spelled = sorted(self._owner.get_added_vocab().items(), key=lambda token: token[1])
        texts = odd_texts([token for token, _ in spelled])
        expected = self._ids(texts, max_tokens)
        usable = [i for i, row in enumerate(expected) if max(row, default=0) < self._rows]
        blank = [i for i in usable if not texts[i].strip()]  # which a device refuses
        tokenizer.no_padding()
        for i in blank:
            self._compare(texts[i], tokenizer.encode(texts[i]).ids, expected[i])
        encoder = TextEncoder(
            text.encode(), file="tokenizer.json", min_tokens=length or 1, max_tokens=max_tokens, where=self._name
        )
        rest = [i for i in usable if texts[i].strip() and expected[i]]
        for i in rest:
            ids, mask = encoder.encode([texts[i]])
            self._compare(texts[i], [int(t) for t in ids[0][mask[0] > 0]], expected[i])
        together = [texts[i] for i in rest]
        ids, mask = encoder.encode(together)
        padded = self._call(together, max_tokens, padding="max_length" if length else True)
        for i, of_text in enumerate(together):
            self._compare(of_text, ids[i].tolist(), padded["input_ids"][i], what="padded tokens")
            if "attention_mask" in padded:
                self._compare(of_text, mask[i].tolist(), padded["attention_mask"][i], what="mask")
        types = padded.get("token_type_ids")
        if types is not None and any(any(row) for row in types):
            raise ModelError(
                f"{self._name}: its tokenizer marks tokens of a single text with types other than 0, and a bundle's "
                "text towers know none; make the text tower in a python: factory (docs/your-own-model.md)"
            )

    def _ids(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        ids: list[list[int]] = self._call(texts, max_tokens, padding=False)["input_ids"]
        return ids

    def _call(self, texts: Sequence[str], max_tokens: int, *, padding: bool | str) -> Mapping[str, Any]:
        with _QUIET:
            made: Mapping[str, Any] = self._owner(list(texts), truncation=True, max_length=max_tokens, padding=padding)
        return made

    def _compare(self, text: str, got: Sequence[int], expected: Sequence[int], *, what: str = "tokens") -> None:
        if list(got) == list(expected):
            return
        at = next((i for i, (g, e) in enumerate(zip(got, expected, strict=False)) if g != e), None)
        at = min(len(got), len(expected)) if at is None else at
        raise ModelError(
            f"{self._name}: the device would make other {what} than transformers' {type(self._owner).__name__} of "
            f"{_short(text)}: at {at} {self._said(got, at, what)}, expected {self._said(expected, at, what)}; are "
            "tokenizer.json and the files beside it of one model? Save them again with save_pretrained"
        )

    def _said(self, ids: Sequence[int], at: int, what: str) -> str:
        if at >= len(ids):
            return "none"
        number = int(ids[at])
        return str(number) if what == "mask" else f"{self._owner.convert_ids_to_tokens(number)!r} ({number})"


def _short(text: str, most: int = 40) -> str:
    """Escaped, and cut to ``most`` characters."""
    return ascii(text) if len(text) <= most else f"{text[:most]!a}... ({len(text)} characters)"


def _auto_tokenizer(folder: Path, name: str, arguments: dict[str, Any]) -> Any:
    config = _config(folder / "tokenizer_config.json", name)
    if "auto_map" in (config or {}):
        raise ModelError(
            f"{name}: its tokenizer is code of its own (auto_map in tokenizer_config.json), which is never run; make "
            "the text tower in a python: factory (docs/your-own-model.md)"
        )
    files = [path for pattern in _FILES for path in folder.glob(pattern) if path.is_file()]
    for path in files:
        if is_pointer(path):
            raise pointer_error(path)
    if not files:
        raise ModelError(
            f"{name}: no tokenizer in {folder}: expected tokenizer.json, or a vocabulary such as vocab.txt; save it "
            "there with AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    import transformers

    reader: Any = transformers.AutoTokenizer
    try:
        with _QUIET:
            return reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **arguments)
    except BaseException as error:  # Rust's panics are no Exception, and a tokenizer's class may raise anything
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        path = folder / "tokenizer.json"
        if config is None and path.is_file():
            # no file names the tokenizer's class: transformers guessed it by the model's, and the guess doesn't fit
            return _plain_tokenizer(path, arguments)
        raise ModelError(f"{name}: transformers.AutoTokenizer can't read the tokenizer: {_hint(error)}") from error


def _plain_tokenizer(path: Path, arguments: Mapping[str, Any]) -> Any:
    """``tokenizer.json`` as it stands."""
    import transformers

    tokenizer = tokenizer_from_json(path.read_text(encoding="utf-8"))
    limited = with_limits(tokenizer.to_str(), 512)  # finds the padding token
    pad = tokenizer_from_json(limited).padding["pad_token"]
    sides = {k: v for k, v in arguments.items() if k.endswith("_side") or k == "model_max_length"}
    cls: Any = transformers.PreTrainedTokenizerFast
    return cls(tokenizer_object=tokenizer, pad_token=pad, **sides)


def _hint(error: BaseException) -> str:
    said = one_line(error)
    for package in ("sentencepiece", "tiktoken", "protobuf"):
        if package in said.lower():
            return f"{type(error).__name__}; it needs a package: pip install {package}"
    return said


def _backend(owner: Any, folder: Path, name: str) -> Tokenizer:
    """Return the tokenizer in Rust behind a fast one; of a slow one its conversion, or ``tokenizer.json``."""
    if owner.is_fast:
        return Tokenizer.from_str(owner.backend_tokenizer.to_str())
    path = folder / "tokenizer.json"
    if path.is_file():
        return tokenizer_from_json(path.read_text(encoding="utf-8"))
    from transformers.convert_slow_tokenizer import convert_slow_tokenizer

    try:
        return convert_slow_tokenizer(owner)
    except Exception as error:  # by kind of tokenizer
        raise ModelError(
            f"{name}: {type(owner).__name__} runs in Python alone, and a device needs a tokenizer.json: "
            f"{one_line(error)}"
        ) from error


def _lower_(tokenizer: Tokenizer) -> None:
    """Lower case first, in place, as sentence-transformers does for ``do_lower_case``."""
    known: Normalizer | None = tokenizer.normalizer
    steps = list(known) if isinstance(known, Normalizers) else [known] if known is not None else []
    if not any(isinstance(step, Lowercase) for step in steps):
        tokenizer.normalizer = Normalizers([Lowercase(), *steps])


def _raw_tokens(folder: Path) -> set[str]:
    """Tokens that the owner has added, by the files."""
    found: set[str] = set()
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):  # AutoTokenizer has read what there is
        content = json_value((folder / "tokenizer.json").read_text(encoding="utf-8"))
        found |= {token["content"] for token in content.get("added_tokens") or ()}
    with suppress(OSError, ValueError, TypeError):
        found |= set(json_value((folder / "added_tokens.json").read_text(encoding="utf-8")))
    return found


def _config(path: Path, name: str) -> dict[str, Any] | None:
    try:
        content = json_value(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: {path.name} can't be read ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{name}: {path.name}: got {type(content).__name__}, expected an object")
    return content


# what transformers logs of texts that are too long, and of its own conversions
_QUIET = Quiet(loggers=("transformers",), level=logging.ERROR)
