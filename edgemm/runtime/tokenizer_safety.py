"""Tokenizer safety: what a ``tokenizer.json`` may make of a text, found before the ``tokenizers`` library reads it.

The library trusts the file: a charsmap of a few bytes asks for gigabytes, a chain of replacements turns a letter into
10**8, a pattern may take longer than anybody waits, and much else ends in a Rust panic. Refused are patterns that
repeat what repeats, references and recursion in them; replacements that grow a text more than ``LARGEST_GROWTH`` times;
charsmaps that don't parse; templates with tokens that they don't define; more than ``MOST_COMPONENTS`` components.

Source: the ``tokenizers`` library 0.22 (serialization of its components); sentencepiece (layout of a charsmap).
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterator
from typing import Any

from edgemm.runtime.errors import BundleError
from edgemm.runtime.fields import parse_json, show

MOST_COMPONENTS = 64
LARGEST_GROWTH = 1024  # times; sentencepiece's own charsmaps reach 33
LONGEST_PATTERN = 4096  # characters
LONGEST_WORD = 1000  # that WordPiece looks up piece by piece, in time of its square; BERT's has 100
_PARTS = ("normalizer", "pre_tokenizer", "post_processor")


def check_tokenizer(data: bytes, *, file: str) -> None:
    """Raise BundleError, naming the component, where a ``tokenizer.json`` goes beyond the limits of this module."""
    value = parse_json(data, file=file)
    if not isinstance(value, dict):
        raise BundleError(f"{file}: not a tokenizer.json: got {show(value)}, expected an object")
    growths: list[tuple[int, frozenset[str] | None, frozenset[str] | None]] = []
    count = 0
    for part in _PARTS:
        for component in _components(value.get(part)):
            count += 1
            if count > MOST_COMPONENTS:
                raise BundleError(f"{file}: more than {MOST_COMPONENTS} components that change a text")
            where = f"{file}: {part} {str(component.get('type'))[:40]}"
            _check_component(component, where)
            if part == "normalizer" and (growth := _growth(component, where)) is not None:
                growths.append(growth)
    if (times := _chained(growths)) > LARGEST_GROWTH:
        raise BundleError(
            f"{file}: its replacements make a text up to {times} times longer, expected at most {LARGEST_GROWTH} times"
        )
    model = value.get("model")
    longest = model.get("max_input_chars_per_word") if isinstance(model, dict) else None
    if isinstance(longest, int) and longest > LONGEST_WORD:
        raise BundleError(f"{file}: model: max_input_chars_per_word is {longest}, expected at most {LONGEST_WORD}")


def _components(value: Any) -> Iterator[dict[str, Any]]:
    """Yield a component, and those that it is a sequence of, in order."""
    left = [value]
    while left:
        one = left.pop(0)
        if isinstance(one, dict):
            yield one
            inner = [v for key in ("normalizers", "pretokenizers", "processors") if isinstance(v := one.get(key), list)]
            left[:0] = [item for items in inner for item in items]


def _check_component(component: dict[str, Any], where: str) -> None:
    kind = component.get("type")
    pattern = component.get("pattern")
    if isinstance(pattern, dict):
        if isinstance(regex := pattern.get("Regex"), str):
            check_regex(regex, where)
        if pattern.get("String") == "":
            raise BundleError(f"{where}: an empty pattern")
    elif pattern == "":
        raise BundleError(f"{where}: an empty pattern")
    if kind == "FixedLength" and not (type(n := component.get("length")) is int and n >= 1):
        raise BundleError(f"{where}: length is {show(component.get('length'))}, expected an integer of at least 1")
    if kind == "TemplateProcessing":
        _check_template(component, where)


def _check_template(component: dict[str, Any], where: str) -> None:
    """Every special token that a template places is one that it defines, with as many ids as words."""
    defined = component.get("special_tokens")
    defined = defined if isinstance(defined, dict) else {}
    for name, token in defined.items():
        ids, words = (token.get("ids"), token.get("tokens")) if isinstance(token, dict) else (None, None)
        if not isinstance(ids, list) or not isinstance(words, list) or len(ids) != len(words):
            raise BundleError(f"{where}: special token {name[:40]!r} has not one id for each of its tokens")
    for key in ("single", "pair"):
        pieces = component.get(key)
        count = 0
        for piece in pieces if isinstance(pieces, list) else ():
            special = piece.get("SpecialToken") if isinstance(piece, dict) else None
            if isinstance(special, dict):
                if (name := str(special.get("id"))) not in defined:
                    raise BundleError(f"{where}: its template places {name[:40]!r}, which it doesn't define")
                count += len(defined[name]["ids"])
        if count > LARGEST_GROWTH:
            raise BundleError(f"{where}: it adds {count} special tokens, expected at most {LARGEST_GROWTH}")


# --- growth ----------------------------------------------------------------------------------------------------------


def _growth(component: dict[str, Any], where: str) -> tuple[int, frozenset[str] | None, frozenset[str] | None] | None:
    """How many times longer a component makes what it matches, the characters it matches and makes; None: any."""
    kind = component.get("type")
    if kind == "Replace":
        made = component.get("content")
        made = made if isinstance(made, str) else ""
        pattern = component.get("pattern")
        literal = pattern.get("String") if isinstance(pattern, dict) else pattern
        if isinstance(literal, str) and literal:
            return -(-_bytes(made) // _bytes(literal)), frozenset(literal), frozenset(made)
        return _bytes(made) + 1, None, frozenset(made)
    if kind == "Precompiled":
        return _longest_of_charsmap(component.get("precompiled_charsmap"), where), None, None
    if kind == "Prepend" and isinstance(made := component.get("prepend"), str):
        return _bytes(made), frozenset(), frozenset(made)
    return None


def _chained(growths: list[tuple[int, frozenset[str] | None, frozenset[str] | None]]) -> int:
    """Return how many times longer one character may become, where each step may match what those before it made."""
    totals: list[int] = []
    for i, (times, _, made) in reversed(list(enumerate(growths))):
        later = [1]
        for total, (_, matched, _) in zip(totals, reversed(growths[i + 1 :]), strict=True):
            if made is None or matched is None or made & matched:
                later.append(total)
        totals.append(max(times, 1) * max(later))
    return max(totals, default=1)


def _longest_of_charsmap(text: Any, where: str) -> int:
    """Bytes of the longest replacement. A charsmap: the size of a trie, the trie, then strings that end with NUL."""
    if text is None or text == "":
        return 1
    try:
        data = base64.b64decode(text, validate=True)
        (size,) = struct.unpack_from("<I", data)
    except (TypeError, ValueError, struct.error):
        raise BundleError(f"{where}: its charsmap can't be parsed") from None
    if size % 4 or not 4 <= size <= len(data) - 4:
        raise BundleError(f"{where}: its charsmap names a trie of {size} bytes, and has {len(data) - 4}")
    return max(map(len, data[4 + size :].split(b"\0")), default=1)


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


# --- patterns --------------------------------------------------------------------------------------------------------


def check_regex(pattern: str, where: str) -> None:
    """Raise BundleError where a pattern may take a time beyond all bounds, or refers to itself.

    Such a pattern repeats a group that can match one text in several ways: one that repeats something itself
    (``(a+)+``), or whose alternatives or optional pieces begin alike (``(a|ab)*``, ``(a?a)+``). Backtracking then tries
    all of them.
    """
    if len(pattern) > LONGEST_PATTERN:
        raise BundleError(f"{where}: a pattern of {len(pattern)} characters, expected at most {LONGEST_PATTERN}")
    try:
        reason = _Regex(pattern).reason()
    except (IndexError, ValueError, RecursionError):
        raise BundleError(f"{where}: the pattern {pattern[:60]!r} can't be parsed") from None
    if reason:
        raise BundleError(f"{where}: the pattern {pattern[:60]!r} {reason}; expected one that takes a bounded time")


class _Regex:
    """A walk through one pattern of Oniguruma's Ruby syntax, as far as its repetitions need it."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def reason(self) -> str | None:
        """Return why it is refused, or None."""
        try:
            self._alternatives(0)
            if self._at < len(self._pattern):
                raise ValueError("a bracket too many")
        except _Unbounded as error:
            return str(error)
        return None

    def _alternatives(self, depth: int) -> tuple[bool, bool]:
        """Read to the end of a group; returns whether it repeats something, and whether it's ambiguous."""
        if depth > 64:
            raise ValueError("nested too deep")
        pattern = self._pattern
        repeats = ambiguous = False
        starts: list[str | None] = []  # the first character of each alternative; None: any
        first: str | None = ""
        optional: str | None = ""  # the first character of an optional piece that was just read
        while self._at < len(pattern) and pattern[self._at] != ")":
            if pattern[self._at] == "|":
                starts.append(first)
                first, optional = "", ""
                self._at += 1
                continue
            start, inner_repeats, inner_ambiguous, is_group = self._atom(depth)
            low, high = self._quantifier()
            if high > 1:
                if is_group and (inner_repeats or inner_ambiguous):
                    raise _Unbounded("repeats a group that can match a text in several ways")
                repeats = repeats or low != high
            repeats, ambiguous = repeats or inner_repeats, ambiguous or inner_ambiguous
            if optional != "" and (start is None or optional is None or start == optional):
                ambiguous = True
            optional = start if (low, high) == (0, 1) else ""
            if first == "":
                first = start
        starts.append(first)
        if len(starts) > 1:
            known = [start for start in starts if start]
            ambiguous = ambiguous or len(known) != len(starts) or len(set(known)) != len(known)
        return repeats, ambiguous

    def _atom(self, depth: int) -> tuple[str | None, bool, bool, bool]:
        """Read one piece: its first character (None: any), whether it repeats, is ambiguous, is a group."""
        pattern, char = self._pattern, self._pattern[self._at]
        self._at += 1
        if char == "(":
            if pattern.startswith("?#", self._at):
                self._at = pattern.index(")", self._at) + 1
                return "", False, False, False
            self._group_opening()
            if pattern[self._at - 1] == ")":  # options alone: (?i)
                return "", False, False, False
            repeats, ambiguous = self._alternatives(depth + 1)
            if pattern[self._at] != ")":
                raise ValueError("a bracket too few")
            self._at += 1
            return None, repeats, ambiguous, True
        if char == "[":
            self._class()
            return None, False, False, False
        if char == "\\":
            return self._escape(), False, False, False
        return (None if char == "." else char), False, False, False

    def _group_opening(self) -> None:
        pattern = self._pattern
        if not pattern.startswith("?", self._at):
            return
        self._at += 1
        for opening in ("<=", "<!", ":", "=", "!", ">"):
            if pattern.startswith(opening, self._at):
                self._at += len(opening)
                return
        if pattern[self._at] in "<'":
            self._at = pattern.index(">" if pattern[self._at] == "<" else "'", self._at + 1) + 1
            return
        if pattern[self._at] in "(~&R0123456789P":
            raise _Unbounded("refers to itself or asks for a condition")
        while pattern[self._at] not in ":)":  # options
            self._at += 1
        self._at += 1

    def _class(self) -> None:
        depth = 1
        if self._pattern[self._at] == "^":
            self._at += 1
        if self._pattern[self._at] == "]":
            self._at += 1
        while depth:
            char = self._pattern[self._at]
            self._at += 2 if char == "\\" else 1
            depth += (char == "[") - (char == "]")

    def _escape(self) -> str | None:
        char = self._pattern[self._at]
        self._at += 1
        if char in "123456789kg":
            raise _Unbounded("refers to one of its groups")
        if char in "pPx" and self._pattern.startswith("{", self._at):
            self._at = self._pattern.index("}", self._at) + 1
            return None
        if char in "rnt":
            return "\\" + char
        return None if char.isalnum() else char

    def _quantifier(self) -> tuple[float, float]:
        """Fewest and most repetitions of the piece before; (1, 1) where nothing is said."""
        low: float = 1
        high: float = 1
        while self._at < len(self._pattern):
            char = self._pattern[self._at]
            if char in "*+?":
                few, most_of = _REPEATS[char]
                self._at += 1
            elif char == "{":
                end = self._pattern.find("}", self._at)
                inside = self._pattern[self._at + 1 : end] if end > 0 else ""
                least, comma, most = inside.partition(",")
                if not (least.strip().isdigit() or most.strip().isdigit()):
                    return low, high  # a brace like any character
                self._at = end + 1
                few = float(least or 0)
                most_of = float(most) if most.strip() else math.inf if comma else few
            else:
                break
            if (low, high) == (1, 1):
                low, high = few, most_of
            elif char in "?+":
                continue  # lazy or possessive
            else:
                raise _Unbounded("repeats a repetition")
        return low, high


_REPEATS: dict[str, tuple[float, float]] = {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}


class _Unbounded(Exception):
    """Why a pattern is refused, in a few words."""
