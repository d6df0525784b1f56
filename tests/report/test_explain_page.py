"""The page of explanations: escapes what data brings, keeps what was there, says the figures of its tables."""

from __future__ import annotations

import io
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from invented_report import HOSTILE
from PIL import Image
from test_page import read

from edgemm.measure.contribution import SHUFFLED, Contributions
from edgemm.measure.examples import Answer, Example, Hit
from edgemm.measure.outputs import ACCURACY, ERROR
from edgemm.report.cards import Seen
from edgemm.report.explain import (
    Case,
    Explanation,
    Section,
    contribution_tables,
    group_tables,
    render_explanation,
    write_explanation,
)
from edgemm.report.figures import waveform
from edgemm.report.media import heat_map, shades
from edgemm.runtime.outputs import Classes, Quantity


def contributed(right: dict[str, list[float]]) -> Contributions:
    """Four samples of two groups: coalition ("image+text", "image", "text", "") -> who is right."""
    values = {frozenset(k.split("+")) - {""}: np.array(v, float) for k, v in right.items()}
    return Contributions(
        "test", ("image", "text"), Classes(("no", "yes")), {(SHUFFLED, ACCURACY): values}, np.zeros((4, 2), np.float32),
        ("a", "a", "b", "c"), ("open", "open", "closed", "closed"),
    )  # fmt: skip


BEFORE = {"image+text": [1, 1, 1, 1], "image": [0, 1, 0, 0], "text": [1, 0, 1, 0], "": [0, 0, 0, 0]}
AFTER = {"image+text": [1, 0, 1, 1], "image": [0, 0, 0, 0], "text": [1, 0, 1, 1], "": [0, 0, 0, 0]}


def explanation(name: str = "before") -> Explanation:
    found = {name: contributed(BEFORE), "after": contributed(AFTER)}
    drawn = waveform(np.sin(np.arange(800) / 9).astype(np.float32), np.arange(10.0), rate=800, name="strip-0-1")
    seen = Seen(heat_map(np.random.default_rng(0).random((3, 8, 8)), np.eye(4)), [(name, 0.7), ("cat", 0.3)], drawn)
    answers = (Answer(name, name, True, "loss 0.1"), Answer("after", "no", False, hits=(Hit(b"", name, True),)))
    cases = [Case(Example(name, answers, name, note=name), [seen, Seen()])]
    return Explanation(
        name, name, dict.fromkeys(found, "0" * 64), {"test": found}, {}, [Section("Worst", name, cases)], [name]
    )


def test_figures_in_the_table_are_those_worked_by_hand() -> None:
    (table,) = contribution_tables("test", {"before": contributed(BEFORE), "after": contributed(AFTER)})
    # before: v(all) 1, v(image) 1/4, v(text) 1/2, v() 0: image (1/4 + 1 - 1/2) / 2 = 3/8, text (1/2 + 3/4) / 2 = 5/8
    # after: 3/4, 0, 3/4, 0: image 0, text 3/4
    assert [(row[0][0], row[1][0], row[2][0]) for row in table.rows] == [
        ("with everything", "100.0", "75.0"),
        ("image brings", "37.5", "0.0"),
        ("text brings", "62.5", "75.0"),
        ("with nothing", "0.0", "0.0"),
    ]
    assert [row[3][0].split(" [")[0] for row in table.rows] == ["−25.0", "−37.5", "+12.5", "0.0"]
    assert table.header[-1] == "difference, points"


def test_each_group_has_a_table_of_its_own_samples() -> None:
    tables = group_tables("test", {"after": contributed(AFTER)})
    assert [t.title for t in tables] == ["test, open: accuracy (2 samples)", "test, closed: accuracy (2 samples)"]
    assert [t.rows[0][1][0] for t in tables] == ["50.0", "100.0"]


def test_nothing_from_data_becomes_markup(tmp_path: Path) -> None:
    write_explanation(tmp_path / "explain.html", explanation(HOSTILE))
    page = read(tmp_path / "explain.html")
    assert page.tags.count("script") == 1  # that which sorts tables
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("title") == 1
    assert HOSTILE in "".join(page.text)


