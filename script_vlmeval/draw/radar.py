"""Retention on all benchmarks at once: an axis for each of them, a polygon for each method, a radar for each budget."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .groups import Budget, budgets
from .mean import LEAST
from .row import Row
from .style import DASHES, INK, PALE, Looks, halo, handles, panels, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.projections.polar import PolarAxes

_HEIGHT = 3.0  # of three in a row; there are two
_WORD = 11  # letters of a benchmark's name beyond which it goes on in another line
_RINGS = (1, 2, 5, 10, 20, 25)  # steps between them, in percent
_MOST_RINGS = 5
_MOST = 11  # polygons that can be told apart


def radar(rows: Sequence[Row], looks: Looks) -> Figure | None:
    """Of one model's rows; None where no method has a retention on three benchmarks at one budget."""
    from matplotlib.lines import Line2D

    shown = [(group, lines) for group in budgets([row for row in rows if row.retention is not None]) if (lines := _lines(group))]
    if not shown:
        return None
    here = {group.method(name) for group, lines in shown for name in lines}
    unpruned = Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHES, label="unpruned (100 %)")
    entries = [*handles({name: look for name, look in looks.items() if name in here}), unpruned]
    figure, axes = panels(len(shown), _HEIGHT, entries, 2, projection="polar")
    for axis, (group, lines) in zip(axes, shown, strict=True):
        beside = f" ({len(lines)} best of {len(group.lines)})" if len(group.lines) > _MOST else ""
        title(axis, group.label + beside, pad=22)
        _draw(axis, lines, {name: looks[group.method(name)] for name in lines})
    return figure


def _lines(group: Budget) -> dict[str, Mapping[str, Row]]:
    """Its methods that have as many benchmarks as make a polygon; of many, those of the highest mean retention."""
    known = {name: own for name, own in group.lines.items() if len(own) >= LEAST}
    means = {name: statistics.fmean(row.retention or 0.0 for row in own.values()) for name, own in known.items()}
    best = sorted(known, key=lambda name: (-means[name], name))[:_MOST]
    return {name: known[name] for name in sorted(best)}


def _draw(axis: Axes, lines: Mapping[str, Mapping[str, Row]], looks: Looks) -> None:
    """A benchmark that a method lacks is a gap in its polygon."""
    benchmarks = sorted({name for own in lines.values() for name in own}, key=str.casefold)
    angles = [2 * math.pi * i / len(benchmarks) for i in range(len(benchmarks))]
    _frame(axis, benchmarks, angles, [row.retention or 0.0 for own in lines.values() for row in own.values()])
    for name, own in lines.items():
        values = [(row.retention or 0.0) if (row := own.get(benchmark)) else math.nan for benchmark in benchmarks]
        style: Any = {"linewidth": 1.5, "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axis.plot([*angles, angles[0]], [*values, values[0]], **looks[name], **style)


def _frame(axis: Any, benchmarks: Sequence[str], angles: Sequence[float], values: Sequence[float]) -> None:
    """The first axis points up, the others follow clockwise; rings at round percents, that of the unpruned model dashed."""
    polar: PolarAxes = axis
    polar.set_theta_zero_location("N")
    polar.set_theta_direction(-1)
    rings = list(_rings(min(values), max(values)))
    polar.set_ylim(rings[0], max(*values, 100.0) + 0.03 * (100 - rings[0]))
    polar.set_yticks(rings, [""] * len(rings))
    for ring in rings:  # between two axes, above the polygons
        place: Any = {"ha": "center", "va": "center", "zorder": 5, "path_effects": halo()}
        polar.text(angles[1] / 2, ring, f"{ring:g}", **place, color=INK, fontsize=7.5)
    polar.set_xticks(angles, [_wrapped(name) for name in benchmarks], fontsize=8.5)
    for label, angle in zip(polar.get_xticklabels(), angles, strict=True):
        side = math.sin(angle)
        label.set_horizontalalignment("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
    polar.tick_params(axis="x", pad=4)
    polar.grid(color=PALE, linewidth=0.8)
    polar.spines["polar"].set_visible(False)
    turn = [2 * math.pi * i / 180 for i in range(181)]
    polar.plot(turn, [100.0] * len(turn), color=INK, linewidth=1.2, linestyle=DASHES, zorder=1.8)


def _rings(low: float, high: float) -> Iterator[float]:
    """Round percents that begin below `low`, which is the centre, and go through 100."""
    step = next((step for step in _RINGS if 100 - low <= step * (_MOST_RINGS - 1)), _RINGS[-1])
    ring = max(0.0, 100.0 - step * math.ceil((100 - low) / step + 0.2))
    while ring <= max(high, 100.0):
        yield ring
        ring += step


def _wrapped(name: str) -> str:
    """In lines, split behind underscores and at blanks."""
    lines = [""]
    for part in re.findall(r"[^_ ]*[_ ]?", name):
        if lines[-1] and len(lines[-1]) + len(part) > _WORD:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)
