"""The report as a file: stands alone, escapes what data brings, says what it may and nothing more."""

from __future__ import annotations

import dataclasses
import html.parser
import re
from pathlib import Path

import numpy as np
import pytest
from invented_report import HOSTILE, invented, make_report

from edgemm.measure import as_text
from edgemm.measure.conditions import warnings_of
from edgemm.measure.measurement import Environment, Measurements
from edgemm.measure.metrics import Estimate
from edgemm.measure.table import cells, part_cells, rows
from edgemm.report import figures
from edgemm.report.figures import Point, Step, ladder, pareto, waterfall
from edgemm.report.next_steps import next_steps
from edgemm.report.page import write_report
from edgemm.report.parts import time_bars
from edgemm.report.run import Run, place_report
from tests.bundles import dual_encoder


class Reader(html.parser.HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def test_nothing_from_data_becomes_markup(report: Path) -> None:
    page = read(report)
    assert page.tags.count("script") == 1  # the one that sorts tables, whose digest the page's policy names
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert page.tags.count("title") == 1
    everything = "".join(page.text)
    assert HOSTILE in everything  # shown as it is, template braces and dollars included
    assert "49" not in re.findall(r"onerror=alert\(1\)>(\d+)", everything)


def test_the_page_asks_nobody_for_anything(report: Path) -> None:
    page = read(report)
    for name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset"):
            assert value.startswith(("data:", "#")), (name, value[:60])
    assert "@import" not in report.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)", report.read_text(encoding="utf-8"))


def test_ids_are_unique_and_every_reference_leads_somewhere(report: Path) -> None:
    page = read(report)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    text = report.read_text(encoding="utf-8")
    referred = set(re.findall(r"url\(#([^)]+)\)", text)) | {
        v[1:] for n, v in page.attributes if n == "href" and v[0] == "#"
    }
    assert referred <= set(ids)


def test_the_answer_comes_first_with_speed_size_and_accuracy(tmp_path: Path) -> None:
    text = "".join(read(make_report(tmp_path, "ranks")).text)
    head = text[: text.index("Every variant, every target")]
    assert "25.0×" in head
    assert "36.7×" in head
    assert re.search(r"difference −[0-9.]+ points \[", head)
    assert "built, not run here" in text


def test_a_classifier_shows_what_each_modality_alone_can_do(tmp_path: Path) -> None:
    text = "".join(read(make_report(tmp_path, "answers")).text)
    assert "Does it still look at both?" in text
    assert "text only (image shuffled)" in text
    assert "Does it still look at both?" not in "".join(read(make_report(tmp_path, "ranks")).text)


def test_the_run_that_places_a_report_takes_the_places_held_for_it(tmp_path: Path) -> None:
    found = invented("ranks")
    stored, placed = tmp_path / "stored.html", tmp_path / "placed.html"
    write_report(stored, title="x", family="fusion", rows=rows(found, resamples=50), measurements=found)
    place_report(
        stored, placed, Run("edgemm run a.toml --set 'x=<b>'", "seed = 3", [("teach", "37 s", "105 MB", "x")], ["<i>"])
    )
    page = read(placed)
    assert "edgemm run a.toml --set 'x=<b>'" in page.text
    assert {"seed = 3", "37 s", "105 MB", "<i>"} <= set(page.text)
    assert "i" not in page.tags[page.tags.index("ul") :][:3]
    assert "37 s" not in read(stored).text


