"""What a benchmark asks, as the cells' own workbooks hold it: read once for all configurations that were asked the same."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import openpyxl

from ..celltext import unescape
from ..draw import Row, at

_ASKED = ("question", "answer")
_OPTION = re.compile("[A-Z]")
_ALSO = ("category", "l2-category")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Table:
    """Columns, and a row's index -> its texts in them, in the table's order. Nothing where there is no workbook."""

    columns: tuple[str, ...] = ()
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)


class Questions:
    """Tables by what they were made of."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Table] = {}

    def of(self, row: Row, folder: Path, most: int | None) -> Table:
        """What a cell in a folder was asked, of the first `most` rows."""
        key = row.folder, at(row.data, "fingerprint.data"), row.n
        if key[1] is None:  # then nothing says that it is the same
            return _read(folder / f"{row.config}_{row.folder}.xlsx", most)
        if key not in self._known or not self._known[key].rows:
            self._known[key] = _read(folder / f"{row.config}_{row.folder}.xlsx", most)
        return self._known[key]


def _read(path: Path, most: int | None) -> Table:
    """From a workbook of predictions; a missing or foreign one says nothing."""
    try:
        workbook = openpyxl.load_workbook(path, read_only=True)
        try:
            return _table(workbook.worksheets[0].iter_rows(values_only=True), most)
        finally:
            workbook.close()
    except FileNotFoundError:
        pass
    except (OSError, zipfile.BadZipFile, KeyError, IndexError, ValueError, SyntaxError) as error:
        _log.warning("%s: not a workbook of predictions, so its questions are not shown (%s)", path, error)
    return Table()


def _table(lines: Iterator[Sequence[Any]], most: int | None) -> Table:
    head = [str(name) for name in next(lines, ())]
    place = head.index("index")
    options = sorted(name for name in head if _OPTION.fullmatch(name))
    columns = [name for name in (*_ALSO, _ASKED[0], *options, _ASKED[1]) if name in head]
    places = [head.index(name) for name in columns]
    rows = {_text(line[place]): tuple(_text(line[i]) for i in places) for line in islice(lines, most)}
    return Table(tuple(columns), rows)


def _text(value: Any) -> str:
    return "" if value is None else unescape(str(value))
