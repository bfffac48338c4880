"""Plots as PNG: accuracy against the visual-token budget.

A reader in print, in grey or with any colour vision tells the methods apart: each has its own colour (of a set chosen for
that), marker and line style, the same in every panel.
"""

from __future__ import annotations

import colorsys
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..files import replacing
from .row import Row, peers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#332288",
    "#882255",
    "#999933",
    "#8C510A",
    "#AA4499",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (7, 2, 1, 2)))
_INK, _GREY = "#222222", "#767676"
_LEAST = 1.0  # points that an axis of scores spans
_WIDTH, _HEIGHT, _COLUMNS = 4.9, 3.7, 3
_DOT, _MANY = 0.2, 5  # inches per row in a comparison at one budget, and from how many methods on there is one
_FRAME, _ENTRY = 1.1, 0.22  # inches around the rows of a comparison, and of a line of the legend
_Painter: TypeAlias = "Callable[[Axes], None]"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": _GREY,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.minor.bottom": False,
}


@dataclass(frozen=True)
class Panel:
    """One benchmark under one model."""

    title: str
    lines: Mapping[str, Sequence[Row]]  # method -> its rows, by budget
    full: Row | None

    @property
    def curves(self) -> Mapping[str, Sequence[Row]]:
        """The methods that are drawn over budgets: those with several, and those that are not compared below."""
        below = {row.config.method for rows in self.comparisons for row in rows}
        return {name: rows for name, rows in self.lines.items() if name not in below or len(peers(rows)) > 1}

    @property
    def comparisons(self) -> list[list[Row]]:
        """The rows of every budget that many methods share, the largest budget first, each from the lowest score up."""
        groups = peers([row for line in self.lines.values() for row in line])
        many = [rows for rows in reversed(groups) if len({row.config.method for row in rows}) >= _MANY]
        return [sorted(rows, key=lambda row: row.score) for rows in many]


def accuracy(rows: Sequence[Row], path: Path) -> None:
    """Score against budget with 95 % bands, a panel for each benchmark and model that has pruned results: there must be one.
    Where many methods share a budget, they are set against each other below, the best at the top.

    UserError when `path` cannot be written.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        figure = _figure(_panels(rows))
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})


def _figure(panels: Sequence[Panel]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    looks = _looks(sorted({method for panel in panels for method in panel.curves}))
    columns = min(_COLUMNS, len(panels))
    grid = [row for i in range(0, len(panels), columns) for row in _grid(panels[i : i + columns], looks)]
    heights = [height for height, _ in grid]
    figure = Figure(figsize=(_WIDTH * columns, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    FigureCanvasAgg(figure)
    if looks:
        figure.set_figheight(sum(heights) + 0.28 + _ENTRY * _legend(figure, looks))
    axes = figure.subplots(len(grid), columns, squeeze=False, height_ratios=heights)
    for line, (_, painters) in zip(axes, grid, strict=True):
        for column, axis in enumerate(line):
            paint = painters[column] if column < len(painters) else None
            if paint:
                paint(axis)
            else:
                axis.set_visible(False)
    return figure


def _grid(block: Sequence[Panel], looks: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[float, Sequence[_Painter | None]]]:
    """The rows of axes of panels side by side: height, and what draws each; None for a place that stays empty."""
    if any(panel.curves for panel in block):
        yield _HEIGHT, [partial(_draw, panel=panel, looks=looks) if panel.curves else None for panel in block]
    for i in range(max(len(panel.comparisons) for panel in block)):
        here = [panel.comparisons[i] if i < len(panel.comparisons) else [] for panel in block]
        painters = [partial(_compare, panel=panel, rows=rows) if rows else None for panel, rows in zip(block, here, strict=True)]
        yield _DOT * max(map(len, here)) + _FRAME, painters


def _panels(rows: Sequence[Row]) -> list[Panel]:
    """Rows without a place on the budget axis are left out."""
    several = len({row.config.model for row in rows}) > 1
    panels = []
    for benchmark, model in sorted({(row.benchmark, row.config.model) for row in rows if not row.config.full and row.tokens}):
        here = [row for row in rows if (row.benchmark, row.config.model) == (benchmark, model)]
        pruned = sorted((row for row in here if not row.config.full and row.tokens), key=lambda row: row.tokens)
        lines = {name: [row for row in pruned if row.config.method == name] for name in sorted({r.config.method for r in pruned})}
        full = next((row for row in here if row.config.full), None)
        panels.append(Panel(f"{benchmark} · {model}" if several else benchmark, lines, full))
    return panels


def _looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each method is drawn, everywhere. No two have a colour in common: beyond the chosen ones, hues at equal steps."""
    more = range(len(methods) - len(_COLORS))
    colors = [*_COLORS, *(colorsys.hls_to_rgb(i / len(more), 0.35, 0.45) for i in more)]
    styles = zip(methods, colors, cycle(_MARKERS), cycle(_LINES), strict=False)
    return {method: {"color": color, "marker": marker, "linestyle": line} for method, color, marker, line in styles}


