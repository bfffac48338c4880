"""Score against what an answer cost, with the Pareto front: what no other configuration beats in both."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .mean import MEAN, means
from .measure import measured
from .row import Row, at, number
from .spans import Spans
from .style import GREY, INK, Looks, aside, handles, interval, panels, rules, shift, ticks, title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HEIGHT = 2.9
_SAME = 1.01  # how many times a cost another one may be and count as equal: a hair's breadth earns no place on the front
_FRONT: Any = {"color": GREY, "linewidth": 1.6, "alpha": 0.75, "zorder": 1.8}
_FULL: Any = {"color": INK, "marker": "*", "markersize": 12, "linestyle": "none"}
_TICKS = 6  # of a log axis of costs, at most
_WHOLE = 0.5  # of its unit that the largest cost of a figure is at least, where there is a smaller unit
_STEPS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7))  # ticks within a power of ten: the finer ones where the others are too few


@dataclass(frozen=True)
class Cost:
    """What an answer takes: `of` a row, in the unit of the label; None where it was not measured."""

    name: str
    label: str
    of: Callable[[Row], float | None]
    log: bool = True
    smaller: Sequence[tuple[float, str]] = ()  # units of which more make one, and their labels

    def unit(self, values: Iterable[float]) -> tuple[float, str]:
        """How many times the costs are drawn and what the axis says, so that the largest is no small fraction."""
        most = max(values)
        return next(
            ((times, label) for times, label in ((1.0, self.label), *self.smaller) if most * times >= _WHOLE), (1.0, self.label)
        )


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
    Cost(
        "seconds", "seconds per answer, without encoder", _seconds, log=False, smaller=((1e3, "ms per answer, without encoder"),)
    ),
    Cost("flops", "prefill TFLOPs", _flops, smaller=((1e3, "prefill GFLOPs"), (1e6, "prefill MFLOPs"))),
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
    times, label = cost.unit(point.cost for points in shown.values() for point in points)
    shown = {name: [Point(times * point.cost, point.row) for point in points] for name, points in shown.items()}
    figure, axes = panels(
        len(shown), _HEIGHT, _entries([point.row for points in shown.values() for point in points], looks, spans)
    )
    for axis, (benchmark, points) in zip(axes, shown.items(), strict=True):
        title(axis, benchmark)
        _draw(axis, points, looks, spans)
        _scale(axis, [point.cost for point in points], label, cost.log)
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
    axis.set_ylabel(measured(points[0].row), fontsize=9)
    rules(axis, "y")
    best = front(points)
    axis.step([point.cost for point in best], [point.row.score for point in best], where="post", **_FRONT)
    groups = defaultdict[tuple[bool, str], list[Point]](list)
    for point in points:
        groups[point in best, point.row.config.method].append(point)
    for (leads, method), own in sorted(groups.items()):
        look = {**_FULL, "markersize": 11} if own[0].row.config.full else looks[method]
        for point in own:
            _point(axis, point, look, spans, 1.0 if leads else 0.6, _beside(point, points))
    axis.margins(y=0.08)


def _beside(point: Point, points: Sequence[Point]) -> float:
    """How many points to the right of its place one is drawn, where others cost as much."""
    rivals = [other for other in points if max(point.cost, other.cost) <= _SAME * min(point.cost, other.cost)]
    order = sorted(rivals, key=lambda other: (other.row.config.method, other.row.config.budget))
    return aside(order.index(point), len(order))


def _point(axis: Axes, point: Point, look: Mapping[str, Any], spans: Spans, alpha: float, to_the_side: float) -> None:
    order, drawn = 2 + alpha, list[Any]()
    if span := spans.score(point.row):
        bar: Any = {"color": look["color"], "alpha": 0.7 * alpha, "linewidth": 1, "zorder": order}
        drawn.append(axis.vlines([point.cost], span.low, span.high, **bar))
    edge: Any = {"markeredgecolor": "white", "markeredgewidth": 0.6, "alpha": alpha, "zorder": order}
    drawn += axis.plot([point.cost], [point.row.score], **{"markersize": 6, **look, "linestyle": "none"}, **edge)
    shift(axis, to_the_side, drawn)


def _scale(axis: Axes, costs: Sequence[float], label: str, log: bool) -> None:
    """A log axis has ticks where costs lie, if there are few, and at round numbers else."""
    low, high = min(costs), max(costs)
    axis.set_xlabel(label + (" (log scale)" if log else ""), fontsize=9)
    if not log:
        axis.margins(x=0.06)
        axis.locator_params(axis="x", nbins=_TICKS)
        return
    axis.set_xscale("log")
    own = sorted({float(f"{value:.4g}") for value in costs})
    shown = ticks(axis, own if len(own) <= _TICKS else _round(low, high) or [low, high], ".3g")
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


def _entries(rows: Sequence[Row], looks: Looks, spans: Spans) -> list[Artist]:
    """What is drawn of these rows."""
    from matplotlib.lines import Line2D

    here = {row.config.method for row in rows}
    full = [Line2D([], [], **_FULL, label="unpruned")] if any(row.config.full for row in rows) else []
    known = [interval()] if any(map(spans.score, rows)) else []
    shown = handles({name: look for name, look in looks.items() if name in here}, linestyle="none")
    return [*shown, *full, Line2D([], [], **_FRONT, label="Pareto front"), *known]
