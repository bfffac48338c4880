"""A sheet about one sample: its pictures, their relevance to the question, and what each method kept at each budget.

Where a sample has one picture, budgets stand side by side, a row for each method. Where it has several, or frames of a video,
these stand side by side, and methods and budgets one below the other. All sizes are inches.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..errors import UserError
from ..files import replacing
from ..kept import Kept
from .picture import Pixels, View, of_view, visualize_kept, visualize_relevance

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".png", ".svg", ".pdf")
_INK, _GREY = "#222222", "#5f5f5f"
_ACROSS, _TALL = 2.9, 3.4  # of a picture that stands alone, at most
_STRIP, _EACH, _LEAST = 11.0, 2.2, 1.1  # a row of views, the height of one at most and at least
_GAP, _EDGE = 0.25, 0.3
_TITLE, _LINE, _NAME, _BAR = 0.2, 0.16, 0.17, 0.1
_FONT, _SMALL = 9.0, 8.0
_LETTER = 0.074  # of a letter, about
_LINES = 4  # of an answer
_DPI = 150
_KEY = "Clear: kept, where nothing else is said. Grey: dropped, the paler the earlier."
_TWO = " Pale colours: kept in the overview alone."
_STYLE: Any = {"font.family": "DejaVu Sans", "font.size": _FONT, "svg.hashsalt": "script_vlmeval", "svg.fonttype": "path"}
_TOLD: Any = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Panel:
    """One method at one budget. note is one line; text, the answer, may be long. kept: None where nothing was dropped.
    clear: what a clear cell stands for, where that is more than its own token."""

    title: str
    note: str
    text: str
    kept: Kept | None
    clear: str = ""


@dataclass(frozen=True)
class Sheet:
    """All that is drawn of one sample. rows: a list of panels for each method; whole: the unpruned model; maps: whose relevance
    it is, and a record with it; names: what stands above each view, where there are several."""

    question: str
    views: Mapping[View, Pixels]
    rows: Sequence[Sequence[Panel]]
    whole: Panel
    maps: Sequence[tuple[str, Kept]] = ()
    names: Mapping[View, str] = field(default_factory=dict)


def draw_sheet(sheet: Sheet, path: Path) -> None:
    """Into a PNG, SVG or PDF. UserError for another kind of file, and where it cannot be written."""
    from matplotlib import rc_context

    check_kind(path)
    with rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # an answer may be in any script
        figure = _figure(sheet)
        with replacing(path, "choose another -o, or change its permissions") as temporary:
            kind = path.suffix.lower()
            figure.savefig(temporary, format=kind[1:], dpi=_DPI, metadata=_TOLD[kind])


def check_kind(path: Path) -> None:
    """UserError for a file that is no picture by its name."""
    if path.suffix.lower() not in KINDS:
        raise UserError(f"'{path}' is no name of a picture: end it with {', '.join(KINDS)}.")


@dataclass(frozen=True)
class _Block:
    """A title, the views, and text or a colour bar below them."""

    title: str
    note: tuple[str, ...]
    text: tuple[str, ...]
    paint: Callable[[Axes, View], Any]
    bar: bool = False


@dataclass(frozen=True)
class _Form:
    """How large everything is."""

    views: Mapping[View, tuple[float, float]]  # width and height of each
    block: float  # width
    columns: int

    @classmethod
    def of(cls, sheet: Sheet) -> _Form:
        shapes = {view: pixels.shape[1] / pixels.shape[0] for view, pixels in sheet.views.items()}
        if len(shapes) == 1:
            ((view, shape),) = shapes.items()
            height = min(_ACROSS / shape, _TALL)
            columns = max([1 + len(sheet.maps), *map(len, sheet.rows)])
            return cls({view: (height * shape, height)}, max(height * shape, 2.2), columns)
        height = max(min(_EACH, (_STRIP - _NAME * (len(shapes) - 1)) / sum(shapes.values())), _LEAST)
        sizes = {view: (height * shape, height) for view, shape in shapes.items()}
        return cls(sizes, max(sum(w for w, _ in sizes.values()) + _NAME * (len(sizes) - 1), 4.0), 1)

    @property
    def width(self) -> float:
        return self.columns * self.block + (self.columns - 1) * _GAP + 2 * _EDGE

    @property
    def strip(self) -> float:
        """How tall the views are, with the names above them."""
        return max(height for _, height in self.views.values()) + _NAME * (len(self.views) > 1)

    def lines(self, text: str, width: float, most: int = _LINES) -> tuple[str, ...]:
        """A text as lines of that width, the last one cut."""
        letters = max(12, int(width / _LETTER))
        wrapped = textwrap.wrap(" ".join(text.split()), letters, max_lines=most, placeholder=" …")
        return tuple(wrapped)


def _figure(sheet: Sheet) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    form = _Form.of(sheet)
    question = form.lines(sheet.question, form.width - 2 * _EDGE, 6)
    rows = list(_rows(sheet, form))
    heights = [_height(row, form) for row in rows]
    height = 2 * _EDGE + _TITLE * len(question) + sum(heights) + _LINE
    figure = Figure(figsize=(form.width, height), facecolor="white")
    FigureCanvasAgg(figure)
    page = _Page(figure, form.width, height)
    for i, line in enumerate(question):
        page.text(_EDGE, _EDGE + i * _TITLE - 0.08, line, fontsize=11, fontweight="bold")
    top = _EDGE + _TITLE * len(question)
    for row, tall in zip(rows, heights, strict=True):
        for column, block in enumerate(row):
            _draw(page, (_EDGE + column * (form.block + _GAP), top), block, _head(row), form, sheet)
        top += tall
    page.text(_EDGE, top, _KEY + _TWO * _overviews(sheet), fontsize=_SMALL, color=_GREY)
    return figure


def _overviews(sheet: Sheet) -> bool:
    """Whether some picture is shown to the model in two sizes."""
    records = [panel.kept.pictures for row in sheet.rows for panel in row if panel.kept]
    return any(
        len({(p.picture, p.frame) for p in parts}) < len(parts) or max(len(p.tiles) for p in parts) > 1 for parts in records
    )


def _rows(sheet: Sheet, form: _Form) -> Iterator[list[_Block]]:
    """Blocks that stand side by side."""
    tops = [_block(sheet.whole, sheet, form), *(_relevant(name, kept, sheet, form) for name, kept in sheet.maps)]
    rows = [tops, *([_block(panel, sheet, form) for panel in row] for row in sheet.rows)]
    for row in rows:
        yield from ([block] for block in row) if form.columns == 1 else [row]


def _block(panel: Panel, sheet: Sheet, form: _Form) -> _Block:
    stages = panel.kept.stages if panel.kept else []

    def paint(axis: Axes, view: View) -> None:
        visualize_kept(axis, sheet.views[view], of_view(panel.kept, view), stages)

    note = (*form.lines(panel.note, form.block, 2), *form.lines(panel.clear, form.block, 3))
    return _Block(panel.title, note, form.lines(panel.text, form.block), paint)


def _relevant(name: str, kept: Kept, sheet: Sheet, form: _Form) -> _Block:
    def paint(axis: Axes, view: View) -> Any:
        return visualize_relevance(axis, sheet.views[view], of_view(kept, view))

    return _Block("relevance to the question", form.lines(name, form.block, 2), (), paint, bar=True)


def _height(row: Sequence[_Block], form: _Form) -> float:
    below = max(_LINE * len(block.text) + (_BAR + _LINE + 0.06) * block.bar for block in row)
    return _head(row) + form.strip + 0.06 + below + _GAP


def _head(row: Sequence[_Block]) -> float:
    """How tall titles and notes are, the same for all of a row."""
    return _TITLE + _LINE * max(len(block.note) for block in row) + 0.04


@dataclass(frozen=True)
class _Page:
    """A figure; x from its left edge, y from its top."""

    figure: Figure
    width: float
    height: float

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        how = {"color": _INK, "fontsize": _FONT, "va": "top", "parse_math": False, **how}
        self.figure.text(x / self.width, 1 - y / self.height, words, **how)

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        share = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(share)


def _draw(page: _Page, at: tuple[float, float], block: _Block, head: float, form: _Form, sheet: Sheet) -> None:
    x, y = at
    page.text(x, y, block.title, fontweight="bold")
    for i, line in enumerate(block.note):
        page.text(x, y + _TITLE + i * _LINE, line, fontsize=_SMALL, color=_GREY)
    y += head
    left, drawn = x, None
    for view, (width, height) in form.views.items():
        if len(form.views) > 1:
            page.text(left, y, sheet.names.get(view, ""), fontsize=_SMALL, color=_GREY)
        axis = page.axes(left, y + form.strip - max(h for _, h in form.views.values()), width, height)
        drawn = block.paint(axis, view)
        axis.set_axis_off()
        left += width + _NAME
    y += form.strip + 0.06
    if block.bar and drawn is not None:
        _bar(page, x, y, min(form.block, _ACROSS), drawn)
    for i, line in enumerate(block.text):
        page.text(x, y + i * _LINE, line, fontsize=_SMALL)


def _bar(page: _Page, x: float, y: float, width: float, drawn: Any) -> None:
    """From the least to the most relevant place of the picture."""
    axis = page.axes(x, y + 0.02, width, _BAR)
    bar = page.figure.colorbar(drawn, cax=axis, orientation="horizontal", ticks=[0, 0.5, 1])
    bar.outline.set_linewidth(0.4)
    axis.tick_params(labelsize=_SMALL, length=2, pad=1.5, color=_GREY, labelcolor=_GREY)
    sides: tuple[Literal["left", "center", "right"], ...] = ("left", "center", "right")
    for label, side in zip(axis.get_xticklabels(), sides, strict=True):
        label.set_horizontalalignment(side)
