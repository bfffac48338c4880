"""Tables in VLMEvalKit's TSV format: every cell as the text that stands there, errors that name file and line."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from ..errors import UserError
from ..scoring import gold_letter, kind_of, options

_REMEMBERED = 1 << 14  # cells that rows nearby share in memory where they are equal
_SHORT = 1 << 10  # characters of a cell that may be among them
REFERENCE = 64  # VLMEvalKit's rule: an `image` cell of at most so many characters is the index of the row that has the picture


def read_tsv(
    path: Path,
    required: Collection[str] = ("index", "question"),
    hint: str = "",
    skip: Collection[str] = (),
    shorten: Mapping[str, Callable[[str], str]] | None = None,
) -> list[dict[str, str]]:
    """The rows of a tab-separated table, every cell as the text that stands there ("None", "007" and "" included).

    `skip` names columns not to keep in memory, `shorten` says of others what to keep of a cell. UserError for a missing or
    unreadable file, text that is not UTF-8, a line with too many cells, missing required columns, no rows, or an index that
    occurs twice.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path.name} in {path.absolute().parent}. {hint}".rstrip())
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # pictures stand in cells as base64
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(path, file, required, frozenset(skip), shorten or {})
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}). Save it as a UTF-8 tab-separated table.") from None
    except csv.Error as error:
        raise UserError(f"{path} is not a tab-separated table: {error}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    if not rows:
        raise UserError(f"{path} has a header but no rows.")
    if "index" in rows[0] and len({row["index"] for row in rows}) < len(rows):
        twice = [index for index, n in Counter(row["index"] for row in rows).items() if n > 1]
        raise UserError(f"{path}: index '{twice[0]}' occurs more than once ({len(twice)} such). Each row needs its own.")
    return rows


def _rows(
    path: Path, file: Iterable[str], required: Collection[str], skip: frozenset[str], shorten: Mapping[str, Callable[[str], str]]
) -> list[dict[str, str]]:
    lines = csv.reader(file, delimiter="\t")
    header: list[str] = next(lines, [])
    if not header:
        raise UserError(f"{path} is empty.")
    missing = [column for column in required if column not in header]
    if missing:
        seen = ", ".join(header[:8])[:120]
        names = " and ".join(map(repr, missing))
        raise UserError(f"{path} lacks the column {names}; its first line reads: {seen}. Is it tab-separated?")
    double = [column for column, n in Counter(header).items() if n > 1]
    if double:
        raise UserError(f"{path} has the column '{double[0]}' twice.")
    shorter = [(column, short) for column, short in shorten.items() if column in header and column not in skip]
    rows: list[dict[str, str]] = []
    same: dict[str, str] = {}  # a hundred thousand rows repeat their types and pictures
    for cells in lines:
        if not cells:
            continue
        if len(cells) > len(header):
            raise UserError(f"{path}, line {lines.line_num}: {len(cells)} cells under {len(header)} columns.")
        cells += [""] * (len(header) - len(cells))
        if len(same) > _REMEMBERED:
            same.clear()
        row = {
            column: same.setdefault(cell, cell) if len(cell) <= _SHORT else cell
            for column, cell in zip(header, cells, strict=True)
            if column not in skip
        }
        for column, short in shorter:
            row[column] = short(row[column])
        rows.append(row)
    return rows


def read_user_tsv(path: Path) -> list[dict[str, str]]:
    """A table of the user's own: `question`, `answer` and `image` (base64) or `image_path`; options in A, B, ... make a row
    multiple choice, a yes/no answer makes it yes/no, and it is open otherwise. `index` is counted where it is absent.

    UserError names the file, the row, and what would mend it.
    """
    hint = "Give the path of a tab-separated table with the columns question, answer and image_path."
    rows = read_tsv(path, ("question", "answer"), hint)
    if "image" not in rows[0] and "image_path" not in rows[0]:
        raise UserError(f"{path} lacks a column 'image_path' (a file, relative to the table) or 'image' (base64).")
    if "index" not in rows[0]:
        rows = [{"index": str(i), **row} for i, row in enumerate(rows)]
    for row in rows:
        problem = _problem(row)
        if problem:
            raise UserError(f"{path}, row with index '{row['index']}': {problem}.")
    return rows


def _problem(row: dict[str, str]) -> str:
    empty = [column for column in ("index", "question", "answer") if not row[column].strip()]
    if empty:
        return f"the cell '{empty[0]}' is empty"
    if not (row.get("image") or row.get("image_path")):
        return "it has neither 'image' nor 'image_path'"
    if kind_of(row) == "mcq" and not gold_letter(row):
        return f"the answer '{row['answer'][:40]}' is none of the options {', '.join(options(row))}"
    return ""
