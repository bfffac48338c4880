"""Native charts of a spreadsheet: score against visual tokens and retention, and the sheets that hold what they draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from openpyxl.chart import BarChart, Reference, ScatterChart, Series
from openpyxl.chart.data_source import NumDataSource, NumRef
from openpyxl.chart.error_bar import ErrorBars
from openpyxl.chart.layout import Layout, ManualLayout
from openpyxl.chart.shapes import GraphicalProperties
from openpyxl.chart.text import RichText, Text
from openpyxl.chart.title import Title
from openpyxl.drawing.line import LineProperties
from openpyxl.drawing.text import CharacterProperties, Paragraph, ParagraphProperties, RegularTextRun
from openpyxl.utils import get_column_letter

from ..draw import Row
from ..draw.measure import measured
from ..draw.style import GREY, INK, PALE, looks, ranked
from . import figures
from .sheets import ACROSS, Page, Styled
from .summary import Summary

if TYPE_CHECKING:
    from .evidence import Evidence

_MARKERS = {  # as plots have them -> as spreadsheets do, which have no other triangles
    "o": "circle", "s": "square", "^": "triangle", "D": "diamond", "d": "diamond", "v": "dash", "P": "plus", "X": "x",
    "<": "dot", ">": "star",
}  # fmt: skip
_WIDTH, _HEIGHT = 18.0, 9.5  # centimetres
_LINES = 21  # that a chart covers
_LONG = 12  # entries of a legend's column
_CURVES, _BARS = "curves", "retention"
_MEAN = "mean"
_FULL = "unpruned"
_Place: TypeAlias = tuple[str, str, str, str]  # title, model, benchmark, budget
_Kept: TypeAlias = "tuple[float, figures.Interval | None]"  # a retention


@dataclass(frozen=True)
class _Block:
    """Lines of a sheet that one chart draws, by their numbers."""

    title: str
    first: int
    last: int


def chart_pages(summary: Summary, evidence: Evidence) -> list[Page]:
    """The sheet of charts and those of its data: none where nothing pruned has a score."""
    rows = [row for row in summary.rows if row.measured]
    if all(row.config.full for row in rows):
        return []
    methods = ranked(rows)
    styles = looks(methods)
    colors = {method: _hex(look["color"]) for method, look in styles.items()} | {_FULL: _hex(INK)}
    markers = {method: _MARKERS[look["marker"]] for method, look in styles.items()} | {_FULL: "star"}
    axes = {_title(row.heading, row.config.model, _several(rows)): measured(row) for row in rows}
    curves = _curves(rows, evidence)
    bars = _bars(summary, evidence, methods)
    scores, kept = _scatters(curves, colors, markers, axes), _retentions(bars, methods, colors)
    titles = list(dict.fromkeys([*kept, *scores]))
    placed = []
    for line, title in enumerate(titles):
        for column, chart in enumerate(filter(None, (scores.get(title), kept.get(title)))):
            placed.append((chart, f"{get_column_letter(1 + column * ACROSS)}{3 + line * _LINES}"))
    data = [Page(_CURVES, curves), *([Page(_BARS, bars)] if len(bars) > 1 else [])]
    sheets = " and ".join(f"'{page.name}'" for page in data)
    said = f"Score against visual tokens, and retention, with 95% intervals where they are known. What is drawn: {sheets}."
    return [
        Page(
            "charts",
            [[Styled(said, bold=True)]],
            charts=placed,
            breaks=range(1 + 2 * _LINES, 2 + len(titles) * _LINES, 2 * _LINES),
        ),
        *data,
    ]


def _several(rows: Sequence[Row]) -> bool:
    return len({row.config.model for row in rows}) > 1


def _title(benchmark: str, model: str, several: bool) -> str:
    return f"{benchmark} · {model}" if several else benchmark


# score against visual tokens -----------------------------------------------------------------------------------------------


def _curves(rows: Sequence[Row], evidence: Evidence) -> list[list[Any]]:
    """A line for each cell; those of one curve follow each other, from few tokens to many."""
    several = _several(rows)
    head = ["chart", "model", "benchmark", "method", "config", "visual tokens", "score", "down to 95% low", "up to 95% high"]
    found: list[list[Any]] = [head]
    for row in sorted(rows, key=_order):
        interval = figures.score(row, evidence)
        down, up = (None, None) if interval is None else interval.around(row.score)
        method = _FULL if row.config.full else row.config.method
        place = [_title(row.heading, row.config.model, several), row.config.model, row.benchmark, method, str(row.config)]
        found.append([*place, float(row.tokens), row.score, down, up])
    return found


def _order(row: Row) -> tuple[Any, ...]:
    return row.config.model, row.benchmark, row.config.full, row.config.method, row.tokens, row.config.budget


def _scatters(
    lines: Sequence[Sequence[Any]], colors: Mapping[str, str], markers: Mapping[str, str], axes: Mapping[str, str]
) -> dict[str, ScatterChart]:
    """A chart for each benchmark and model. axes: what the axis of scores says, by title."""
    return {block.title: _scatter(block, lines, colors, markers, axes[block.title]) for block in _blocks(lines, 0)}


def _scatter(
    block: _Block, lines: Sequence[Sequence[Any]], colors: Mapping[str, str], markers: Mapping[str, str], score: str
) -> ScatterChart:
    chart = ScatterChart()
    chart.scatterStyle, chart.style = "lineMarker", 13
    _frame(chart, block.title, "visual tokens kept (log scale)", score)
    chart.x_axis.scaling.logBase = 2
    chart.x_axis.number_format = chart.y_axis.number_format = "General"
    for part in _blocks(lines[: block.last], 3, block.first):
        xs, ys = (_reference(_CURVES, column, part) for column in (6, 7))
        series = Series(ys, xs, title=part.title)
        _look(series, colors[part.title], markers[part.title], lonely=part.first == part.last)
        series.errBars = _error_bars("y", _CURVES, (8, 9), part, colors[part.title])
        chart.series.append(series)
    _place(chart)
    _scale(chart, lines[block.first - 1 : block.last])
    return chart


def _scale(chart: ScatterChart, lines: Sequence[Sequence[Any]]) -> None:
    """Axes that begin and end beside the data."""
    tokens = [line[5] for line in lines]
    chart.x_axis.scaling.min = 2.0 ** _floor_log2(min(tokens))
    chart.x_axis.scaling.max = 2.0 ** (_floor_log2(max(tokens)) + 1)
    chart.x_axis.majorUnit = 2
    low, high = min(line[6] - (line[7] or 0) for line in lines), max(line[6] + (line[8] or 0) for line in lines)
    step = 10.0 ** math.floor(math.log10(max(high - low, 1)))
    step = step / 2 if high - low < 3 * step else step
    chart.y_axis.scaling.min, chart.y_axis.scaling.max = math.floor(low / step) * step, math.ceil(high / step) * step
    chart.y_axis.majorUnit = step
    chart.x_axis.crosses = chart.y_axis.crosses = "min"


def _floor_log2(value: float) -> int:
    return math.frexp(value)[1] - 1


# retention -----------------------------------------------------------------------------------------------------------------


def _bars(summary: Summary, evidence: Evidence, methods: Sequence[str]) -> list[list[Any]]:
    """A line for each benchmark and budget with a method in each column, then how far down and up each one's interval goes; of
    several benchmarks their mean first."""
    several = _several(summary.rows)
    cells: dict[_Place, dict[str, _Kept]] = {}
    for row in summary.rows:
        if not row.config.full and row.retention is not None:
            place = (_title(row.heading, row.config.model, several), row.config.model, row.benchmark, row.config.budget)
            cells.setdefault(place, {})[row.config.method] = row.retention, figures.retention(row, evidence)
    means = _means(summary, evidence, several)
    ends = [f"{method} {way}" for way in ("down to 95% low", "up to 95% high") for method in methods]
    head = ["chart", "model", "benchmark", "budget", *methods, *ends]
    found: list[list[Any]] = [head]
    for place, here in [*means.items(), *sorted(cells.items(), key=lambda item: item[0][:3])]:
        kept = [here.get(method, (0.0, None)) for method in methods]
        arms = [interval.around(value) if interval else (None, None) for value, interval in kept]
        values = [here[method][0] if method in here else None for method in methods]
        found.append([*place, *values, *(down for down, _ in arms), *(up for _, up in arms)])
    return found


def _means(summary: Summary, evidence: Evidence, several: bool) -> dict[_Place, dict[str, _Kept]]:
    """Mean retention of what has all benchmarks, where there are several."""
    found: dict[_Place, dict[str, _Kept]] = {}
    for config in summary.configs:
        compared = [row.retention for row in summary.compared(config) if row.retention is not None]
        if config.full or len(compared) < 2 or summary.lacking(config):
            continue
        interval = figures.of(evidence.mean_retention.get(str(config)))
        place = (_title("mean retention", config.model, several), config.model, _MEAN, config.budget)
        found.setdefault(place, {})[config.method] = sum(compared) / len(compared), interval
    return found


def _retentions(lines: Sequence[Sequence[Any]], methods: Sequence[str], colors: Mapping[str, str]) -> dict[str, BarChart]:
    return {block.title: _retention(block, lines, methods, colors) for block in _blocks(lines, 0)}


def _retention(block: _Block, lines: Sequence[Sequence[Any]], methods: Sequence[str], colors: Mapping[str, str]) -> BarChart:
    chart = BarChart()
    chart.type, chart.grouping, chart.gapWidth = "col", "clustered", 60
    _frame(chart, block.title, "budget", "retention %")
    chart.y_axis.number_format = "General"
    chart.y_axis.scaling.min = 0
    for place, method in enumerate(methods):
        if all(line[4 + place] is None for line in lines[block.first - 1 : block.last]):
            continue
        series = Series(_reference(_BARS, 5 + place, block), title=method)
        series.graphicalProperties = GraphicalProperties(solidFill=colors[method])
        down = 5 + len(methods) + place
        series.errBars = _error_bars("y", _BARS, (down, down + len(methods)), block, _hex(INK))
        chart.series.append(series)
    _place(chart)
    chart.set_categories(_reference(_BARS, 4, block))
    return chart


# both ----------------------------------------------------------------------------------------------------------------------


def _blocks(lines: Sequence[Sequence[Any]], column: int, start: int = 2) -> Iterable[_Block]:
    """Runs of lines with one value in a column; lines count from 1, which is the head."""
    first = start
    for n in range(start, len(lines) + 1):
        if n == len(lines) or lines[n][column] != lines[n - 1][column]:
            yield _Block(lines[n - 1][column], first, n)
            first = n + 1


def _reference(sheet: str, column: int, block: _Block) -> Reference:
    letter = get_column_letter(column)
    return Reference(range_string=f"'{sheet}'!${letter}${block.first}:${letter}${block.last}")


def _frame(chart: Any, title: str, x: str, y: str) -> None:
    chart.title, chart.x_axis.title, chart.y_axis.title = _words(title, 1200, bold=True), _words(x, 900), _words(y, 900)
    chart.width, chart.height = _WIDTH, _HEIGHT
    chart.legend.position = "r"
    chart.title.overlay = False
    chart.x_axis.delete = chart.y_axis.delete = False  # what is not said is drawn by some readers and not by others
    chart.x_axis.majorGridlines = None
    chart.y_axis.majorGridlines.spPr = GraphicalProperties(ln=LineProperties(solidFill=_hex(PALE)))
    for axis in (chart.x_axis, chart.y_axis):
        axis.title.overlay = False
        axis.graphicalProperties = GraphicalProperties(ln=LineProperties(solidFill=_hex(GREY)))


def _place(chart: Any) -> None:
    """The plot, beside a legend that has two columns where it is long."""
    width = 0.75 if len(chart.series) <= _LONG else 0.58
    chart.layout = Layout(manualLayout=ManualLayout(x=0.03, y=0.13, w=width, h=0.68, xMode="edge", yMode="edge"))


def _words(text: str, size: int, bold: bool = False) -> Title:
    """size: in hundredths of a point."""
    look = CharacterProperties(sz=size, b=bold)
    paragraph = Paragraph(pPr=ParagraphProperties(defRPr=look), r=[RegularTextRun(rPr=look, t=text)])
    return Title(tx=Text(rich=RichText(p=[paragraph])))


def _look(series: Any, color: str, marker: str, lonely: bool) -> None:
    line = LineProperties(solidFill=color, w=22_000)
    series.graphicalProperties = GraphicalProperties(ln=LineProperties(noFill=True) if lonely else line)
    series.smooth = False
    series.marker.symbol, series.marker.size = marker, 7
    series.marker.graphicalProperties = GraphicalProperties(solidFill=color, ln=LineProperties(solidFill=color))


def _error_bars(direction: str, sheet: str, columns: tuple[int, int], block: _Block, color: str) -> ErrorBars:
    """columns: how far down, and how far up."""
    minus, plus = (NumDataSource(numRef=NumRef(f=str(_reference(sheet, column, block)))) for column in columns)
    look = GraphicalProperties(ln=LineProperties(solidFill=color, w=9_000))
    return ErrorBars(errDir=direction, errBarType="both", errValType="cust", plus=plus, minus=minus, spPr=look)


def _hex(color: Any) -> str:
    """As spreadsheets write it."""
    if isinstance(color, str):
        return color.removeprefix("#").upper()
    return "".join(f"{round(255 * part):02X}" for part in color)
