"""Retention as bars: a group for each method, in it a bar for each budget, from the largest to the smallest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .groups import Budget, budgets
from .mean import MEAN, means
from .row import Row
from .spans import Spans
from .style import COLUMNS, DASHES, INK, interval, panels, ranked, rules, title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 3.0
_CROWD = 48  # bars in a panel beyond which fewer panels are side by side
_TOP = 150.0  # percent above which no interval is followed
_LEVEL = 3  # methods whose names fit side by side
_GAP = 0.9  # between groups, in bars
_SHADES = ("#3f7fbf", "#85b5da", "#bfd9ec", "#eff5fb")  # one hue, the fewer tokens the lighter; intervals show on all
_EDGE = "#2b4a6f"


@dataclass(frozen=True)
class Bar:
    method: str
    color: str
    row: Row


def retention(rows: Sequence[Row], spans: Spans) -> Figure | None:
    """A panel for each benchmark, of one model's rows; None where nothing was compared with the unpruned model."""
    from matplotlib.patches import Patch

    known = [row for row in [*means(rows), *rows] if row.retention is not None]
    groups = budgets(known)
    if not groups:
        return None
    colors = _shades(len(groups))
    bars = {name: list(_bars(groups, colors, name, ranked(known))) for name in _benchmarks(groups)}
    most = max(map(len, bars.values()))
    columns = COLUMNS if most <= _CROWD else 2 if most <= 2 * _CROWD else 1
    entries: list[Artist] = [
        Patch(facecolor=color, edgecolor=_EDGE, linewidth=0.6, label=group.label)
        for group, color in zip(groups, colors, strict=True)
    ]
    if any(spans.retention(bar.row) for own in bars.values() for bar in own):
        entries.append(interval())
    figure, axes = panels(len(bars), _HEIGHT, entries, columns)
    names = max(len({bar.method for bar in own}) for own in bars.values())
    slant = 0 if names <= _LEVEL else 90  # of all panels, where one has more names than fit side by side
    for axis, (benchmark, own) in zip(axes, bars.items(), strict=True):
        title(axis, benchmark)
        _draw(axis, own, spans, slant)
    return figure


def _benchmarks(groups: Sequence[Budget]) -> list[str]:
    found = {name for group in groups for own in group.lines.values() for name in own}
    return sorted(found, key=lambda name: (name != MEAN, name))


def _bars(groups: Sequence[Budget], colors: Sequence[str], benchmark: str, methods: Sequence[str]) -> Iterator[Bar]:
    """Of one benchmark, method by method."""
    for method in methods:
        for group, color in zip(groups, colors, strict=True):
            for own in group.lines.values():
                if (row := own.get(benchmark)) and row.config.method == method:
                    yield Bar(method, color, row)


def _draw(axis: Axes, bars: Sequence[Bar], spans: Spans, slant: float) -> None:
    """From zero, so that lengths may be compared."""
    axis.set_ylabel("retention, %", fontsize=9)
    rules(axis, "y")
    places, names, at = list[float](), dict[str, list[float]](), 0.0
    for i, bar in enumerate(bars):
        at += 1 + (_GAP if i and bar.method != bars[i - 1].method else 0)
        places.append(at)
        names.setdefault(bar.method, []).append(at)
    heights = [bar.row.retention or 0.0 for bar in bars]
    axis.bar(places, heights, width=0.92, color=[bar.color for bar in bars], edgecolor=_EDGE, linewidth=0.5)
    top = max(100.0, *heights)
    for place, height, bar in zip(places, heights, bars, strict=True):
        if span := spans.retention(bar.row):
            top = max(top, min(span.high, _TOP))
            down, up = span.around(height)
            axis.errorbar(place, height, yerr=[down, up], color=INK, linewidth=0.9, capsize=1.2, capthick=0.7)
    axis.axhline(100, color=INK, linewidth=1, linestyle=DASHES, zorder=1.5)
    axis.set_xticks([sum(own) / len(own) for own in names.values()], list(names), rotation=slant, fontsize=8.5)
    axis.tick_params(axis="x", length=0)
    room = max(4 - at, 0) / 2  # a bar alone is no wall
    axis.set_xlim(-room, at + 1 + room)
    axis.set_ylim(0, 1.05 * top)


def _shades(count: int) -> list[str]:
    """From dark to light, at equal steps."""
    from matplotlib.colors import LinearSegmentedColormap, to_hex

    scale = LinearSegmentedColormap.from_list("tokens", _SHADES)
    return [to_hex(scale(i / max(count - 1, 1))) for i in range(count)]