def _draw(axis: Axes, panel: Panel, looks: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [row for line in panel.curves.values() for row in line]
    axis.set_title(panel.title, loc="left", fontweight="bold", color=_INK, pad=10)
    axis.set_ylabel(rows[0].metric)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for method, line in panel.curves.items():
        _line(axis, line, looks[method])
    _scale(axis, sorted({row.tokens for row in rows}), "video" if any(row.video for row in rows) else "image")
    if panel.full:
        kept = f" ({panel.full.tokens:g} tokens)" if panel.full.tokens else ""
        _level(axis, panel.full.score, f"unpruned{kept}: {panel.full.score:.4g}", _INK, (0, (6, 3)))
    floors = _merged((panel.full or rows[0]).floors)
    for label, score in floors.items():
        below = len(floors) > 1 and score == min(floors.values())  # two levels may be close
        _level(axis, score, f"{label}: {score:.4g}", _GREY, (0, (1, 2)), right=True, below=below)
    axis.margins(y=0.1)
    low, high = axis.get_ylim()
    if high - low < _LEAST:  # all scores alike: an axis of rounding errors says nothing
        axis.set_ylim(low - _LEAST / 2, high + _LEAST / 2)


def _line(axis: Axes, rows: Sequence[Row], look: Mapping[str, Any]) -> None:
    tokens, scores = [row.tokens for row in rows], [row.score for row in rows]
    low, high = [row.score - (row.half or 0) for row in rows], [row.score + (row.half or 0) for row in rows]
    axis.fill_between(tokens, low, high, color=look["color"], alpha=0.13, linewidth=0)
    axis.vlines(tokens, low, high, color=look["color"], alpha=0.45, linewidth=1.2)
    axis.plot(tokens, scores, **look, linewidth=1.8, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)


def _compare(axis: Axes, panel: Panel, rows: Sequence[Row]) -> None:
    """The methods of one budget, a line of its own for each, between what needs no image and what all tokens give."""
    tokens = Counter(row.tokens for row in rows).most_common(1)[0][0]
    axis.set_title(f"{panel.title} at {tokens:.4g} tokens", loc="left", fontweight="bold", color=_INK, pad=18)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for place, row in enumerate(rows):
        floor = row.config.method == "random"  # what every method must beat
        axis.errorbar(
            row.score, place, xerr=row.half, fmt="s" if floor else "o", color=_GREY if floor else _COLORS[0], markersize=5
        )
    axis.set_yticks(range(len(rows)), _labels(rows), fontsize=8.5)
    floors = _merged((panel.full or rows[0]).floors)
    for label, score in floors.items():
        side = "center" if len(floors) == 1 else "right" if score == min(floors.values()) else "left"  # two may be close
        _mark(axis, score, label, _GREY, (0, (1, 2)), side)
    if panel.full:
        _mark(axis, panel.full.score, "unpruned", _INK, (0, (6, 3)), "center")
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel(f"{rows[0].metric}, with 95 % intervals")


def _labels(rows: Sequence[Row]) -> list[str]:
    """The methods' names, with the budget where a name would be there twice."""
    times = Counter(row.config.method for row in rows)
    return [f"{row.config.method} {row.config.budget}" if times[row.config.method] > 1 else row.config.method for row in rows]


def _mark(axis: Axes, score: float, label: str, color: str, line: Any, side: Any) -> None:
    """A vertical line with its label on top."""
    axis.axvline(score, color=color, linewidth=1.2, linestyle=line, zorder=1.5)
    place: Any = {"xy": (score, 1), "xycoords": ("data", "axes fraction"), "xytext": (0, 2), "textcoords": "offset points"}
    axis.annotate(label, **place, ha=side, va="bottom", color=color, fontsize=8)


def _scale(axis: Axes, tokens: Sequence[float], of: str) -> None:
    """A log2 axis with a tick at every budget, or at as many as do not collide. of: what the tokens are counted in."""
    axis.set_xscale("log", base=2)
    shown: list[float] = []
    for value in reversed(tokens):
        if not shown or math.log2(shown[-1] / value) >= math.log2(tokens[-1] / tokens[0]) / 9:
            shown.append(value)
    axis.set_xticks(shown, [f"{value:.4g}" for value in shown])
    axis.set_xlim(tokens[0] / 1.22, tokens[-1] * 1.22)
    axis.set_xlabel(f"visual tokens kept per {of} (log scale)")


def _level(axis: Axes, score: float, label: str, color: str, line: Any, right: bool = False, below: bool = False) -> None:
    """A horizontal line with its label: on the left, where curves are low, or on the right, where they are high."""
    axis.axhline(score, color=color, linewidth=1.2, linestyle=line, zorder=1.5)
    place: Any = {"xy": (0.988 if right else 0.012, score), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    place |= {"xytext": (0, -3 if below else 3), "va": "top" if below else "bottom", "ha": "right" if right else "left"}
    axis.annotate(label, **place, color=color, fontsize=8.5)


def _merged(floors: Mapping[str, float]) -> dict[str, float]:
    """Levels of one height share a label, which would otherwise be printed twice in one place."""
    labels: dict[float, list[str]] = {}
    for label, score in floors.items():
        labels.setdefault(score, []).append(label)
    return {" = ".join(names): score for score, names in labels.items()}


def _legend(figure: Figure, looks: Mapping[str, Mapping[str, Any]]) -> int:
    """The legend below all panels, in as many columns as the figure is wide enough for; the answer is the number of its lines."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], **look, linewidth=1.8, markersize=6.5, label=method) for method, look in looks.items()]
    handles.append(Patch(color=_GREY, alpha=0.25, linewidth=0, label="95 % interval"))
    place: Any = {"handles": handles, "loc": "outside lower center", "frameon": False, "handlelength": 3}
    for lines in range(math.ceil(len(handles) / 6), len(handles)):
        legend = figure.legend(**place, ncols=math.ceil(len(handles) / lines))
        if legend.get_window_extent().width <= figure.bbox.width:
            return lines
        legend.remove()
    figure.legend(**place)
    return len(handles)