def test_no_difference_is_a_verdict_and_every_quantile_has_its_interval(tmp_path: Path) -> None:
    found = invented("ranks")
    same = {m.sha256: m for m in found.of("latency", variant="teacher", subject="end to end")}
    teacher = next(iter(same.values()))
    wobble = 1 + 0.02 * np.random.default_rng(0).standard_normal(len(teacher.samples))
    as_fast = tuple(float(x) for x in np.asarray(teacher.samples) * wobble)
    found = dataclasses.replace(
        found,
        measurements=tuple(
            dataclasses.replace(m, samples=as_fast)
            if m.kind == "latency" and m.subject == "end to end" and m.variant == "int8"
            else m
            for m in found.measurements
        ),
    )
    table = rows(found, resamples=50)
    write_report(tmp_path / "r.html", title="x", family="fusion", rows=table, measurements=found)
    text = "".join(read(tmp_path / "r.html").text)
    assert "x: as fast, 36.7× smaller" in text
    assert re.search(r"\[[\d.]+, [\d.]+\], no difference", text)
    header, body = cells(table)
    assert re.fullmatch(r"\[[\d.]+, [\d.]+\]", body[0][header.index("p90")].small)
    header, body = part_cells(table)
    assert header[:4] == ["variant, target", "ms", "end to end", "image"]
    assert [row[1].main for row in body[:2]] == ["p50", "p90"]
    shown = [(cell.main, cell.small) for row in body[:2] for cell in row[2:]]
    assert all(re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\]", f"{main} {small}") for main, small in shown)


def test_a_quantile_that_none_has_samples_enough_for_is_left_out() -> None:
    _, body = part_cells(rows(invented("ranks"), resamples=20), quantiles=("p50", "p90", "p99"))
    assert {line[1].main for line in body} == {"p50", "p90"}  # 80 samples: p99 needs 662


def test_what_it_costs_names_every_loss_and_counts_the_rest(tmp_path: Path) -> None:
    found = invented("ranks")
    worse = dataclasses.replace(
        found,
        measurements=tuple(
            dataclasses.replace(m, samples=tuple(40.0 if i % 3 == 0 else s for i, s in enumerate(m.samples)))
            if m.variant == "int8" and m.details.get("task") == "image→image, teacher's gallery"
            else m
            for m in found.measurements
        ),
    )
    write_report(
        tmp_path / "r.html", title="x", family="dual-encoder", rows=rows(worse, resamples=200), measurements=worse
    )
    page = read(tmp_path / "r.html")
    text = " ".join("".join(page.text).split())
    costs = text[text.rindex("What it costs") : text.rindex("Where the time goes")]
    assert "image→image, teacher's gallery" in costs
    assert re.search(r"R@10[\d.% \[\],]+−[\d.]+ points \[−[\d.]+, −[\d.]+\]", costs)
    assert "Of 12 figures compared" in costs  # four tasks of three metrics
    assert re.search(r"The most it costs as it ships: image→image, teacher's gallery, .*: R@1", text)
    assert page.tags.count("script") == 1  # the one that sorts tables, whose digest the page's policy names


def test_the_headline_has_the_speed_of_every_request(tmp_path: Path) -> None:
    found = invented("ranks")
    asked = [
        dataclasses.replace(m, subject=f"end to end, {name}", samples=tuple(times * s for s in m.samples))
        for m in found.of("latency", subject="end to end")
        for name, times in (("text", 1), ("image", 1 if m.variant == "teacher" else 0.5))
    ]
    rest = [m for m in found.measurements if m.subject != "end to end"]
    both = Measurements(found.environments, (*rest, *asked))
    write_report(tmp_path / "r.html", title="x", family="f", rows=rows(both, resamples=20), measurements=both)
    page = " ".join("".join(read(tmp_path / "r.html").text).split())
    assert "x: 25.0× faster by text, 50.0× faster by image, 36.7× smaller" in page  # 50 ms and 2 ms, or half of that
    assert re.search(r"faster, asked by text ?25\.0×", page)
    assert re.search(r"faster, asked by image ?50\.0×", page)


def test_a_bar_is_its_end_to_end_and_what_is_between_the_parts_is_drawn() -> None:
    table = rows(invented("ranks"), resamples=20)
    bars = time_bars(table)
    assert bars is not None
    pieces = {piece["name"]: float(piece["width"]) for piece in bars["bars"][0]["pieces"]}
    assert pieces == pytest.approx({"image": 60, HOSTILE: 30, "between the parts": 10}, abs=0.01)  # as invented
    assert table[0].latency is not None
    assert table[0].latency.p50 is not None
    assert bars["bars"][0]["total"] == as_text.milliseconds(table[0].latency.p50.value_ms)


