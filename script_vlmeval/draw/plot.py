"""Accuracy against the visual-token budget: curves, and methods of one budget set against each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .mean import MEAN, means
from .measure import measured
from .row import Row, peers
from .spans import Evidence, Span, Spans
from .style import (
    COLUMNS,
    DASHES,
    DOTS,
    GREY,
    INK,
    STYLE,
    Looks,
    aside,
    band,
    column,
    handles,
    interval,
    level,
    ranked,
    rules,
    save,
    shift,
    ticks,
    title,
)
from .style import figure as empty
from .style import looks as _looks

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BANDS = 8  # methods whose intervals are drawn as bands: of more they would cover each other
_LEAST = 1.0  # points that an axis of scores spans
_HEIGHTS = {1: 3.7, 2: 3.7, COLUMNS: 2.9}  # inches of a panel of curves, by how many are side by side
_DOT, _MANY = 0.2, 5  # inches per row in a comparison at one budget, and from how many methods on there is one
_FRAME, _PANELS = 1.1, 3  # inches around the rows of a comparison; beyond how many panels there is none
_BEHIND: Any = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.6}  # what lies under a label
_Painter: TypeAlias = "Callable[[Axes], None]"


@dataclass(frozen=True)
class Panel:
    """One benchmark under one model."""

    title: str
    lines: Mapping[str, Sequence[Row]]  # method -> its rows, by budget
    full: Row | None
    compared: bool = True  # whether methods of one budget are set against each other below the curves

    @property
    def curves(self) -> Mapping[str, Sequence[Row]]:
        """The methods that are drawn over budgets: those with several, and those that are not compared below."""
        below = {row.config.method for rows in self.comparisons for row in rows}
        return {name: rows for name, rows in self.lines.items() if name not in below or len(peers(rows)) > 1}

    @property
    def comparisons(self) -> list[list[Row]]:
        """The rows of every budget that many methods share, the largest budget first, each from the lowest score up."""
        if not self.compared:
            return []
        groups = peers([row for line in self.lines.values() for row in line])
        many = [rows for rows in reversed(groups) if len({row.config.method for row in rows}) >= _MANY]
        return [sorted(rows, key=lambda row: row.score) for rows in many]


def accuracy(rows: Sequence[Row], path: Path, evidence: Evidence | None = None) -> None:
    """Score against budget with 95 % bands, a panel for each benchmark and model that has pruned results: there must be one.
    Where many methods share a budget, they are set against each other below, the best at the top; among many panels curves only.

    UserError when `path` cannot be written.
    """
    from matplotlib import rc_context

    with rc_context(STYLE):
        save(curves(rows, _looks(ranked(rows)), Spans(evidence)), path)


def curves(rows: Sequence[Row], looks: Looks, spans: Spans) -> Figure:
    """What `accuracy` shows."""
    return _figure(_panels([*means(rows), *rows]), looks, spans)


def _figure(panels: Sequence[Panel], looks: Looks | None = None, spans: Spans | None = None) -> Figure:
    spans = spans or Spans()
    looks = looks or _looks(ranked(row for panel in panels for line in panel.lines.values() for row in line))
    columns = min(COLUMNS, len(panels))
    blocks = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    grid = [row for block in blocks for row in _grid(block, _HEIGHTS[columns], looks, spans)]
    heights = [height for height, _ in grid]
    figure = empty(column(columns) * columns, sum(heights), _entries(panels, looks, spans))
    axes = figure.add_gridspec(len(grid), columns, height_ratios=heights)
    for i, (_, painters) in enumerate(grid):
        for j, paint in enumerate(painters):
            if paint:
                paint(figure.add_subplot(axes[i, j]))
    return figure


def _entries(panels: Sequence[Panel], looks: Looks, spans: Spans) -> list[Artist]:
    """What is drawn above comparisons, which have their names beside them."""
    lines = [line for panel in panels for line in panel.curves.values()]
    if not lines:
        return []
    shown = {line[0].config.method for line in lines}
    known = [[row for row in line if spans.score(row)] for line in lines]
    found = handles({method: look for method, look in looks.items() if method in shown})
    found += [level()] * any(panel.full and panel.curves for panel in panels)
    if any(len(line) > 1 for line in known) and any(len(panel.curves) <= _BANDS for panel in panels):
        return [*found, band()]
    return [*found, *([interval()] if any(known) else [])]


def _grid(block: Sequence[Panel], height: float, looks: Looks, spans: Spans) -> Iterator[tuple[float, Sequence[_Painter | None]]]:
    """The rows of axes of panels side by side: height, and what draws each; None for a place that stays empty."""
    if any(panel.curves for panel in block):
        yield height, [partial(_draw, panel=panel, looks=looks, spans=spans) if panel.curves else None for panel in block]
    for i in range(max(len(panel.comparisons) for panel in block)):
        here = [panel.comparisons[i] if i < len(panel.comparisons) else [] for panel in block]
        painters = [
            partial(_compare, panel=panel, rows=rows, looks=looks, spans=spans) if rows else None
            for panel, rows in zip(block, here, strict=True)
        ]
        yield _DOT * max(map(len, here)) + _FRAME, painters


def _panels(rows: Sequence[Row]) -> list[Panel]:
    """The mean of benchmarks first. Rows without a place on the budget axis are left out."""
    several = len({row.config.model for row in rows}) > 1
    places = {(row.benchmark, row.config.model) for row in rows if not row.config.full and row.tokens}
    panels = []
    for benchmark, model in sorted(places, key=lambda place: (place[0] != MEAN, place)):
        here = [row for row in rows if (row.benchmark, row.config.model) == (benchmark, model)]
        pruned = sorted((row for row in here if not row.config.full and row.tokens), key=lambda row: row.tokens)
        lines = {name: [row for row in pruned if row.config.method == name] for name in sorted({r.config.method for r in pruned})}
        full = next((row for row in here if row.config.full), None)
        panels.append(Panel(f"{benchmark} · {model}" if several else benchmark, lines, full, len(places) <= _PANELS))
    return panels


def _draw(axis: Axes, panel: Panel, looks: Looks, spans: Spans) -> None:
    rows = [row for line in panel.curves.values() for row in line]
    title(axis, panel.title, pad=18 if panel.full else 10)
    axis.set_ylabel(measured(rows[0]), fontsize=9)
    rules(axis, "y")
    for place, (method, line) in enumerate(panel.curves.items()):
        _line(axis, line, looks[method], spans, aside(place, len(panel.curves)), len(panel.curves) <= _BANDS)
    _scale(axis, sorted({row.tokens for row in rows}), "video" if any(row.video for row in rows) else "image")
    if panel.full:
        kept = f" ({panel.full.tokens:g} tokens)" if panel.full.tokens else ""
        axis.axhline(panel.full.score, color=INK, linewidth=1.2, linestyle=DASHES, zorder=1.5)
        _beneath(axis, f"unpruned{kept}: {panel.full.score:.4g}")
    floors = _merged((panel.full or rows[0]).floors)
    for label, score in floors.items():
        below = len(floors) > 1 and score == min(floors.values())  # two levels may be close
        _level(axis, score, f"{label}: {score:.4g}", below)
    axis.margins(y=0.1)
    low, high = axis.get_ylim()
    if high - low < _LEAST:  # all scores alike: an axis of rounding errors says nothing
        axis.set_ylim(low - _LEAST / 2, high + _LEAST / 2)


def _beneath(axis: Axes, text: str) -> None:
    """Below the title, where nothing is drawn over it."""
    place: Any = {"xy": (0, 1), "xycoords": "axes fraction", "xytext": (0, 4), "textcoords": "offset points"}
    axis.annotate(text, **place, va="bottom", color=INK, fontsize=8.5)


def _line(axis: Axes, rows: Sequence[Row], look: Mapping[str, Any], spans: Spans, to_the_side: float, band: bool) -> None:
    tokens, scores = [row.tokens for row in rows], [row.score for row in rows]
    around = [spans.score(row) or Span(row.score, row.score) for row in rows]
    low, high = [span.low for span in around], [span.high for span in around]
    drawn: list[Any] = [axis.fill_between(tokens, low, high, color=look["color"], alpha=0.13, linewidth=0)] if band else []
    drawn += [
        axis.vlines(tokens, low, high, color=look["color"], alpha=0.45, linewidth=1.2),
        *axis.plot(tokens, scores, **look, linewidth=1.8, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8),
    ]
    shift(axis, to_the_side, drawn)


def _compare(axis: Axes, panel: Panel, rows: Sequence[Row], looks: Looks, spans: Spans) -> None:
    """The methods of one budget, a line of its own for each, between what needs no image and what all tokens give."""
    tokens = Counter(row.tokens for row in rows).most_common(1)[0][0]
    title(axis, f"{panel.title} at {tokens:.4g} tokens", pad=18)
    rules(axis, "x")
    for place, row in enumerate(rows):
        span, look = spans.score(row), looks[row.config.method]
        error = span.around(row.score) if span else None
        axis.errorbar(row.score, place, xerr=error, fmt=look["marker"], color=look["color"], markersize=5.5)
    axis.set_yticks(range(len(rows)), _labels(rows), fontsize=8.5)
    floors = _merged((panel.full or rows[0]).floors)
    for label, score in floors.items():
        side = "center" if len(floors) == 1 else "right" if score == min(floors.values()) else "left"  # two may be close
        _mark(axis, score, label, GREY, DOTS, side)
    if panel.full:
        _mark(axis, panel.full.score, "unpruned", INK, DASHES, "center")
    axis.set_ylim(-0.7, len(rows) - 0.3)
    known = "; 95 % intervals" if any(map(spans.score, rows)) else ""
    axis.set_xlabel(measured(rows[0]) + known, fontsize=9)


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
    shown = ticks(axis, tokens, ".4g")
    axis.set_xticks(shown, [f"{value:.4g}" for value in shown])
    axis.set_xlim(tokens[0] / 1.22, tokens[-1] * 1.22)
    axis.set_xlabel(f"visual tokens kept per {of} (log scale)", fontsize=9)


def _level(axis: Axes, score: float, label: str, below: bool) -> None:
    """A horizontal line with its label on the right, where curves are high."""
    axis.axhline(score, color=GREY, linewidth=1.2, linestyle=DOTS, zorder=1.5)
    place: Any = {"xy": (0.988, score), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    place |= {"xytext": (0, -3 if below else 3), "va": "top" if below else "bottom", "ha": "right"}
    axis.annotate(label, **place, color=GREY, fontsize=8.5, bbox=_BEHIND)


def _merged(floors: Mapping[str, float]) -> dict[str, float]:
    """Levels of one height share a label, which would otherwise be printed twice in one place."""
    labels: dict[float, list[str]] = {}
    for label, score in floors.items():
        labels.setdefault(score, []).append(label)
    return {" = ".join(names): score for score, names in labels.items()}
