"""Score against what an answer cost, with the Pareto front: what no other configuration beats in both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .mean import MEAN, means
from .row import Row, at, number
from .spans import Spans
from .style import GREY, INK, Looks, apart, handles, interval, panels, rules, title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.9
_SAME = 1.01  # how many times a cost another one may be and count as equal: a hair's breadth earns no place on the front
_FRONT: Any = {"color": GREY, "linewidth": 1.6, "alpha": 0.75, "zorder": 1.8}
_FULL: Any = {"color": INK, "marker": "*", "markersize": 12, "linestyle": "none"}
_TICKS = 6  # of a log axis of costs, at most
_STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7))  # ticks within a power of ten: the finer ones where the others are too few


@dataclass(frozen=True)
class Cost:
    """What an answer takes: `of` a row, in the unit of the label; None where it was not measured."""

    name: str
    label: str
    of: Callable[[Row], float | None]
    log: bool = True


@dataclass(frozen=True)
class Point:
    cost: float
    row: Row


def _seconds(row: Row) -> float | None:
    speed = number(row.data.get("samples_per_second"))
    return 1 / speed if speed else None


def _flops(row: Row) -> float | None:
    """Of one prompt's prefill, in 10^12."""
    found = (number(at(row.data, f"efficiency.{name}")) for name in ("prefill_flops", "flops"))
    return next((value / 1e12 for value in found if value), None)


COSTS = (
    Cost("tokens", "visual tokens", lambda row: row.tokens or None),
    Cost("seconds", "seconds per answer, without encoder", _seconds, log=False),
    Cost("flops", "prefill TFLOPs", _flops),
)


def against(cost: Cost, rows: Sequence[Row], looks: Looks, spans: Spans) -> Figure | None:
    """A panel for each benchmark, of one model's rows; None where fewer than two configurations have this cost anywhere."""
    found = defaultdict[str, list[Point]](list)
    for row in [*means(rows), *rows]:
        if (value := cost.of(row)) is not None:
            found[row.benchmark].append(Point(value, row))
    shown = {name: points for name, points in sorted(found.items(), key=lambda item: (item[0] != MEAN, item[0])) if _two(points)}
    if not shown:
        return None
    here = {point.row.config.method for points in shown.values() for point in points}
    figure, axes = panels(len(shown), _HEIGHT, _entries({name: look for name, look in looks.items() if name in here}))
    for axis, (benchmark, points) in zip(axes, shown.items(), strict=True):
        title(axis, benchmark)
        _draw(axis, points, looks, spans)
        _scale(axis, [point.cost for point in points], cost)
    return figure


def front(points: Iterable[Point]) -> list[Point]:
    """Those that no other one beats, from the cheapest up: none scores higher at the same cost, to 1 %, or as high at less."""
    points = sorted(points, key=lambda point: (point.cost, -point.row.score))
    best: list[Point] = []
    for point in points:
        score = max(other.row.score for other in points if other.cost <= _SAME * point.cost)
        if point.row.score == score and not any(other.row.score == score for other in best):
            best.append(point)
    return best


def _two(points: Sequence[Point]) -> bool:
    """Whether there is something to compare: two configurations, one of them pruned."""
    return len(points) > 1 and any(not point.row.config.full for point in points)


def _draw(axis: Axes, points: Sequence[Point], looks: Looks, spans: Spans) -> None:
    """What is not on the front is paler."""
    axis.set_ylabel(points[0].row.metric)
    rules(axis, "y")
    best = front(points)
    axis.step([point.cost for point in best], [point.row.score for point in best], where="post", **_FRONT)
    groups = defaultdict[tuple[bool, str], list[Point]](list)
    for point in points:
        groups[point in best, point.row.config.method].append(point)
    for (leads, method), own in sorted(groups.items()):
        full = own[0].row.config.full
        _points(axis, own, {**_FULL, "markersize": 11} if full else looks[method], spans, 1.0 if leads else 0.6)
    axis.margins(y=0.08)


def _points(axis: Axes, points: Sequence[Point], look: Mapping[str, Any], spans: Spans, alpha: float) -> None:
    order = 2 + alpha
    known = [(point.cost, span) for point in points if (span := spans.score(point.row))]
    low, high = [span.low for _, span in known], [span.high for _, span in known]
    axis.vlines([cost for cost, _ in known], low, high, color=look["color"], alpha=0.7 * alpha, linewidth=1, zorder=order)
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.6, "alpha": alpha, "zorder": order}
    costs, scores = [point.cost for point in points], [point.row.score for point in points]
    axis.plot(costs, scores, **{"markersize": 6, **look, "linestyle": "none"}, **edge)


def _scale(axis: Axes, costs: Sequence[float], cost: Cost) -> None:
    """A log axis has ticks where costs lie, if there are few, and at round numbers else."""
    low, high = min(costs), max(costs)
    axis.set_xlabel(cost.label + (" (log scale)" if cost.log else ""), fontsize=9)
    if not cost.log:
        axis.margins(x=0.06)
        return
    axis.set_xscale("log")
    own = sorted({float(f"{value:.4g}") for value in costs})
    shown = apart(own, _TICKS) if len(own) <= _TICKS else _round(low, high) or [low, high]
    axis.set_xticks(shown, [f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in shown])
    axis.minorticks_off()
    room = max((high / low) ** 0.07, 1.05)
    axis.set_xlim(low / room, high * room)


def _round(low: float, high: float) -> list[float]:
    """Round numbers from `low` to `high`, as many as have room."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        values = [step * 10.0**power for power in powers for step in steps]
        found = [value for value in values if low <= value <= high]
        if len(found) > 3:
            break
    return found[:: math.ceil(len(found) / _TICKS) or 1]


def _entries(looks: Looks) -> list[Artist]:
    from matplotlib.lines import Line2D

    full = Line2D([], [], **_FULL, label="unpruned")
    return [*handles(looks, linestyle="none"), full, Line2D([], [], **_FRONT, label="Pareto front"), interval()]
