"""How every plot looks: a colour, a marker and a line style for each method, the paper, the legend, and the files.

A method that is known looks the same in all figures of all folders. A reader in print, in grey or with any colour vision tells
the methods apart: no two have a colour in common (the first of a set chosen for that), nor marker and line style both.
Figures of three columns are as wide as a page at two thirds of their size.
"""

from __future__ import annotations

import colorsys
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..files import replacing
from .row import Row

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Looks: TypeAlias = Mapping[str, Mapping[str, Any]]  # method -> colour, marker and line style, as matplotlib calls them

COLORS = (
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
_KNOWN = (  # in the order of their looks, which stay when others are added at the end; random choice is grey
    "script", "cdpruner", "divprune", "fastv", "visionzip", "sparsevlm", "downsample", "pool", "dart", "pyramiddrop", "trim",
    "grid", "fastervlm", "vispruner", "holov", "mmtok", "scope", "seqprune", "evs", "vidcom2", "scriptcompat", "scriptfigure",
)  # fmt: skip
RANDOM = "random"
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES = ("-", (0, (5, 1.5)), (0, (3, 1, 1, 1)), (0, (1.5, 1)), (0, (7, 2, 1, 2)))
INK, GREY, PALE = "#222222", "#767676", "#e6e6e6"
DASHES, DOTS = (0, (6, 3)), (0, (1, 2))
COLUMNS = 3
_GOLDEN = (5**0.5 - 1) / 2
_DPI, _PIXELS = 200, 60_000  # of a PNG; the most that one may have a side
_ENTRY, _AROUND = 0.22, 0.28  # inches of a line of the legend, and around it
_BESIDE, _LETTER = 0.6, 0.7  # inches left of a panel's title; the width of its letters, in their size
_DIGIT, _SPACE = 0.09, 0.1  # inches of a digit of a tick, and between two ticks
_STEP, _SPREAD = 2.6, 16.0  # points between marks that would hide each other, and from the first of them to the last at most
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.minor.bottom": False,
    "svg.fonttype": "path",
    "svg.hashsalt": "script_vlmeval",
}


def ranked(rows: Iterable[Row]) -> list[str]:
    """The pruning methods in the order in which they get their looks: those with several budgets first."""
    budgets = defaultdict[str, set[str]](set)
    for row in rows:
        if not row.config.full:
            budgets[row.config.method].add(row.config.budget)
    return sorted(budgets, key=lambda method: (len(budgets[method]) < 2, method))


