"""Lines of values as a workbook: pages with a head that stays, filters, widths, and charts beside them."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path
from textwrap import wrap
from typing import IO, Any

import openpyxl
from openpyxl.cell import WriteOnlyCell
from openpyxl.formatting.rule import FormulaRule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter
from openpyxl.worksheet.page import PageMargins
from openpyxl.worksheet.pagebreak import Break

from ..celltext import escape
from ..draw import number
from ..files import replacing
from .rowxml import Plain, rows

_FONT = {"name": "Calibri", "size": 11}
_HEAD = (Font(bold=True, color="FFFFFF", **_FONT), PatternFill("solid", fgColor="2F4B6E"))
_ARROW = 2  # characters that a filter's arrow covers of a head that stands at the right, where the arrow is
_LINE = 15.0  # points of a line of a head
_INCOMPLETE = PatternFill("solid", fgColor="FBE3D0")
_RULE = FormulaRule(formula=["$D2<>$D1"], border=Border(top=Side("thin", color="9AA5B1")))  # between budgets
_LOOKED_AT = 200  # lines that say how wide a column is to be
_CORE = "docProps/core.xml"  # holds the time, and a workbook's mark
_NAME, _LIMIT = 28, 31  # characters of a sheet's name, without and with a number; more than the latter no reader takes
_LEAST, _WIDEST = 9, 60  # characters of a column
_PRINTED = 260  # characters that one landscape page can show; a wider sheet goes over several
_A4 = 9
_CHARTS, _TABLES = 65, 70  # percent of its size that a sheet of charts is printed at, and a table that no page is wide enough for
ACROSS, _COLUMN = 10, 9.5  # columns that a chart covers, and characters of each


@dataclass(frozen=True)
class Styled:
    """A value and how it is to be shown."""

    value: Any
    bold: bool = False
    italic: bool = False
    incomplete: bool = False
    centred: bool = False
    wrapped: bool = False  # over as many lines as it takes
    digits: int = 2  # of a fraction
    form: str = ""  # a number's format where digits do not say it


@dataclass(frozen=True)
class Page:
    """A sheet: lines, the first of which is the head, then plain ones that are made as they are written.

    n: how many lines there are in all, with the head; None: as many as `lines`. sample: plain lines that say how wide a column is
    to be. charts: with the cell of their upper left corner; a page with charts is no table. breaks: the last lines of printed
    pages of charts.
    """

    name: str
    lines: Sequence[Sequence[Any]]
    more: Iterable[Sequence[Plain]] = ()
    n: int | None = None
    sample: Sequence[Sequence[Plain]] = ()
    charts: Sequence[tuple[Any, str]] = ()
    breaks: Sequence[int] = ()


def words(value: Any) -> str:
    """A value as text, with a star where it is incomplete."""
    if isinstance(value, Styled):
        text = f"{value.value:.{value.digits}f}" if isinstance(value.value, float) else words(value.value)
        return text + "*" * (value.incomplete and not isinstance(value.value, str))
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def fine(value: float) -> Styled:
    """With three significant digits where two decimals would show fewer."""
    small = 0 < abs(value) < 1
    return Styled(value, digits=2 - math.floor(math.log10(abs(value))) if small else 2)


def sheet_names(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """A sheet's name for each, all different whatever the case: cut, and numbered where that leaves several alike, or one that
    is taken."""
    cut = [re.sub(r"[\[\]:*?/\\]|^'", "-", name)[:_NAME].rstrip("'") for name in names]
    times = Counter(name.casefold() for name in [*taken, *cut])
    used = {*(name for name, often in times.items() if often == 1), *map(str.casefold, taken)}
    found = []
    for name in cut:
        alike = times[name.casefold()] > 1
        numbered = (f"{name[: _LIMIT - len(f' {i}')]} {i}" for i in count(1))
        found.append(next(new for new in numbered if new.casefold() not in used) if alike else name)
        used.add(found[-1].casefold())
    return found


def plain_page(name: str, head: Sequence[str], lines: Iterable[Sequence[Plain]], n: int) -> Page:
    """A page of `n` lines of texts and numbers under their head: what a page of all of them would be, in a tenth of the time
    and with a few lines in memory."""
    lines = iter(lines)
    sample = list(islice(lines, _LOOKED_AT - 1))
    return Page(name, [head], chain(sample, lines), n + 1, sample)


def save(pages: Iterable[Page], path: Path, mark: str = "") -> None:
    """Writes a workbook in one step. The same content gives the same bytes, whatever the time.

    mark: what `mark_of` is to say of it. UserError when the disk refuses.
    """
    workbook = openpyxl.Workbook(write_only=True)
    workbook.properties.creator, workbook.properties.identifier = "script_vlmeval", mark or None
    more = {}
    for place, page in enumerate(pages, 1):
        sheet = workbook.create_sheet(page.name)
        _fill(sheet, page)
        styles: dict[type, int] = {kind: _cell(sheet, kind()).style_id for kind in (int, float)}
        more[f"xl/worksheets/sheet{place}.xml"] = rows(page.more, len(page.lines) + 1, styles)
    _write(workbook, path, more)


def mark_of(path: Path) -> str:
    """The mark of a workbook that `save` wrote; '' where there is none, or no workbook."""
    try:
        with zipfile.ZipFile(path) as source:
            found = re.search(rb"<dc:identifier[^>]*>(\w+)<", source.read(_CORE))
    except (OSError, KeyError, zipfile.BadZipFile):
        return ""
    return found[1].decode() if found else ""


def _write(workbook: Any, path: Path, more: Mapping[str, Iterable[bytes]]) -> None:
    """more: further rows by the sheet's file."""
    buffer = io.BytesIO()
    workbook.save(buffer)
    with replacing(path) as temporary, zipfile.ZipFile(buffer) as source, zipfile.ZipFile(temporary, "w") as target:
        for name in source.namelist():
            data, entry = source.read(name), zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with target.open(entry, "w", force_zip64=name in more) as file:
                if name in more:
                    _write_sheet(file, data, more[name])
                elif name == _CORE:
                    file.write(re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"1980-01-01T00:00:00Z", data))
                else:
                    file.write(data)


