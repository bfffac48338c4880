"""How fast configurations are: bars of time, a panel for the prefill and one for the time to the first token of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .style import COLORS, GREY, INK, STYLE, figure, rules, save, title

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Quartiles = tuple[float, float, float]  # low, median, high

_LINE, _AROUND, _WIDTH = 0.24, 0.85, 5.2  # inches of a bar, around a panel's bars, and of a panel
_PANELS = ("prefill without the encoder, ms", "time to the first token, ms")


@dataclass(frozen=True)
class Bar:
    """One configuration's times in ms; `ideal` ones are marked on its bar where they are known."""

    label: str
    full: bool
    prefill: Quartiles
    ttft: Quartiles
    ideal_prefill: float | None
    ideal_ttft: float | None


@dataclass(frozen=True)
class Group:
    """The configurations of one batch."""

    title: str
    bars: tuple[Bar, ...]


def draw(groups: Sequence[Group], *paths: Path) -> None:
    """In the format that each name ends in. UserError when a file cannot be written."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        heights = [_AROUND + _LINE * len(group.bars) for group in groups]
        made = figure(2 * _WIDTH, sum(heights), _entries())
        grid = made.add_gridspec(len(groups), 2, height_ratios=heights)
        for i, group in enumerate(groups):
            for j, panel in enumerate(_PANELS):
                axis = made.add_subplot(grid[i, j])
                title(axis, group.title)
                axis.set_xlabel(panel)
                _bars(axis, group.bars, j == 0)
        save(made, *paths)


def _entries() -> list[Artist]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    mark: Any = {"color": INK, "marker": "D", "markerfacecolor": "white", "linestyle": "none", "markersize": 6}
    whisker: Any = {"color": INK, "marker": "|", "linestyle": "-", "linewidth": 1, "markersize": 7}
    return [
        Patch(color=GREY, label="unpruned"),
        Patch(color=COLORS[0], label="pruned, median"),
        Line2D([], [], **whisker, label="quartiles"),
        Line2D([], [], **mark, label="ideal: the same model fed as many tokens, nothing chosen"),
    ]


def _bars(axis: Axes, bars: Sequence[Bar], prefill: bool) -> None:
    """From zero, so that lengths may be compared; the first at the top."""
    rules(axis, "x")
    for y, bar in enumerate(bars):
        low, middle, high = bar.prefill if prefill else bar.ttft
        axis.barh(y, middle, height=0.72, color=GREY if bar.full else COLORS[0])
        axis.errorbar(middle, y, xerr=[[middle - low], [high - middle]], color=INK, linewidth=1, capsize=2.5)
        if (ideal := bar.ideal_prefill if prefill else bar.ideal_ttft) is not None:
            axis.plot(ideal, y, marker="D", markersize=5, color=INK, markerfacecolor="white", zorder=5)
    axis.set_yticks(range(len(bars)), [bar.label for bar in bars])
    axis.tick_params(axis="y", length=0)
    axis.set_ylim(len(bars) - 0.4, -0.6)
    axis.set_xlim(left=0)