def looks(methods: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each method is drawn, everywhere: by its name alone where it is known; those that are not follow in their order."""
    others = sorted(set(methods) - {*_KNOWN, RANDOM})
    places = {method: place for place, method in enumerate([*_KNOWN, *others])}
    found = {method: _look(places[method]) for method in methods if method != RANDOM}
    return {method: found.get(method, {"color": GREY, "marker": "d", "linestyle": _LINES[3]}) for method in methods}


def _look(place: int) -> dict[str, Any]:
    """Beyond the chosen colours, hues that stay far from those before (steps of the golden section), in three shades."""
    hue, shade = (place * _GOLDEN) % 1, 0.28 + 0.11 * (place % 3)
    color = COLORS[place] if place < len(COLORS) else colorsys.hls_to_rgb(hue, shade, 0.5)
    return {"color": color, "marker": _MARKERS[place % len(_MARKERS)], "linestyle": _LINES[place % len(_LINES)]}


def handles(styles: Looks, **more: Any) -> list[Artist]:
    """A legend's entries for methods."""
    from matplotlib.lines import Line2D

    return [Line2D([], [], **{"linewidth": 1.8, "markersize": 6.5, **look, **more}, label=name) for name, look in styles.items()]


def band() -> Artist:
    """The legend's entry for intervals."""
    from matplotlib.patches import Patch

    return Patch(color=GREY, alpha=0.25, linewidth=0, label="95 % interval")


def interval() -> Artist:
    """The legend's entry for intervals of single points."""
    from matplotlib.lines import Line2D

    look: Any = {"color": GREY, "markeredgewidth": 1.2, "marker": "|", "linestyle": "none", "markersize": 12}
    return Line2D([], [], **look, label="95 % interval")


def figure(width: float, height: float, entries: Sequence[Artist] = ()) -> Figure:
    """An empty figure with a legend below, which adds to the height. Sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    made = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    FigureCanvasAgg(made)
    if entries:
        made.set_figheight(height + _AROUND + _ENTRY * _legend(made, entries))
    return made


def _legend(made: Figure, entries: Sequence[Artist]) -> int:
    """In as many columns as the figure is wide enough for; the answer is the number of its lines."""
    place: Any = {"handles": entries, "loc": "outside lower center", "frameon": False, "handlelength": 3}
    for lines in range(math.ceil(len(entries) / 6), len(entries)):
        legend = made.legend(**place, ncols=math.ceil(len(entries) / lines))
        if legend.get_window_extent().width <= made.bbox.width:
            return lines
        legend.remove()
    made.legend(**place)
    return len(entries)


def panels(
    count: int, height: float, entries: Sequence[Artist], columns: int = COLUMNS, **more: Any
) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels, from left to right and from the top. height: of a panel, in inches, beside others of a row
    of three; fewer in a row are larger. more: what each panel's axes are made with.
    """
    columns = min(columns, count)
    width, rows = column(columns), math.ceil(count / columns)
    made = figure(width * columns, rows * height * width / column(COLUMNS), entries)
    grid = made.add_gridspec(rows, columns)
    return made, [made.add_subplot(grid[divmod(i, columns)], **more) for i in range(count)]


def column(columns: int) -> float:
    """The width of one of so many columns, in inches."""
    return 3.5 if columns >= COLUMNS else 4.9


def title(axis: Axes, text: str, pad: float = 10) -> None:
    """As large as there is room for above a panel."""
    size = min(12.0, 72 * room(axis) / (_LETTER * len(text)))
    axis.set_title(text, loc="left", fontweight="bold", fontsize=size, color=INK, pad=pad)


def room(axis: Axes) -> float:
    """The width of a panel beside its numbers, in inches."""
    spec, page = axis.get_subplotspec(), axis.get_figure(root=True)
    return (page.get_size_inches()[0] / spec.get_gridspec().ncols if spec and page else column(1)) - _BESIDE


def rules(axis: Axes, which: Any) -> None:
    """Pale lines behind what is drawn."""
    axis.grid(axis=which, color=PALE, linewidth=0.8)
    axis.set_axisbelow(True)


def heading(made: Figure, text: str) -> None:
    """Above all panels."""
    made.suptitle(text, x=0.01, ha="left", fontsize=13, color=INK)


def halo() -> list[Any]:
    """For a label that lies on what is drawn."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground="white")]


def ticks(axis: Axes, values: Sequence[float], form: str) -> list[float]:
    """Of ascending positive values those whose labels have room beside each other on a log axis, the largest always."""
    shown: list[float] = []
    inch = math.log(values[-1] / values[0]) / room(axis)
    for value in reversed(values):
        letters = len(format(value, form)) + (len(format(shown[-1], form)) if shown else 0)
        if not shown or math.log(shown[-1] / value) >= inch * (_DIGIT * letters / 2 + _SPACE):
            shown.append(value)
    return shown


def aside(place: int, count: int) -> float:
    """How many points to the right the mark at that place of so many is drawn, which would lie on each other."""
    step = min(_STEP, _SPREAD / max(count - 1, 1))
    return step * (place - (count - 1) / 2)


def shift(axis: Axes, points: float, artists: Iterable[Any]) -> None:
    """Draws what is there already so many points to the right of its place."""
    from matplotlib.transforms import offset_copy

    moved = offset_copy(axis.transData, axis.get_figure(root=True), x=points, units="points")
    for artist in artists:
        artist.set_transform(moved)


def level() -> Artist:
    """The legend's entry for the unpruned model where it is a line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=INK, linewidth=1.2, linestyle=DASHES, label="unpruned")


def save(made: Figure, *paths: Path) -> list[Path]:
    """In the format that each name ends in; the same bytes for the same figure. UserError when a file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    if engine := made.get_layout_engine():  # arranges the panels, once for all formats
        engine.execute(made)
        made.set_layout_engine("none")
    made.set_dpi(min(_DPI, _PIXELS / max(made.get_size_inches())))
    for path in paths:
        canvas: Any = FigureCanvasSVG(made) if path.suffix == ".svg" else FigureCanvasAgg(made)
        with replacing(path) as temporary:  # by the canvas itself: `savefig` draws everything twice
            if path.suffix == ".svg":
                canvas.print_svg(temporary, metadata={"Date": None})
            else:
                canvas.print_png(temporary, metadata={"Software": None})
    return list(paths)