def _write_sheet(file: IO[bytes], data: bytes, more: Iterable[bytes]) -> None:
    data = data.replace(b"\r", b"&#13;")  # readers turn a bare one into a newline
    if filtered := re.search(rb'<autoFilter ref="([A-Z0-9:]+)"', data):  # readers go through a sheet that does not say its size
        data = data.replace(b"<sheetViews>", b'<dimension ref="%s"/><sheetViews>' % filtered[1], 1)
    end = data.rindex(b"</sheetData>")
    file.write(data[:end])
    for block in more:
        file.write(block)
    file.write(data[end:])


def _fill(sheet: Any, page: Page) -> None:
    head, n = page.lines[0], page.n or len(page.lines)
    sheet.page_setup.orientation, sheet.page_setup.paperSize = "landscape", _A4
    sheet.page_margins = PageMargins(left=0.4, right=0.4, top=0.5, bottom=0.5)
    if page.charts:
        _hang(sheet, page)
    else:
        _lay_out(sheet, page, f"{get_column_letter(len(head))}{n}")
    lines = iter(page.lines)
    if not page.charts:
        columns = zip(*page.lines[:_LOOKED_AT], *page.sample, strict=True)
        sheet.append([_head(sheet, column) for column in columns])
        next(lines)
    for line in lines:
        sheet.append([_cell(sheet, value) for value in line])


def _hang(sheet: Any, page: Page) -> None:
    """Charts."""
    sheet.page_setup.scale = _CHARTS
    for place in range(1, 2 * ACROSS + 1):
        sheet.column_dimensions[get_column_letter(place)].width = _COLUMN
    for line in page.breaks:
        sheet.row_breaks.append(Break(id=line))
    for chart, corner in page.charts:
        sheet.add_chart(chart, corner)


def _lay_out(sheet: Any, page: Page, last: str) -> None:
    """A table. In print the head is on every page, and all columns are on one as long as that can be read, else the first is on
    every page. last: its last cell."""
    head = page.lines[0]
    sheet.freeze_panes, sheet.auto_filter.ref = "B2", f"A1:{last}"
    widths = [_width(column) for column in zip(*page.lines[:_LOOKED_AT], *page.sample, strict=True)]
    for place, width in enumerate(widths, 1):
        sheet.column_dimensions[get_column_letter(place)].width = width
    sheet.row_dimensions[1].height = _LINE * _head_lines(head, widths) + 3
    if "budget" in head:
        sheet.conditional_formatting.add(f"A2:{last}", _RULE)
    sheet.print_title_rows = "1:1"
    if sum(widths) <= _PRINTED:
        sheet.sheet_properties.pageSetUpPr.fitToPage = True
        sheet.page_setup.fitToHeight = 0
    else:
        sheet.page_setup.scale, sheet.print_title_cols = _TABLES, "A:A"


def _width(column: Sequence[Any]) -> int:
    """Of a column, in characters. A head may go over several lines, but not within a word or over the filter's arrow."""
    head, *values = map(words, column)
    needed = max(max(map(len, values), default=0) + 2, max(map(len, head.split()), default=0) + 4, min(len(head), 8) + 4)
    wide = any(isinstance(value, Styled) and value.wrapped for value in column)
    return min(max(needed + _ARROW * _counts(column), _LEAST), 2 * _WIDEST if wide else _WIDEST)


def _counts(column: Sequence[Any]) -> bool:
    """Whether most of what stands under a head are numbers, which readers put at the right."""
    values = [value.value if isinstance(value, Styled) else value for value in column[1:]]
    found = [number(value) is not None for value in values if value is not None]
    return 2 * sum(found) > len(found)


def _head_lines(heads: Sequence[Any], widths: Sequence[int]) -> int:
    """The most lines that a head takes in its column."""
    return max(len(wrap(words(head), width - 3)) or 1 for head, width in zip(heads, widths, strict=True))


def _head(sheet: Any, column: Sequence[Any]) -> Any:
    """The head of a column, over its figures."""
    cell = _cell(sheet, column[0])
    cell.font, cell.fill = _HEAD
    cell.alignment = Alignment(horizontal="right" if _counts(column) else None, vertical="center", wrap_text=True)
    return cell


def _cell(sheet: Any, value: Any) -> Any:
    styled = value if isinstance(value, Styled) else Styled(value)
    value = styled.value
    text = value is not None and number(value) is None
    cell = WriteOnlyCell(sheet, escape(str(value)) if text else value)
    if text:
        cell.data_type = "s"  # also what looks like a formula or an error code
    elif value is not None:
        plain = "0." + "0" * styled.digits if isinstance(value, float) else "0"
        cell.number_format = (styled.form or plain) + '" *"' * styled.incomplete
    if styled.incomplete:
        cell.fill = _INCOMPLETE
    if styled.bold or styled.italic:
        cell.font = Font(bold=styled.bold, italic=styled.italic, **_FONT)
    if styled.centred or styled.wrapped:
        cell.alignment = Alignment(horizontal="center" if styled.centred else None, vertical="top", wrap_text=styled.wrapped)
    return cell
