"""Plots as inline SVG that follow the page's light or dark colours and stay readable on a phone.

Matplotlib draws with stand-in colours that are then replaced by CSS variables, text stays text, and each figure is
drawn twice (wide and narrow) so that a phone does not get a shrunken poster. The page's stylesheet picks one.
"""

from __future__ import annotations

import atexit
import io
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import as_text
from edgemm.measure.pareto import pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Stand-in -> what the page's stylesheet decides. Any colours do, as long as nothing else in a figure uses them.
_INK: Final = "#010101"
_SOFT: Final = "#020202"
_LINE: Final = "#030303"
_ACCENT: Final = "#040404"
_SERIES: Final = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")
_MARKERS: Final = ("o", "s", "D", "^", "v", "P", "X", "p", "h", "*")  # one each, since not everybody sees the hue
_LINES: Final = ("-", "--", "-.", ":")  # likewise
_VARIABLES: Final = {
    _INK: "var(--ink)",
    _SOFT: "var(--soft)",
    _LINE: "var(--line)",
    _ACCENT: "var(--accent)",
    **{colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES, start=1)},
}


@dataclass(frozen=True, slots=True)
class Point:
    """One variant on one target in the Pareto plot; (value, low, high) each, latency in ms, score in its own unit."""

    name: str
    series: str  # points of one variant share a colour
    latency_ms: tuple[float, float, float]
    score: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Step:
    """One variant in the waterfall: a value, its interval (the value itself where it is exact), and how it is said."""

    name: str
    value: float
    low: float
    high: float
    label: str  # value with its unit

    def overlaps(self, other: Step) -> bool:
        """Whether the two intervals share a value: then no difference is drawn. Two exact values overlap if equal."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure in both widths, as SVG that is safe to inline; ``words`` says the same for those who cannot see it."""

    wide: str
    narrow: str
    words: str


def pareto(points: Sequence[Point], *, metric: str, share: bool, name: str) -> Drawing:
    """Latency (log) against a task metric, with error bars; dashed, the best score to be had within a latency.

    The dashed line rises to a slower variant only where its score's interval lies above that of the best faster one.
    """

    def draw(axes: Axes, wide: bool) -> None:
        scale = 100 if share else 1
        colours = _colours([p.series for p in points])
        front = _sure_front(points)
        for i, p in enumerate(points):
            marker = _MARKERS[i % len(_MARKERS)]
            x, x_low, x_high = p.latency_ms
            y, y_low, y_high = (scale * v for v in p.score)
            axes.errorbar(
                x, y,
                xerr=[[max(0.0, x - x_low)], [max(0.0, x_high - x)]],
                yerr=None if math.isnan(y_low) else [[max(0.0, y - y_low)], [max(0.0, y_high - y)]],
                fmt=marker, markersize=9, color=colours[p.series], ecolor=colours[p.series],
                elinewidth=1.6, capsize=4, capthick=1.6, zorder=3,
            )  # fmt: skip
            axes.plot(
                [], [], marker, markersize=9, color=colours[p.series], label=_short(p.name)
            )  # the legend's, without bars
        axes.set_xscale("log")
        known = [scale * v for p in points for v in p.score if not math.isnan(v)]
        low, high = min(known), max(known)
        room = max((high - low) * 0.12, 0.01 * max(abs(low), abs(high)), 1e-6)  # all alike: still an axis with ticks
        axes.set_ylim(low - room, high + room)
        axes.set_xlabel("end-to-end latency, ms (log)  ·  left is faster")
        axes.set_ylabel(f"{_short(metric, 40)}, %" if share else _short(metric, 40))
        axes.grid(True, color=_LINE, linewidth=0.6)
        axes.margins(x=0.1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right)
        _plain_log_ticks(axes, most=8 if wide else 6)
        axes.step(
            [*(points[i].latency_ms[0] for i in front), right],
            [*(scale * points[i].score[0] for i in front), scale * points[front[-1]].score[0]],
            where="post", color=_SOFT, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1,
        )  # fmt: skip
        axes.get_figure().legend(  # type: ignore[union-attr]
            loc="outside lower left", ncols=3 if wide else 2, frameon=False, handletextpad=0.3, columnspacing=1.2
        )

    said = "; ".join(
        f"{p.name}: {as_text.milliseconds(p.latency_ms[0])}, "
        f"{as_text.percent(p.score[0]) if share else as_text.three_figures(p.score[0])}"
        for p in points
    )
    return _drawing(draw, name=name, said=f"Latency against {metric}. {said}.", height=5.7)