def test_parts_too_short_to_see_are_drawn_as_one() -> None:
    found = invented("ranks")
    tiny = [
        dataclasses.replace(m, subject=name, samples=tuple(s / 100 for s in m.samples))
        for m in found.of("latency", subject="image")
        for name in ("a", "b")
    ]
    bars = time_bars(rows(Measurements(found.environments, (*found.measurements, *tiny)), resamples=20))
    assert bars is not None
    assert [item["name"] for item in bars["legend"]] == ["image", HOSTILE, "other (a, b)", "between the parts"]
    (other,) = [piece for piece in bars["bars"][0]["pieces"] if piece["name"] == "other (a, b)"]
    assert float(other["width"]) == pytest.approx(1.2, abs=0.01)


def test_many_scores_leave_the_headline_of_each_split_in_the_end_table(tmp_path: Path) -> None:
    found = invented("ranks")
    splits = [
        dataclasses.replace(m, details={**m.details, "split": split}, subject=f"{split}: {m.details['task']}")
        for m in found.of("ranks")
        for split in ("new", "old", "odd")
    ]
    more = Measurements(found.environments, (*(m for m in found.measurements if m.kind != "ranks"), *splits))
    table = rows(more, resamples=20)
    assert len(cells(table)[0]) == 12  # R@1 and R@10 of three splits; the console has room
    write_report(tmp_path / "r.html", title="x", family="dual-encoder", rows=table, measurements=more)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    head = page[page.index('<h2 id="table">') : page.index('<h2 id="costs">')]
    assert re.findall(r'<th class="group" scope="colgroup" colspan="1">(\w+)</th>', head) == ["new", "old", "odd"]
    assert re.findall(r'<th class="under" scope="col">([^<]+)</th>', head) == ["R@10 text→image"] * 3


def test_examples_say_which_gallery_was_searched(tmp_path: Path) -> None:
    assert "embedded by the teacher, as the gallery that ships is" in "".join(read(make_report(tmp_path, "ranks")).text)


def test_the_front_of_one_variant_is_a_line_too() -> None:
    drawing = pareto(
        [Point("a", "a", (1, 0.9, 1.1), (0.9, 0.8, 1.0)), Point("b", "b", (20, 19, 21), (0.5, 0.4, 0.6))],
        metric="R@10", share=True, name="p",
    )  # fmt: skip
    (dashed,) = re.findall(r'<path d="([^"]+)"[^>]*stroke-dasharray', drawing.wide)
    (x0, y0), *_, (x1, y1) = [tuple(map(float, xy)) for xy in re.findall(r"[ML] ([\d.]+) ([\d.]+)", dashed)]
    assert y0 == y1
    assert x1 - x0 > 200  # from the variant to the edge of the plot


def test_the_same_measurements_make_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert make_report(tmp_path / "a", "ranks").read_bytes() == make_report(tmp_path / "b", "ranks").read_bytes()


def test_a_single_variant_has_a_report_without_comparison(tmp_path: Path) -> None:
    found = invented("ranks")
    one = dataclasses.replace(found, measurements=tuple(m for m in found.measurements if m.variant == "teacher"))
    write_report(tmp_path / "r.html", title="one", family="fusion", rows=rows(one, resamples=50), measurements=one)
    assert "nothing to compare" in (tmp_path / "r.html").read_text()


def test_nothing_that_ran_still_has_a_report(tmp_path: Path) -> None:
    found = invented("ranks")
    sizes = dataclasses.replace(found, measurements=found.of("size"))
    write_report(tmp_path / "r.html", title="sizes", family="fusion", rows=rows(sizes), measurements=sizes)
    assert "built, not run here" in (tmp_path / "r.html").read_text()


