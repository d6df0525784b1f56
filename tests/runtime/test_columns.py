"""Tables fit the screen, whatever stands in them, and no figure is broken."""

from __future__ import annotations

import random
import re

import pytest

from edgemm.runtime.columns import _width, screen_width, table_lines, wrapped

HEADER = ["variant, target", "parameters", "bytes, gallery included", "p50", "faster", "R@10 text→image, unseen vendor"]
ROW = [
    ("teacher", "cpu-float32"), "26.2 M", ("106 MB", ""), ("7.89 ms", "[7.82, 7.95]"), ("1×", "reference"),
    ("94.9 %", "[93.6, 96.1]"),
]  # fmt: skip


def test_what_fits_stands_in_one_line_a_row() -> None:
    lines = table_lines(["name", "size"], [["a", "12 MB"], ["bcd", ("1 MB", "÷ 12")]], width=40)
    assert lines == ["name       size", "a         12 MB", "bcd   1 MB ÷ 12"]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_line_is_wider_than_the_screen_with_names_of_any_length(width: int) -> None:
    rng = random.Random(0)
    for trial in range(60):
        columns = rng.randint(1, 9)
        header = ["".join(rng.choices("ab @,-图é", k=rng.randint(1, 40))) for _ in range(columns)]
        rows = [
            [
                ("".join(rng.choices("abc -_/图", k=rng.randint(0, 70))), rng.choice(["", "[93.6, 96.1]"]))
                for _ in header
            ]
            for _ in range(rng.randint(0, 4))
        ]
        for left in (1, columns):
            lines = table_lines(header, rows, left=left, width=width)
            assert max(map(_width, lines)) <= width, (trial, left)


def test_a_table_that_does_not_fit_keeps_every_text_and_breaks_no_figure() -> None:
    lines = table_lines(HEADER, [ROW, [("student with a name of many words", "cpu-int8"), *ROW[1:]]], width=60)
    assert max(map(len, lines)) <= 60
    said = " ".join(" ".join(lines).split())
    for figure in ("26.2 M", "106 MB", "7.89 ms", "[7.82, 7.95]", "94.9 %", "[93.6, 96.1]"):
        assert said.count(figure) == 2
    assert sum(line.startswith("teacher") for line in lines) == 2  # the columns are in two bands, the name before each


def test_a_column_that_is_to_be_copied_keeps_its_texts_whole_and_wraps_its_small_print() -> None:
    name = "x" * 37
    lines = table_lines(["id", "end"], [[(name, "y" * 90), "z " * 60]], left=2, whole=1, width=60)
    assert lines[1].startswith(f"{name}  z")
    assert max(map(len, lines)) <= 60


def test_a_long_word_is_cut_and_wide_letters_count_twice() -> None:
    assert wrapped("abcdef gh", 4) == ["abcd", "ef", "gh"]
    assert wrapped("图图图", 4) == ["图图", "图"]
    assert wrapped("", 4) == [""]


def test_small_print_is_dimmed_where_it_has_a_line_of_its_own() -> None:
    lines = table_lines(HEADER, [ROW], width=80, dim=True)
    assert any("\x1b[2mcpu-float32\x1b[0m" in line for line in lines)
    assert [re.sub(r"\x1b\[\dm", "", line).rstrip() for line in lines] == table_lines(HEADER, [ROW], width=80)


def test_a_pipe_is_eighty_columns_wide_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert screen_width() == 80
    monkeypatch.setenv("COLUMNS", "132")
    assert screen_width() == 132