def waterfall(steps: Sequence[Step], *, quantity: str, name: str) -> Drawing:
    """Return what each stage took off, on a log scale: a bar runs from the value before to the value after.

    On a log scale a bar's length is the factor, so that 100 → 50 and 2 → 1 look alike, as they should. A step whose
    interval overlaps that of the step before it gets a mark instead of a bar: no difference was measured.
    """

    def draw(axes: Axes, wide: bool) -> None:
        values = [s.value for s in steps]
        floor = min(values) / 2.2
        for i, step in enumerate(steps):
            before = steps[i - 1] if i else None
            start, end = (floor if before is None else before.value), step.value
            text = step.label
            if before is None:
                axes.barh(i, end - start, left=start, height=0.56, color=_SERIES[0], zorder=2)
            elif step.overlaps(before):
                axes.plot([end, end], [i - 0.28, i + 0.28], color=_SOFT, linewidth=2.5, zorder=2)
                text += "   unchanged" if step.value == before.value else "   no difference"
            else:
                sign, colour = ("÷", _ACCENT) if end < start else ("×", _SERIES[3])
                axes.barh(i, end - start, left=start, height=0.56, color=colour, zorder=2)
                text += f"   {sign} {as_text.three_figures(max(start / end, end / start))}"
            if before is not None:
                axes.plot([start, start], [i - 1 + 0.28, i - 0.28], color=_SOFT, linewidth=1, zorder=1)
            axes.annotate(
                text, (max(start, end), i), xytext=(6, 0), textcoords="offset points",
                ha="left", va="center", color=_INK, fontsize=11, zorder=4,
            )  # fmt: skip
        axes.set_xscale("log")
        room = 0.30 if wide else 0.52  # share of the axis kept free for the text right of the longest bar
        axes.set_xlim(floor, max(values) * (max(values) / floor) ** (room / (1 - room)))
        _plain_log_ticks(axes, most=8 if wide else 5)
        axes.set_xlabel(f"{quantity} (log)")
        _name_rows(axes, [s.name for s in steps])

    said = "; ".join(f"{s.name}: {s.label}" for s in steps)
    return _drawing(draw, name=name, said=f"{quantity} through the stages. {said}.", height=0.75 + 0.55 * len(steps))