def test_figures_use_the_colours_of_the_page_and_say_themselves_in_words() -> None:
    drawing = pareto(
        [Point("a <b> $x$", "a", (1, 0.9, 1.1), (0.5, 0.4, 0.6)), Point("b", "b", (20, 19, 21), (0.9, 0.9, 0.9))],
        metric="R@10", share=True, name="p",
    )  # fmt: skip
    for svg in (drawing.wide, drawing.narrow):
        assert svg.startswith("<svg")
        assert "var(--ink)" in svg
        assert not re.search(r"#0[1-5]0[1-5]0[1-6]", svg)
        assert "a &lt;b&gt; $x$" in svg
        assert 'role="img" aria-label="Latency against R@10.' in svg
    fell = [Step("a", 100, 100, 100, "100 MB"), Step("b", 5, 5, 5, "5 MB"), Step("c", 8, 8, 8, "8 MB")]
    steps = waterfall(fell, quantity="size", name="w")
    assert "÷ 20.0" in steps.wide
    assert "× 1.60" in steps.wide  # a stage that makes it larger is drawn, not hidden


def test_what_ships_but_was_not_run_here_is_not_replaced_by_what_was(tmp_path: Path) -> None:
    found = rows(invented("ranks"), resamples=50)
    last = [row for row in found if row.variant == found[-1].variant]
    elsewhere = [r for r in found if r not in last] + [dataclasses.replace(r, latency=None, scores=()) for r in last]
    path = tmp_path / "report.html"
    write_report(path, title="it", family="x", rows=elsewhere, measurements=invented("ranks"))
    text = "".join(read(path).text)
    assert (
        f"What ships, “{last[0].variant}”, was built for {', '.join(r.target for r in last)} and not run here" in text
    )
    assert "× faster" not in text[: text.index("Every variant, every target")]


def test_a_metric_that_is_none_on_this_data_is_no_figure(tmp_path: Path) -> None:
    nan = Estimate(float("nan"), float("nan"), float("nan"), 9)
    found = [
        dataclasses.replace(row, scores=tuple(dataclasses.replace(s, estimate=nan, difference=nan) for s in row.scores))
        for row in rows(invented("ranks"), resamples=50)
    ]
    path = tmp_path / "report.html"
    write_report(path, title="it", family="x", rows=found, measurements=invented("ranks"))
    assert "nan" not in "".join(read(path).text).lower().split("raw")[0]


def test_the_contents_lead_to_every_section_and_to_nothing_else(report: Path) -> None:
    html_ = report.read_text(encoding="utf-8")
    nav = html_[html_.index("<nav") : html_.index("</nav>")]
    links = re.findall(r'href="#([\w-]+)"', nav)
    headings = re.findall(r'<h2 id="([\w-]+)"', html_)
    assert set(links) | {"ask"} == set(headings)  # “ask it” stands right before “do it again”
    assert len(links) == len(set(links))


