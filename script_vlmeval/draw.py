"""What is shown of a finished cell (`Row`), and its plots as PNG: accuracy against the visual-token budget.

A reader in print, in grey or with any colour vision tells the methods apart: each has its own colour (of a set chosen for
that), marker and line style, the same in every panel.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cells import Config
from .store import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Z95 = 1.96
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (7, 2, 1, 2)))
_INK, _GREY = "#222222", "#767676"
_WIDTH, _HEIGHT, _COLUMNS = 4.9, 3.7, 3
_DOT, _MANY = 0.2, 5  # inches per method in a comparison at one budget, and from how many methods on there is one
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
class Row:
    """A finished cell as its result.json (`data`) tells. Scores are in the metric's unit, retention in percent of unpruned."""

    config: Config
    benchmark: str
    score: float
    stderr: float | None
    n: int
    failed: int
    data: Mapping[str, Any]
    retention: float | None = None

    @property
    def metric(self) -> str:
        return str(self.data.get("primary", ""))

    @property
    def tokens(self) -> float:
        """The place on the budget axis: the budget as named, or else the mean of visual tokens kept."""
        return float(self.config.budget) if self.config.budget.isdecimal() else number(at(self.data, "tokens.visual_kept")) or 0.0

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval."""
        return None if self.stderr is None else Z95 * self.stderr

    @property
    def floors(self) -> dict[str, float]:
        """What is reached without looking at the image, where it is stated."""
        levels = {
            "chance": number(at(self.data, "reference.chance")),
            "image-blind": number(at(self.data, "reference.blind")),
        }
        return {label: score for label, score in levels.items() if score is not None}

    @property
    def order(self) -> tuple[Any, ...]:
        """Model by model, the unpruned one first, then from the largest budget to the smallest, methods side by side."""
        return self.config.model, not self.config.full, -self.tokens, self.config.budget, self.config.method, self.benchmark


@dataclass(frozen=True)
class Panel:
    """One benchmark under one model."""

    title: str
    lines: Mapping[str, Sequence[Row]]  # method -> its rows, by budget
    full: Row | None

    @property
    def curves(self) -> Mapping[str, Sequence[Row]]:
        """The methods that are drawn over budgets: those with several, and those that are not compared below."""
        below = {row.config.method for row in self.compared}
        return {name: rows for name, rows in self.lines.items() if len(rows) > 1 or name not in below} or self.lines

    @property
    def compared(self) -> list[Row]:
        """The rows at the budget that most methods share, from the lowest score up; none where few do."""
        rows = [row for line in self.lines.values() for row in line]
        budgets = {row.tokens: [r for r in rows if r.tokens == row.tokens] for row in rows}
        most = max(budgets.values(), key=len)
        return sorted(most, key=lambda row: row.score) if len(most) >= _MANY else []


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def at(data: Any, path: str) -> Any:
    """What lies at 'a.b' in nested mappings, or None."""
    for key in path.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def accuracy(rows: Sequence[Row], path: Path) -> None:
    """Score against budget with 95 % bands, a panel for each benchmark and model that has pruned results: there must be one.
    Where many methods share a budget, they are set against each other below, the best at the top.

    UserError when `path` cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(rows)
    looks = _looks(sorted({method for panel in panels for method in panel.curves}))
    columns = min(_COLUMNS, len(panels))
    blocks = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [h for block in blocks for h in (_HEIGHT, _DOT * max(len(panel.compared) for panel in block) + 0.9)]
    shown = [i for i, h in enumerate(heights) if i % 2 == 0 or h > 0.9]  # a block without comparisons has one row
    with rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH * columns, sum(heights[i] for i in shown) + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(shown), columns, squeeze=False, height_ratios=[heights[i] for i in shown])
        for row, i in enumerate(shown):
            block = blocks[i // 2]
            for column, axis in enumerate(axes[row]):
                panel = block[column] if column < len(block) else None
                if panel is None or (i % 2 and not panel.compared):
                    axis.set_visible(False)
                elif i % 2:
                    _compare(axis, panel)
                else:
                    _draw(axis, panel, looks)
        _legend(figure, looks)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", dpi=200, metadata={"Software": None})


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
    """How each method is drawn, everywhere."""
    styles = zip(methods, cycle(_COLORS), cycle(_MARKERS), cycle(_LINES), strict=False)
    return {method: {"color": color, "marker": marker, "linestyle": line} for method, color, marker, line in styles}


def _draw(axis: Axes, panel: Panel, looks: Mapping[str, Mapping[str, Any]]) -> None:
    rows = [row for line in panel.curves.values() for row in line]
    axis.set_title(panel.title, loc="left", fontweight="bold", color=_INK, pad=10)
    axis.set_ylabel(rows[0].metric)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for method, line in panel.curves.items():
        _line(axis, line, looks[method])
    _scale(axis, sorted({row.tokens for row in rows}))
    if panel.full:
        kept = f" ({panel.full.tokens:g} tokens)" if panel.full.tokens else ""
        _level(axis, panel.full.score, f"unpruned{kept}: {panel.full.score:.4g}", _INK, (0, (6, 3)))
    floors = _merged((panel.full or rows[0]).floors)
    for label, score in floors.items():
        below = len(floors) > 1 and score == min(floors.values())  # two levels may be close
        _level(axis, score, f"{label}: {score:.4g}", _GREY, (0, (1, 2)), right=True, below=below)
    axis.margins(y=0.1)


def _line(axis: Axes, rows: Sequence[Row], look: Mapping[str, Any]) -> None:
    tokens, scores = [row.tokens for row in rows], [row.score for row in rows]
    low, high = [row.score - (row.half or 0) for row in rows], [row.score + (row.half or 0) for row in rows]
    axis.fill_between(tokens, low, high, color=look["color"], alpha=0.13, linewidth=0)
    axis.vlines(tokens, low, high, color=look["color"], alpha=0.45, linewidth=1.2)
    axis.plot(tokens, scores, **look, linewidth=1.8, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)


def _compare(axis: Axes, panel: Panel) -> None:
    """The methods of one budget, a line of its own for each, between what needs no image and what all tokens give."""
    rows = panel.compared
    axis.set_title(f"{panel.title} at {rows[0].tokens:g} tokens", loc="left", fontweight="bold", color=_INK, pad=6)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axis.set_axisbelow(True)
    for place, row in enumerate(rows):
        floor = row.config.method == "random"  # what every method must beat
        axis.errorbar(
            row.score, place, xerr=row.half, fmt="s" if floor else "o", color=_GREY if floor else _COLORS[0], markersize=5
        )
    axis.set_yticks(range(len(rows)), [row.config.method for row in rows], fontsize=8.5)
    levels = {**(panel.full or rows[0]).floors, **({"unpruned": panel.full.score} if panel.full else {})}
    for label, score in levels.items():
        axis.axvline(
            score,
            color=_INK if label == "unpruned" else _GREY,
            linewidth=1.2,
            linestyle=(0, (6, 3)) if label == "unpruned" else (0, (1, 2)),
        )
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel(f"{rows[0].metric}, with 95 % intervals")


def _scale(axis: Axes, tokens: Sequence[float]) -> None:
    """A log2 axis with a tick at every budget, or at as many as do not collide."""
    axis.set_xscale("log", base=2)
    shown: list[float] = []
    for value in reversed(tokens):
        if not shown or math.log2(shown[-1] / value) >= math.log2(tokens[-1] / tokens[0]) / 9:
            shown.append(value)
    axis.set_xticks(shown, [f"{value:.4g}" for value in shown])
    axis.set_xlim(tokens[0] / 1.22, tokens[-1] * 1.22)
    axis.set_xlabel("visual tokens kept per image (log scale)")


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


def _legend(figure: Figure, looks: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], **look, linewidth=1.8, markersize=6.5, label=method) for method, look in looks.items()]
    handles.append(Patch(color=_GREY, alpha=0.25, linewidth=0, label="95 % interval"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 6), frameon=False, handlelength=3)
