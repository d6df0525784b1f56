"""Plots as inline SVG that follow the page's light or dark colours and stay readable on a phone.

Matplotlib draws with stand-in colours that are then replaced by CSS variables, text stays text, and each figure is
drawn twice (wide and narrow) so that a phone does not get a shrunken poster. The page's stylesheet picks one.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from edgemm.measure import words
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
_MARKERS: Final = ("o", "s", "D", "^")  # targets of one variant
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
    """One variant in the waterfall."""

    name: str
    value: float
    label: str  # value with its unit


@dataclass(frozen=True, slots=True)
class Drawing:
    """One figure in both widths, as SVG that is safe to inline; ``words`` says the same for those who cannot see it."""

    wide: str
    narrow: str
    words: str


def pareto(points: Sequence[Point], *, metric: str, share: bool, name: str) -> Drawing:
    """Latency (log) against a task metric, with error bars; dashed, the best score to be had within a latency."""

    def draw(axes: Axes, wide: bool) -> None:
        scale = 100 if share else 1
        colours = _colours([p.series for p in points])
        seen: dict[str, int] = {}
        front = pareto_front([(p.latency_ms[0], p.score[0]) for p in points])
        for p in points:
            seen[p.series] = seen.get(p.series, -1) + 1
            marker = _MARKERS[seen[p.series] % len(_MARKERS)]
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
        _plain_log_ticks(axes, [p.latency_ms[0] for p in points], most=8 if wide else 6)
        known = [scale * v for p in points for v in p.score if not math.isnan(v)]
        low, high = min(known), max(known)
        room = max(high - low, 1e-9) * 0.12
        axes.set_ylim(low - room, high + room)
        axes.set_xlabel("end-to-end latency, ms (log)  ·  left is faster")
        axes.set_ylabel(f"{_short(metric, 40)}, %" if share else _short(metric, 40))
        axes.grid(True, color=_LINE, linewidth=0.6)
        axes.margins(x=0.1)
        right = axes.get_xlim()[1]
        axes.set_xlim(axes.get_xlim())
        axes.step(
            [*(points[i].latency_ms[0] for i in front), right],
            [*(scale * points[i].score[0] for i in front), scale * points[front[-1]].score[0]],
            where="post", color=_SOFT, linewidth=1.4, linestyle=(0, (4, 3)), zorder=1,
        )  # fmt: skip
        axes.get_figure().legend(  # type: ignore[union-attr]
            loc="outside lower left", ncols=3 if wide else 2, frameon=False, handletextpad=0.3, columnspacing=1.2
        )

    said = "; ".join(
        f"{p.name}: {words.milliseconds(p.latency_ms[0])}, "
        f"{words.percent(p.score[0]) if share else words.three_figures(p.score[0])}"
        for p in points
    )
    return _drawing(draw, name=name, said=f"Latency against {metric}. {said}.", height=5.7)


def waterfall(steps: Sequence[Step], *, quantity: str, name: str) -> Drawing:
    """What each stage took off, on a log scale: a bar runs from the value before to the value after.

    On a log scale a bar's length is the factor, so that 100 → 50 and 2 → 1 look alike, as they should.
    """

    def draw(axes: Axes, wide: bool) -> None:
        values = [s.value for s in steps]
        floor = min(values) / 2.2
        for i, step in enumerate(steps):
            start, end = (floor, step.value) if i == 0 else (values[i - 1], step.value)
            better = end <= start
            colour = _SERIES[0] if i == 0 else _ACCENT if better else _SERIES[3]
            axes.barh(i, end - start, left=start, height=0.56, color=colour, zorder=2)
            if i:
                axes.plot([start, start], [i - 1 + 0.28, i - 0.28], color=_SOFT, linewidth=1, zorder=1)
            text = step.label
            if i and end > 0 and abs(start / end - 1) > 0.005:
                text += (
                    f"   ÷ {words.three_figures(start / end)}" if better else f"   × {words.three_figures(end / start)}"
                )
            axes.annotate(
                text, (max(start, end), i), xytext=(6, 0), textcoords="offset points",
                ha="left", va="center", color=_INK, fontsize=11, zorder=4,
            )  # fmt: skip
        axes.set_xscale("log")
        _plain_log_ticks(axes, values, most=8 if wide else 5)
        room = 0.30 if wide else 0.52  # share of the axis kept free for the text right of the longest bar
        axes.set_xlim(floor, max(values) * (max(values) / floor) ** (room / (1 - room)))
        axes.set_yticks(range(len(steps)), [_short(s.name, 14) for s in steps])
        axes.invert_yaxis()
        axes.set_xlabel(f"{quantity} (log)")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    said = "; ".join(f"{s.name}: {s.label}" for s in steps)
    return _drawing(draw, name=name, said=f"{quantity} through the stages. {said}.", height=0.75 + 0.55 * len(steps))


def waveform(samples: NDArray[np.float32], weights: NDArray[np.floating], *, rate: int, name: str) -> Drawing:
    """A sound over time and, as a strip below it, one weight for each frame of it; darker is more.

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
        for series, (far, tar) in curves.items():
            shown = _few(far)
            axes.step(
                np.maximum(far[shown], least), tar[shown] * 100, where="post", color=colours[series], linewidth=1.8,
                label=_short(series), zorder=3,
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
        f"{series}: {words.percent(float(tar[(far <= 0.01).nonzero()[0][-1]]))} at 1 % false accepts"
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
    """A name that leaves room for the plot; the tables beside it give it whole."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _plain_log_ticks(axes: Axes, values: Sequence[float], *, most: int) -> None:
    """Ticks at 1, 2, 5 × 10ⁿ near the values, fewer where that would be more than ``most``; written out in full."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        ticks = [tick for tick in ticks if min(values) / 1.6 <= tick <= max(values) * 1.6]
        if len(ticks) <= most:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:g}" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _drawing(draw: Callable[[Axes, bool], None], *, name: str, said: str, height: float) -> Drawing:
    return Drawing(
        _svg(draw, width=6.6, height=height, name=f"{name}-wide", said=said, wide=True),
        _svg(draw, width=3.9, height=height, name=f"{name}-narrow", said=said, wide=False),
        said,
    )


def _svg(draw: Callable[[Axes, bool], None], *, width: float, height: float, name: str, said: str, wide: bool) -> str:
    import matplotlib as mpl
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
    with mpl.rc_context(style):  # type: ignore[arg-type]  # its key type is a literal of every setting's name
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
    """The svg element alone: ids made unique on the page, fixed size removed, colours left to the stylesheet."""
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