def test_every_warning_of_the_measurement_is_repeated(tmp_path: Path) -> None:
    found = invented("ranks")
    digest, here = next(iter(found.environments.items()))
    busy = Environment({**here.facts, "cores": 2, "load": [7.5, 1, 1], "date": "2026-01-31"})
    warm = {"runs": 77, "seconds": 1.0, "first_ms": 1.0, "stable": False}
    drifting = tuple(
        dataclasses.replace(m, details={**m.details, "warm_up": warm})
        if m.kind == "latency" and m.subject == "end to end" and m.target == "cpu-openvino"
        else m
        for m in found.measurements
    )
    told = Measurements({digest: busy}, drifting)
    write_report(tmp_path / "r.html", title="x", family="fusion", rows=rows(told, resamples=20), measurements=told)
    text = "".join(read(tmp_path / "r.html").text)
    assert "load 7.5 on 2 cores" in text
    assert "int8, cpu-openvino: latency still drifted after 77 warm-up runs" in text
    assert "2026-01-31" in text[: text.index("Every variant")]
    assert warnings_of(found) == []


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 10.0), (3.0, 3.1), (0.0123, 0.0124), (480.0, 490.0), (1e-4, 1e6), (7.0, 7.0), (0.9, 1.1)]
)
def test_an_axis_of_any_range_has_ticks(low: float, high: float) -> None:
    points = [Point(f"{i}", f"{i}", (ms, ms, ms), (1.0, 1.0, 1.0)) for i, ms in enumerate((low, high))]
    drawing = pareto(points, metric="accuracy", share=True, name="p")
    steps = [Step(f"{i}", ms, ms, ms, f"{ms}") for i, ms in enumerate((high, low))]
    fallen = waterfall(steps, quantity="latency", name="w")
    climbed = ladder(steps, quantity="score", name="l")
    for svg in (drawing.wide, drawing.narrow, fallen.wide, fallen.narrow, climbed.wide, climbed.narrow):
        assert svg.count("xtick_") >= 2
    assert drawing.wide.count("ytick_") >= 2


def test_what_overlaps_within_its_interval_is_drawn_as_no_difference() -> None:
    apart = [Step("a", 10, 9.9, 10.1, "10 ms"), Step("b", 9, 8.9, 9.1, "9 ms")]
    alike = [Step("a", 10, 9.0, 11.0, "10 ms"), Step("b", 9, 8.1, 9.9, "9 ms")]
    assert "÷" in waterfall(apart, quantity="latency", name="w").wide
    drawn = waterfall(alike, quantity="latency", name="w").wide
    assert "no difference" in drawn
    assert "÷" not in drawn
    assert "var(--accent)" not in drawn
    scores = ladder([Step("a", 70, 65, 75, "70 %"), Step("b", 60, 57, 66, "60 %")], quantity="R@10", name="l").wide
    assert "var(--series-4)" not in scores  # the colour of a loss
    lost = ladder([Step("a", 70, 65, 75, "70 %"), Step("b", 60, 57, 63, "60 %")], quantity="R@10", name="l").wide
    assert "var(--series-4)" in lost


def test_the_best_to_be_had_rises_only_beyond_the_intervals() -> None:
    fast, same, better = (0.6, 0.5, 0.7), (0.62, 0.52, 0.72), (0.9, 0.8, 0.95)
    points = [Point(n, n, (ms, ms, ms), s) for n, ms, s in (("a", 1, fast), ("b", 2, same), ("c", 3, better))]
    assert figures._sure_front(points) == [0, 2]


def test_neighbouring_pieces_and_points_differ_in_more_than_their_colour() -> None:
    made = time_bars(rows(invented("ranks"), resamples=20))
    assert made is not None
    patterns = [item["pattern"] for item in made["legend"]]
    assert len(set(patterns)) == len(patterns) > 1
    points = [Point(f"{i}", f"{i}", (i + 1, i + 1, i + 1), (0.5, 0.4, 0.6)) for i in range(6)]
    svg = pareto(points, metric="R@10", share=True, name="p").wide
    shapes = re.findall(r'<path id="(p-wide-m[0-9a-f]+)" d="([^"]+)"', svg)
    assert len({drawn for _, drawn in shapes}) >= 6


def test_what_ships_says_what_it_takes_and_next_steps_name_what_to_change(tmp_path: Path) -> None:
    found = invented("answers")
    table = rows(found, resamples=200)
    ships = dual_encoder(tmp_path / "bundle")
    write_report(tmp_path / "r.html", title="x", family="fusion", rows=table, measurements=found, ships=ships)
    text = " ".join("".join(read(tmp_path / "r.html").text).split())
    asked = text[text.rindex("what it can be asked") :]
    assert "any of image, text" in asked[:200]
    steps = next_steps(table)
    assert any("“cpu-openvino” is faster here" in line for line in steps)
    assert all(line.endswith((".", "there.")) for line in steps)
