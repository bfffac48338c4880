"""Workbooks of answers: read as text, written as text, and what a scoring puts beside them."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import xlsxwriter  # type: ignore[import-untyped]

from ..celltext import CELL_LIMIT, escape, unescape
from ..errors import UserError, said_by
from .host import MARKER

HOST_FILES = "vlmevalkit"  # the folder beside a workbook for what the host's scorer writes
FILLER = "Z"  # for the host's scorers: no option, no yes or no, hardly ever an answer
Row = dict[str, str]
_UNWRITABLE = re.compile("[\ud800-\udfff\ufffe\uffff]")  # xlsxwriter escapes all else that XML cannot hold


class Joined(Sequence[Row]):
    """Rows joined with further cells as they are looked at, so that no second table stands in memory: index -> these cells."""

    def __init__(self, rows: Sequence[Row], cells: Callable[[str], Row]) -> None:
        self._rows, self._cells = rows, cells

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._joined(self._rows[place]) if isinstance(place, int) else [self._joined(row) for row in self._rows[place]]

    def __iter__(self) -> Iterator[Row]:
        return map(self._joined, self._rows)

    def _joined(self, row: Row) -> Row:
        return {**row, **self._cells(row["index"])}


def answer_in(text: str) -> str:
    """What was said, or nothing for a failed row: it is wrong, and must not be read by a scorer ("... via API." counts as option
    A in some)."""
    return "" if not text.strip() or MARKER in text else text


def answered(rows: Sequence[Row], said: Mapping[str, str]) -> Sequence[Row]:
    """Rows with their predictions; one of which nothing was said has an empty one: wrong in every rule."""
    return Joined(rows, lambda index: {"prediction": answer_in(said.get(index, ""))})


@dataclass(frozen=True)
class Answers:
    """A workbook's rows, read once for all scorers or at hand already. A failed row's prediction is empty."""

    path: Path
    rows: Sequence[Row]

    def copy_to(self, path: Path) -> None:
        """The workbook for the host's scorer, with `FILLER` for the predictions of failed rows; written anew only where it must
        be, which takes longer than most scoring."""
        if self.path.suffix == path.suffix and not self._altered():
            shutil.copyfile(self.path, path)
        else:
            filled = (row if row["prediction"] else row | {"prediction": FILLER} for row in self.rows)
            write_lines(path, list(self.rows[0]), (list(row.values()) for row in filled))

    def _altered(self) -> bool:
        """Whether the rows say something else than the file, whose cells the host does not unescape."""
        return any(not row["prediction"] or any(escape(cell) != cell for cell in row.values()) for row in self.rows)


def read_text(path: Path) -> pd.DataFrame:
    """A TSV, every cell as text: with pandas' defaults the answer "None" would be lost."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def read_answers(path: Path) -> Answers:
    """A workbook's rows, or those of a TSV, as the host may write. UserError when it has no predictions."""
    try:
        frame = pd.read_excel(path, dtype=str, keep_default_na=False) if path.suffix == ".xlsx" else read_text(path)
    except FileNotFoundError:
        raise UserError(f"There are no answers to score: {path} does not exist. Run with --mode infer first.") from None
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read as a workbook: {said_by(error)}.") from None
    missing = [column for column in ("index", "prediction") if column not in frame]
    if missing:
        raise UserError(f"{path} has no column '{missing[0]}'.")
    # As lists: a column of pandas' cannot hold half a surrogate pair.
    cells = {str(column): [unescape(cell) if "_x" in cell else cell for cell in map(str, frame[column])] for column in frame}
    cells["prediction"] = [answer_in(text) for text in cells["prediction"]]
    return Answers(path, [dict(zip(cells, line, strict=True)) for line in zip(*cells.values(), strict=True)])


def answered_rows(path: Path) -> Sequence[Row]:
    """The rows of a workbook for scorers of ours."""
    return read_answers(path).rows


def write_workbook(frame: pd.DataFrame, path: Path) -> None:
    """A table of text."""
    write_lines(path, [str(column) for column in frame], zip(*(frame[c] for c in frame), strict=True))


def write_lines(path: Path, columns: Sequence[str], lines: Iterable[Sequence[str | float]], lean: bool = False) -> None:
    """Text stays text: no formula and no link is made of what a model said. lean: a line at a time is in memory, and text stands
    in the cells themselves, where openpyxl does not read an escaped underscore back."""
    options = {"strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False, "constant_memory": lean}
    with xlsxwriter.Workbook(path, options) as workbook:
        sheet, bold = workbook.add_worksheet(), workbook.add_format({"bold": True})
        for place, name in enumerate(columns):
            sheet.write_string(0, place, name, bold)
        for number, line in enumerate(lines, 1):
            for place, value in enumerate(line):
                if isinstance(value, str):
                    sheet.write_string(number, place, _UNWRITABLE.sub("\ufffd", value[:CELL_LIMIT]))
                else:
                    sheet.write_number(number, place, value)


def settle(folder: Path, workbook: Path) -> None:
    """The files of a scoring that went well, from the folder where it was done, in place of an earlier one's."""
    for path in workbook.parent.iterdir():
        if path.name.startswith(f"{workbook.stem}_") and path.suffix in (".xlsx", ".csv", ".tsv", ".json", ".pkl"):
            path.unlink()
    shutil.rmtree(workbook.parent / HOST_FILES, ignore_errors=True)
    for path in sorted(folder.iterdir()):
        shutil.move(path, workbook.with_name(path.name))
