"""Two hundred odd texts, on which two tokenizers that differ somewhere are likely to differ: made, not collected.

Each is there for a step that tokenizers take apart: Unicode normal forms, case, accents, white space and control
characters, scripts with and without spaces, emoji of several code points, numbers, special tokens that a text spells,
and lengths at which a text is cut.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

COUNT = 200
"""How many there are, whatever the tokenizer's own tokens are."""

_SPELLED = 1000  # of the tokenizer's own tokens; a text of all that a vocabulary was extended by may be megabytes

_WORDS = (
    "A RED Cup", "a red cup", "HELLO World", "iPhone McDonald eBay", "STRASSE Straße ẞ", "ΟΔΟΣ Σίσυφος ΣΑΣ",
    "İstanbul ıI", "Ça été naïve façade", "ÀÉÎÕÜ àéîõü", "Å Ω K", "Ǆ ǅ ǆ", "ŁÓDŹ łódź", "Đặng Việt Nam",
    "Ελληνικά ΕΛΛΗΝΙΚΆ", "Привет МИР ё й", "Ʌ ꞌ Ꞌ", "résumé RÉSUMÉ resume", "co-operate co‐operate",
    "don't DON’T y'all'd've", "O'Neill's rock'n'roll",
)  # fmt: skip
_SCRIPTS = (
    "東京は日本の首都です", "我喜欢红色的杯子。", "한국어 문장입니다", "ﾊﾝｶｸ カタカナ ひらがな",
    "𠮷野家 㐀 豈", "中文abc混合123", "مرحبا بالعالم",
    "الْعَرَبِيَّة ﷺ", "١٢٣ ٤٫٥", "שָׁלוֹם עולם", "สวัสดีชาวโลก", "ภาษาไทยไม่มีช่องว่าง",
    "नमस्ते दुनिया क्षत्रिय", "বাংলা ভাষা", "தமிழ் மொழி", "ພາສາລາວ", "ខ្មែរ", "မြန်မာ", "አማርኛ", "ქართული Ⴀ",
    "Հայերեն", "ᏣᎳᎩ", "𐐀𐐨 𝔘𝔫𝔦", "Ꙁ ꙁ Ѣ",
)  # fmt: skip
_EMOJI = (
    "😀", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈 🇩🇪🇫🇷", "☺️ ☺︎", "1️⃣ #️⃣", "❤️‍🔥text", "🧑🏿‍🚀🚀", "a😀b", "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
)  # fmt: skip
_NUMBERS = (
    "0", "007", "3.14159", "1,234,567.89", "-12 +34 ±5", "1e-10 0x1F", "½ ¾ ²³ ₁₂", "Ⅷ ⅷ ①②", "１２３",
    "99% 5‰ $1.50 €2 £3 ¥4", "2024-02-29T23:59:60Z", "+49 (0)30 1234-56", "1st 2nd 23rd", "v1.2.3-rc.4+build5",
    "10^100 = x_1", "12345678901234567890",
)  # fmt: skip
_SIGNS = (
    "https://example.org/a/b?c=d&e=%20f#g", "user.name+tag@example.co.uk", "C:\\Temp\\new.txt",
    "/usr/bin/env -S", "a_b-c.d:e;f", "#tag @name", "snake_case camelCase PascalCase",
    "<b>bold</b> &amp; &#39;", "{\"key\": [1, null]}", "if (a<b && c>=d) {}", "...!?!? --- ***",
    "“quoted” ‘single’ «double» „low“", "– — ― … · • †", "¿Qué? ¡Hola!", "a/b\\c|d~e`f^g", "©®™ °C µm Ω",
    "x²+y²≤∞ ∑∫√", "←→⇒ ■□ ★☆", "##piece ▁word Ġword ##", "a.b.c. U.S.A.", "'", "\"", "[", "]", "<", ">", "\\",
    "$", "`", "_", "##",
)  # fmt: skip
_SPACES = (
    "", " ", "     ", "\t", "\n", "\r\n", " leading", "trailing ", "  both  sides  ", "two  spaces   three",
    "tab\tbetween\tthem", "line\nbreak\r\nanother\rlast", "no\u00a0break", "thin\u2009hair\u200aspace",
    "\u3000full\u3000width\u3000", "zero\u200bwidth", "joi\u200dner non\u200cjoiner", "word\u2060joiner",
    "line\u2028paragraph\u2029end", "next\u0085line", "em\u2003quad\u2001s", "\ufeffbyte order mark",
    "soft\u00adhyphen", "ogham\u1680mark",
)  # fmt: skip
_CONTROLS = (
    "nul\u0000inside", "\u0001\u0002\u0003", "bell\u0007 back\u0008 escape\u001b[31m",
    "delete\u007f c1\u0080\u009f", "\u001c\u001d\u001e\u001f", "left\u200eright\u200fmarks",
    "\u202eoverride\u202c", "\u2066isolate\u2069", "replacement \ufffd character", "non\ufffecharacter \uffff",
    "before \ud7ff and after \ue000", "last \U0010ffff of all", "private \U000f0000", "tag\U000e0001\U000e0041",
    "variation\ufe0f\U000e0100", "a\u0301\u0302\u0303\u0304", "\u0301 alone", "e\u0301 \u00e9",
    "o\u0308\u0304 ȫ", "q\u0307\u0323 q\u0323\u0307",
)  # fmt: skip
_FORMS = ("ﬁ ﬂ ﬃ ſ", "Å Å Å", "㎏ ㍿ ㈱ ℡", "ｆｕｌｌ ＷＩＤＴＨ", "한 한", "Ǖ Ǖ", "ﷺ ﷽")
_LONG = (
    " ".join(map(str, range(5000))), "x" + " " * 20_000 + "y",
    "a" * 99, "a" * 101, "b" * 600, "supercalifragilisticexpialidocious" * 4, "a " * 300,
    "the red cup on the table " * 40, "日" * 200, "é" * 150, "👍" * 120, "1" * 120, "-" * 130,
    "word, " * 120 + "end.", "\n".join(["line of text"] * 60), "x" + " " * 500 + "y",
)  # fmt: skip


def odd_texts(tokens: Sequence[str]) -> list[str]:
    """Exactly ``COUNT`` texts, the same ones each time.

    Args:
        tokens: of the tokenizer, those that it finds in a text before anything else (added and special ones).
    """
    general = [*_WORDS, *_SCRIPTS, *_EMOJI, *_NUMBERS, *_SIGNS, *_SPACES, *_CONTROLS, *_FORMS, *_LONG]
    general += [unicodedata.normalize(form, "Ångström ﬁancé ｶﾞ 각") for form in ("NFC", "NFD", "NFKC", "NFKD")]
    some = list(tokens)[:_SPELLED]
    spelled = [" x".join(some[start::10]) + "y" for start in range(min(10, len(some)))]
    spelled += [f"a{token}b" for token in some] + [f"x {token} y" for token in some]
    spelled += [f"{token.upper()} {token.lower()}" for token in some] + [f"{token}{token}" for token in some]
    spelled += [f"{word} {count}" for count in range(COUNT) for word in ("Number", "number of CUPS:")]
    return [*general, *spelled][:COUNT]
