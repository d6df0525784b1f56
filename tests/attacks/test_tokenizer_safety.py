"""Tokenizers whose components would hang, flood or end the process: refused before the library reads them."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import bundles
import numpy as np
import pytest

from edgemm.runtime.errors import BundleError, EdgemmError, InputError
from edgemm.runtime.readers.text import LONGEST_TEXT, TextEncoder
from edgemm.runtime.tokenizer_safety import check_regex

BASE = json.loads(bundles.tokenizer_json())


def encoder(max_tokens: int = 8, **changes: Any) -> TextEncoder:
    data = json.dumps({**BASE, **changes}).encode()
    return TextEncoder(data, file="tokenizer.json", min_tokens=1, max_tokens=max_tokens, where="text")


def split(pattern: str) -> dict[str, Any]:
    kind = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"pre_tokenizer": kind}


def replace(pattern: dict[str, str], content: str, times: int = 1) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": pattern, "content": content}
    return {"normalizer": {"type": "Sequence", "normalizers": [one] * times}}


def charsmap(data: bytes) -> dict[str, Any]:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}}


def template(single: list[dict[str, Any]], special: dict[str, Any]) -> dict[str, Any]:
    kind = {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": special}
    return {"post_processor": kind}


PLACED = [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "repeats what repeats": (split("(a+)+$"), "repeats a group that can match a text in several ways"),
    "repeats alternatives that begin alike": (split("(a|ab)*c"), "repeats a group"),
    "repeats an optional beginning": (split("(?:a?a){2,}c"), "repeats a group"),
    "repeats within lookahead": (split(r"x(?=(?:\s*y*)*z)"), "repeats a group"),
    "refers to a group": (split(r"(a*)\1"), "refers to one of its groups"),
    "calls itself": (split(r"(?<n>a\g<n>?b)"), "refers to one of its groups"),
    "a long pattern": (split("a" * 5000), "a pattern of 5000 characters"),
    "a pattern in a normalizer": (replace({"Regex": "(a*)*b"}, ""), "normalizer Replace: the pattern"),
    "an empty pattern": (replace({"String": ""}, "a"), "an empty pattern"),
    "pieces of no length": ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "length is int 0"),
    "a chain of replacements": (replace({"String": "a"}, "a" * 10, 8), "100000000 times longer"),
    "a chain of patterns": (replace({"Regex": "."}, "a" * 100, 3), "1030301 times longer"),
    "a charsmap that is none": (charsmap(b"\0\0\0"), "its charsmap can't be parsed"),
    "a charsmap of 4 GB": (charsmap(b"\xff" * 5), "names a trie of 4294967295 bytes"),
    "a charsmap of a long word": (charsmap(struct.pack("<II", 4, 0) + b"a" * 2000), "2000 times longer"),
    "a token that is not defined": (template(PLACED, {}), "places 'x', which it doesn't define"),
    "many special tokens": (
        template(PLACED, {"x": {"id": "x", "ids": [1] * 10**4, "tokens": ["x"] * 10**4}}),
        "it adds 10000 special tokens",
    ),
    "as many special tokens as are allowed": (
        template(PLACED, {"x": {"id": "x", "ids": [1] * 8, "tokens": ["x"] * 8}}),
        "it adds 8 special tokens, which leaves none of 8",
    ),
    "more ids than tokens": (template(PLACED, {"x": {"id": "x", "ids": [1, 1], "tokens": ["x"]}}), "has not one id"),
    "many components": (
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 65}},
        "more than 64 components",
    ),
    "a sequence in itself": (
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": -1}]}},
        "length is int -1",
    ),
    "a word looked up in its square": (
        {"model": {"type": "WordPiece", "unk_token": "u", "max_input_chars_per_word": 10**9, "vocab": {"u": 0}}},
        "max_input_chars_per_word is 1000000000",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_component_is_refused_before_it_is_used(name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(BundleError, match=r"^tokenizer\.json: ") as caught:
        encoder(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",  # CLIP
        r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"\d{1,3}(?=(?:\d{3})*\b)",
        r"(?:\r?\n)+",
        r"(?<!\n)\n(?!\n)",
        " {2,}",
        r"\s*\p{Han}+",
    ],
)
def test_patterns_of_well_known_tokenizers_pass(pattern: str) -> None:
    check_regex(pattern, "x")


def test_replacements_that_do_not_meet_do_not_add_up() -> None:
    steps = [
        {"type": "Replace", "pattern": {"String": c}, "content": f" {w} "}
        for c, w in zip("&%$€", ["AND"] * 4, strict=True)
    ]
    rows = encoder(max_tokens=64, normalizer={"type": "Sequence", "normalizers": steps}).encode(["a & cat % $ €"])
    assert rows[0].shape == (1, 8)


def test_a_panic_of_the_library_is_one_line() -> None:
    """A trie that points outside itself is found only when a text walks it."""
    trie = struct.pack("<I", 1 << 30) * 4
    with pytest.raises(EdgemmError) as caught:
        encoder(**charsmap(struct.pack("<I", len(trie)) + trie + b"a\0")).encode(["a cat"])
    assert "\n" not in str(caught.value)


def test_a_long_text_is_cut_before_it_is_tokenized() -> None:
    """Eight tokens of ten million characters are those of its beginning, and cost no more."""
    import tracemalloc

    text = "a cat dog " * 10**6
    wanted = encoder().encode([text[:100]])
    tracemalloc.start()
    try:
        np.testing.assert_array_equal(encoder().encode([text])[0], wanted[0])
        np.testing.assert_array_equal(encoder().encode([text, "a"])[0][0], wanted[0][0])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_long_text_keeps_the_side_that_the_file_keeps() -> None:
    cut = {"truncation": {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}}
    text = "a " * 50_000 + "red house blue sky ?"
    np.testing.assert_array_equal(encoder(**cut).encode([text])[0], encoder(**cut).encode([text[-200:]])[0])


def test_a_beginning_that_makes_few_tokens_is_followed_by_more_of_the_text() -> None:
    text = "a" + " " * 100_000 + "cat dog red house blue sky what is"
    np.testing.assert_array_equal(
        encoder().encode([text])[0], encoder().encode(["a cat dog red house blue sky what is"])[0]
    )


def test_a_text_without_end_that_makes_no_tokens_is_an_error() -> None:
    with pytest.raises(InputError, match="text: a text of 2097153 characters, of which 1048576 make fewer than 8"):
        encoder().encode(["a" + " " * 2 * LONGEST_TEXT])
