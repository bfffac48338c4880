"""Lines of values as a workbook."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from pathlib import Path
from typing import IO, Any
from xml.sax import saxutils

import openpyxl
from openpyxl.cell import WriteOnlyCell
from openpyxl.formatting.rule import FormulaRule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter

from ..celltext import escape
from ..draw import number
from ..files import replacing

_HEAD = Font(bold=True, color="FFFFFF"), PatternFill("solid", fgColor="2F4B6E"), Alignment(wrap_text=True, vertical="center")
_INCOMPLETE = PatternFill("solid", fgColor="FBE3D0")
_RULE = FormulaRule(formula=["$D2<>$D1"], border=Border(top=Side("thin", color="9AA5B1")))  # between budgets
_LOOKED_AT = 200  # lines that say how wide a column is to be
_BLOCK = 512  # rows that are written at once
_CORE = "docProps/core.xml"  # holds the time
_NAME, _LIMIT = 28, 31  # characters of a sheet's name, without and with a number; more than the latter no reader takes


@dataclass(frozen=True)
class Styled:
    """A value and how it is to be shown."""

    value: Any
    bold: bool = False
    incomplete: bool = False
    digits: int = 2  # of a fraction


def words(value: Any) -> str:
    """A value as text, with a star where it is incomplete."""
    if isinstance(value, Styled):
        text = f"{value.value:.{value.digits}f}" if isinstance(value.value, float) else words(value.value)
        return text + "*" * (value.incomplete and not isinstance(value.value, str))
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


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


def save(pages: Sequence[tuple[str, Sequence[Sequence[Any]]]], path: Path) -> None:
    """Writes a workbook in one step. The same content gives the same bytes, whatever the time.

    UserError when the disk refuses.
    """
    workbook = openpyxl.Workbook(write_only=True)
    for name, lines in pages:
        _fill(workbook.create_sheet(name), lines, len(lines))
    _write(workbook, path)


def save_texts(name: str, columns: Sequence[str], lines: Iterable[Sequence[str]], n: int, path: Path) -> None:
    """Writes one page of `n` lines of text under their columns: what `save` would write, byte for byte, in a tenth of the time
    and with a few lines in memory. UserError when the disk refuses."""
    lines = iter(lines)
    first = [columns, *islice(lines, _LOOKED_AT - 1)]
    workbook = openpyxl.Workbook(write_only=True)
    _fill(workbook.create_sheet(name), first, n + 1)
    _write(workbook, path, _rows(lines, len(first) + 1, [get_column_letter(i) for i in range(1, len(columns) + 1)]))


def _write(workbook: Any, path: Path, more: Iterable[bytes] = ()) -> None:
    """more: further rows of its only sheet."""
    buffer = io.BytesIO()
    workbook.save(buffer)
    with replacing(path) as temporary, zipfile.ZipFile(buffer) as source, zipfile.ZipFile(temporary, "w") as target:
        for name in source.namelist():
            data, entry = source.read(name), zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with target.open(entry, "w") as file:
                if name.startswith("xl/worksheets/"):
                    _write_sheet(file, data, more)
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


def _rows(lines: Iterable[Sequence[str]], start: int, letters: Sequence[str]) -> Iterator[bytes]:
    """Lines of text as rows of a sheet's XML, `start` being the number of the first."""
    numbered = enumerate(lines, start)
    while block := list(islice(numbered, _BLOCK)):
        rows = [_row(n, zip(letters, line, strict=True)) for n, line in block]
        yield "".join(rows).encode("ascii", "xmlcharrefreplace")


def _row(n: int, cells: Iterable[tuple[str, str]]) -> str:
    inner = "".join([f'<c r="{letter}{n}" t="inlineStr">{_inline(text)}</c>' for letter, text in cells])
    return f'<row r="{n}">{inner}</row>'


@lru_cache(maxsize=1024)  # types and pictures repeat
def _inline(text: str) -> str:
    """A text as it stands in a cell's XML, the way openpyxl writes it."""
    if not text:
        return ""
    safe = escape(text)
    space = ' xml:space="preserve"' if safe != safe.strip() else ""
    return f"<is><t{space}>{saxutils.escape(safe)}</t></is>".replace("\r", "&#13;")


def _fill(sheet: Any, lines: Sequence[Sequence[Any]], n: int) -> None:
    """n: how many lines the sheet will have, with its head."""
    last = get_column_letter(len(lines[0]))
    sheet.freeze_panes, sheet.auto_filter.ref = "B2", f"A1:{last}{n}"
    for place, column in enumerate(zip(*lines[:_LOOKED_AT], strict=True), 1):
        width = max(len(words(value)) for value in column) + 3
        sheet.column_dimensions[get_column_letter(place)].width = min(max(width, 9), 60)
    if "budget" in lines[0]:
        sheet.conditional_formatting.add(f"A2:{last}{n}", _RULE)
    for place, line in enumerate(lines):
        sheet.append([_cell(sheet, value, head=not place) for value in line])


def _cell(sheet: Any, value: Any, head: bool) -> Any:
    styled = value if isinstance(value, Styled) else Styled(value)
    value = styled.value
    text = value is not None and number(value) is None
    cell = WriteOnlyCell(sheet, escape(str(value)) if text else value)
    if text:
        cell.data_type = "s"  # also what looks like a formula or an error code
    elif value is not None:
        cell.number_format = ("0." + "0" * styled.digits if isinstance(value, float) else "0") + '" *"' * styled.incomplete
    if styled.incomplete:
        cell.fill = _INCOMPLETE
    if styled.bold:
        cell.font = Font(bold=True)
    if head:
        cell.font, cell.fill, cell.alignment = _HEAD
    return cell