def test_a_page_stands_alone_and_its_words_are_shaded(tmp_path: Path) -> None:
    write_explanation(tmp_path / "explain.html", explanation())
    text = (tmp_path / "explain.html").read_text(encoding="utf-8")
    page = read(tmp_path / "explain.html")
    for name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:", "#")), value[:60]
    assert not re.search(r"url\((?!#)", text)
    assert "color-mix(in srgb, var(--series-3) 80%, transparent)" in text
    assert "color-mix(in srgb, var(--series-3) 34%, transparent)" in text  # .3 / .7 of 80


def test_its_tables_fold_and_sort_as_those_of_the_report() -> None:
    page = render_explanation(explanation())
    assert page.count('<table class=" sorts">') + page.count('<table class="">') == page.count("<thead>") > 1
    assert "querySelectorAll" in page


def test_the_page_before_stays_where_the_new_one_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "explain.html"
    write_explanation(out, explanation())
    before = out.read_bytes()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        write_explanation(out, explanation("other"))
    monkeypatch.undo()
    assert out.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["explain.html"]


def test_one_model_has_no_difference_and_no_word_of_a_second() -> None:
    one = explanation()
    alone = Explanation("x", "fusion", {"after": "0"}, {"test": {"after": contributed(AFTER)}}, {}, [], one.notes)
    page = render_explanation(alone)
    assert "difference, points" not in page
    assert "overlook" not in page
    assert (
        "“after” is right in 75.0 % of test, and in 0.0 % where all that it is shown belongs to other samples" in page
    )
    assert "image brings 0.0, text brings +75.0." in page


def test_errors_stand_in_their_own_unit_and_not_in_points() -> None:
    # Errors of 2 and 4 with everything, 6 and 8 with the text alone, 10 and 10 with the image alone, 12 and 12 without.
    errors = {"image+text": [2, 4], "image": [10, 10], "text": [6, 8], "": [12, 12]}
    values = {frozenset(k.split("+")) - {""}: -np.array(v, float) for k, v in errors.items()}
    found = Contributions(
        "test", ("image", "text"), Quantity(), {(SHUFFLED, ERROR): values}, np.zeros((2, 1), np.float32),
        ("a", "b"), ("one", "other"),
    )  # fmt: skip
    page = render_explanation(Explanation("x", "fusion", {"it": "0"}, {"test": {"it": found}}, {}, []))
    assert (
        "“it” is off by 3.00 on average on test, and by 12.0 where all that it is shown belongs to other samples: "
        "image takes off 3.00, text takes off 6.00." in page
    )
    assert "points" not in page
    (table,) = contribution_tables("test", {"it": found})
    assert [row[1][0] for row in table.rows] == ["−3.00", "3.00", "6.00", "−12.0"]
    assert [t.title for t in group_tables("test", {"it": found})] == [
        "test, one: negative absolute error (1 samples)", "test, other: negative absolute error (1 samples)"
    ]  # fmt: skip
    assert "width:100.0%" in page  # the longest bar is the largest figure's


def test_heat_is_laid_over_the_patch_that_has_the_weight() -> None:
    weights = np.zeros((2, 2))
    weights[0, 1] = 1.0
    drawn = Image.open(io.BytesIO(heat_map(np.full((3, 16, 16), 0.5) + np.arange(16) / 100, weights))).convert("RGB")
    assert drawn.size == (320, 320)
    colour = {(x, y): drawn.getpixel((80 + 160 * x, 80 + 160 * y)) for x, y in product((0, 1), (0, 1))}
    warmth = {place: pixel[0] - pixel[2] for place, pixel in colour.items()}
    assert warmth[1, 0] > 100
    assert all(abs(value) < 40 for place, value in warmth.items() if place != (1, 0))


def test_words_are_shaded_by_the_strongest() -> None:
    assert shades([("a", 0.1), ("cat", 0.4)]) == [("a", 20), ("cat", 80)]
    assert shades([("a", 0.0)]) == [("a", 0)]


def test_a_strip_says_when_the_most_is() -> None:
    weights = np.zeros(10)
    weights[7] = 1.0
    drawn = waveform(np.ones(800, np.float32), weights, rate=800, name="s")
    assert drawn.words == "Weights over 1.0 s; the most at 0.7 s."
    assert "<svg" in drawn.wide
    assert "var(--accent)" in drawn.wide