def ladder(steps: Sequence[Step], *, quantity: str, name: str) -> Drawing:
    """Return a score through the stages: a point with its interval each; shaded, the interval of the first.

    A point whose interval overlaps the first's is drawn in the soft colour: no difference can be read off it.
    """

    def draw(axes: Axes, wide: bool) -> None:
        first = steps[0]
        axes.axvspan(first.low, first.high, color=_LINE, alpha=0.5, linewidth=0, zorder=0)
        low, high = min(s.low for s in steps), max(s.high for s in steps)
        room = max((high - low) * 0.06, 0.005 * max(abs(low), abs(high)), 1e-6)
        text = 0.40 if wide else 0.62  # share of the axis kept free for the text
        axes.set_xlim(low - room, high + room + (high - low + 2 * room) * text / (1 - text))
        for i, step in enumerate(steps):
            colour = _SOFT if step.overlaps(first) else _ACCENT if step.low > first.high else _SERIES[3]
            colour = _SERIES[0] if i == 0 else colour
            axes.errorbar(
                step.value, i, xerr=[[step.value - step.low], [step.high - step.value]], fmt=_MARKERS[0], markersize=8,
                color=colour, ecolor=colour, elinewidth=1.6, capsize=4, capthick=1.6, zorder=3,
            )  # fmt: skip
            axes.annotate(
                step.label, (high + room, i), xytext=(6, 0), textcoords="offset points",
                ha="left", va="center", color=_INK, fontsize=11, zorder=4,
            )  # fmt: skip
        ticks = [tick for tick in axes.get_xticks() if low - room <= tick <= high + room]
        axes.set_xticks(ticks if len(ticks) > 1 else [low, high])
        axes.set_xlabel(quantity)
        _name_rows(axes, [s.name for s in steps])

    said = "; ".join(f"{s.name}: {s.label}" for s in steps)
    return _drawing(draw, name=name, said=f"{quantity} through the stages. {said}.", height=0.75 + 0.55 * len(steps))


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first on top, without an axis line."""
    axes.set_yticks(range(len(names)), [_short(name, 14) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def waveform(samples: NDArray[np.float32], weights: NDArray[np.floating], *, rate: int, name: str) -> Drawing:
    """Return a sound over time and, as a strip below it, one weight for each frame of it; darker is more.

    Args:
        samples: (samples,), the whole stretch of time that the weights cover.
        weights: (frames,) >= 0.
        rate: Hz.
    """
    seconds = len(samples) / rate
    pieces = np.array_split(np.abs(samples), min(len(samples), 400))
    loud = np.array([piece.max() for piece in pieces])
    times = (np.arange(len(loud)) + 0.5) * seconds / len(loud)
    columns = np.array([piece.mean() for piece in np.array_split(weights, min(len(weights), 100))])
    columns = columns / max(float(columns.max()), 1e-12)

    def draw(axes: Axes, wide: bool) -> None:  # noqa: ARG001
        axes.fill_between(times, -loud, loud, color=_SERIES[0], linewidth=0)
        floor = -1.6 * max(float(loud.max()), 1e-6)
        width = seconds / len(columns)
        for i, strength in enumerate(columns):
            axes.bar(
                i * width, 0.4 * floor, width=width, bottom=floor, align="edge", color=_ACCENT, alpha=float(strength)
            )
        axes.set_xlim(0, seconds)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("seconds")

    peak = float(np.argmax(columns)) * seconds / len(columns)
    return _drawing(draw, name=name, said=f"Weights over {seconds:.1f} s; the most at {peak:.1f} s.", height=1.7)


def confusion(counts: NDArray[np.int64], *, labels: Sequence[str], name: str) -> Drawing:
    """Truth (rows) against answer (columns); a cell is as strong as its share of the row. counts: (C, C)."""
    classes = len(labels)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def draw(axes: Axes, wide: bool) -> None:
        from matplotlib.patches import Rectangle

        for row, column in np.argwhere(counts):
            axes.add_patch(
                Rectangle(
                    (column - 0.48, row - 0.48), 0.96, 0.96, linewidth=0, zorder=2,
                    facecolor=_ACCENT if row == column else _SERIES[3], alpha=0.12 + 0.88 * shares[row, column],
                )
            )  # fmt: skip
            if classes <= (12 if wide else 6):
                axes.annotate(
                    str(counts[row, column]), (column, row), ha="center", va="center", color=_INK, fontsize=10, zorder=3
                )
        axes.set_xlim(-0.5, classes - 0.5)
        axes.set_ylim(classes - 0.5, -0.5)
        longest = 16 if wide else 9
        axes.set_xticks(range(classes), [_short(label, longest) for label in labels], rotation=90)
        axes.set_yticks(range(classes), [_short(label, longest) for label in labels])
        axes.tick_params(length=0, labelsize=10 if classes <= 12 else 8)
        axes.set_xlabel("answer")
        axes.set_ylabel("truth")

    worst = sorted(((int(counts[r, c]), r, c) for r, c in np.argwhere(counts) if r != c), reverse=True)[:3]
    said = "; ".join(f"{labels[r]} taken for {labels[c]}: {n}" for n, r, c in worst) or "nothing is confused"
    height = 2.6 + 0.24 * max(classes, 4)
    return _drawing(draw, name=name, said=f"Confusion of {classes} classes. Most often: {said}.", height=height)


def roc(curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], *, name: str) -> Drawing:
    """Name -> (false, true) accept rates, (T,) each; false accepts on a log scale, where strict thresholds lie."""
    least = min(float(far[far > 0].min()) for far, _ in curves.values())

    def draw(axes: Axes, wide: bool) -> None:
        from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

        colours = _colours(list(curves))
        for i, (series, (far, tar)) in enumerate(curves.items()):
            shown = _few(far)
            axes.step(
                np.maximum(far[shown], least), tar[shown] * 100, where="post", color=colours[series], linewidth=1.8,
                linestyle=_LINES[i % len(_LINES)], label=_short(series), zorder=3,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xlim(least, 1)
        decades = [10.0**power for power in range(math.ceil(math.log10(least)), 1)]
        axes.xaxis.set_major_locator(FixedLocator(decades))
        axes.xaxis.set_major_formatter(FixedFormatter([f"{100 * far:g} %" for far in decades]))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(0, 102)
        axes.set_xlabel(
            "false accepts, share of pairs of different identities (log)" if wide else "false accepts (log)"
        )
        axes.set_ylabel("true accepts, %")
        axes.grid(True, color=_LINE, linewidth=0.6)
        axes.legend(loc="lower right", frameon=False)

    said = "; ".join(
        f"{series}: {as_text.percent(float(tar[(far <= 0.01).nonzero()[0][-1]]))} at 1 % false accepts"
        for series, (far, tar) in curves.items()
    )
    return _drawing(draw, name=name, said=f"True against false accept rate. {said}.", height=4.2)


def _few(far: NDArray[np.float64], most: int = 600) -> NDArray[np.intp]:
    """Places of the corners of a curve: of runs of equal false accept rate the last, thinned evenly in log scale."""
    last = np.flatnonzero(np.append(np.diff(far) > 0, True))
    if len(last) <= most:
        return last
    places = np.log10(np.maximum(far[last], far[far > 0].min()))
    wanted = np.linspace(places[0], places[-1], most)
    return np.unique(last[np.minimum(np.searchsorted(places, wanted), len(last) - 1)])


def _colours(series: Sequence[str]) -> dict[str, str]:
    return {s: _SERIES[i % len(_SERIES)] for i, s in enumerate(dict.fromkeys(series))}


def _short(name: str, longest: int = 24) -> str:
    """Return a name that leaves room for the plot; the tables beside it give it whole."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _sure_front(points: Sequence[Point]) -> list[int]:
    """Return indices of the points that are best within their latency, by rising latency.

    The fastest is the first; a slower point joins where its score's interval lies above that of the last one.
    """
    front: list[int] = []
    for i in pareto_front([(p.latency_ms[0], p.score[0]) for p in points]):
        if not front or _low(points[i]) > _high(points[front[-1]]):
            front.append(i)
    return front


def _low(point: Point) -> float:
    value, low, _ = point.score
    return value if math.isnan(low) else low


def _high(point: Point) -> float:
    value, _, high = point.score
    return value if math.isnan(high) else high


def _plain_log_ticks(axes: Axes, *, most: int) -> None:
    """Two to ``most`` ticks within the limits of a log x axis, written out in full: at 1, 2, 5 × 10ⁿ where those do."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [tick for power in powers for step in steps if low <= (tick := step * 10.0**power) <= high]
        if len(ticks) <= most:
            break
    if len(ticks) < 2:  # an axis within one of those steps, or over more decades than there may be ticks
        ticks = [tick for tick in MaxNLocator(min(most, 5)).tick_values(low, high) if low <= tick <= high]
    ticks = ticks[:: math.ceil(len(ticks) / most)]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:.10g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _drawing(draw: Callable[[Axes, bool], None], *, name: str, said: str, height: float) -> Drawing:
    return Drawing(
        _svg(draw, width=6.6, height=height, name=f"{name}-wide", said=said, wide=True),
        _svg(draw, width=3.9, height=height, name=f"{name}-narrow", said=said, wide=False),
        said,
    )


@cache
def _matplotlib() -> Any:
    """Import matplotlib, whose settings and list of fonts then lie in a temporary folder and not under HOME.

    Nor does what it asks for fonts (fontconfig) write there. Where it is imported already, this changes nothing.
    """
    if "matplotlib" not in sys.modules:
        folder = TemporaryDirectory(prefix="edgemm-matplotlib-")
        atexit.register(folder.cleanup)
        names = ("MPLCONFIGDIR", "XDG_CACHE_HOME")
        before = {name: os.environ.get(name) for name in names}
        os.environ.update(dict.fromkeys(names, folder.name))
        try:
            import_module("matplotlib.font_manager")
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
    return import_module("matplotlib")


def _svg(draw: Callable[[Axes, bool], None], *, width: float, height: float, name: str, said: str, wide: bool) -> str:
    mpl = _matplotlib()
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,  # reproducible ids
        "font.family": "sans-serif",
        "font.size": 11,
        "axes.unicode_minus": True,
        "text.color": _INK,
        "axes.labelcolor": _SOFT,
        "axes.edgecolor": _LINE,
        "xtick.color": _SOFT,
        "ytick.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # a "$" in a name is a "$"
    }
    with mpl.rc_context(style):
        figure: Figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        draw(axes, wide)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return _inline(buffer.getvalue().decode(), name=name, said=said)


def _inline(svg: str, *, name: str, said: str) -> str:
    """Return the svg element alone: ids made unique on the page, fixed size removed, colours left to the stylesheet."""
    from markupsafe import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]+", r"font-size: \1px", svg)  # the family is the page's
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height|version|xmlns(:\w+)?)="[^"]*"', "", head)
    rest = rest.replace("xlink:href", "href")
    return f'{head} role="img" aria-label="{escape(said)}">{rest}'
