"""A table as text on disk: rows going in under checks, and the file beside it that says where it came from."""

from __future__ import annotations

import csv
import datetime
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from .. import __version__
from ..benchmarks.folders import digest
from ..errors import UserError
from ..files import read_json
from ..scoring import references
from .recipe import Recipe, Row

MADE_BY = "script_vlmeval"
_NAMED = 3  # examples in an error


@dataclass
class Written:
    """What stands in a table: its header, each row's index and media, and the splits that rows name."""

    header: list[str] = field(default_factory=list)
    media: dict[str, list[str]] = field(default_factory=dict)  # index -> paths
    splits: set[str] = field(default_factory=set)


def write(path: Path, recipe: Recipe, rows: Iterable[Row], called: str) -> Written:
    """Writes all rows. UserError, which says `called`, when an index occurs twice, or a cell that must be filled is empty."""
    done = Written()
    twice: list[str] = []
    empty: list[str] = []
    with _new(path) as file:
        for row in rows:
            if not done.header:
                done.header = recipe.header(row)
                filled = recipe.filled(row)
                _put(file, done.header)
            index = row["index"]
            if index in done.media:
                twice.append(index)
            empty += [f"{name} of index '{index}'" for name in filled if not row[name].strip()]
            done.media[index] = references(row[recipe.media])
            done.splits |= {row["split"]} if row.get("split") else set()
            _put(file, [row[name].replace("\0", "") for name in done.header])
    _refuse(called, twice, "index '{0}' occurs more than once ({n} such)")
    _refuse(called, empty, "cells that must be filled are empty: {shown} ({n} such)")
    return done


def _new(path: Path) -> TextIO:
    """Half a surrogate pair, which JSON can hold and UTF-8 cannot, becomes a question mark."""
    return path.open("w", encoding="utf-8", errors="replace", newline="")


def _put(file: TextIO, cells: Sequence[str]) -> None:
    """One line of the table. Before Python 3.13 a lone carriage return is not quoted, and readers then see the end of a line."""
    risky = any("\r" in cell for cell in cells)
    csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL if risky else csv.QUOTE_MINIMAL).writerow(cells)


def _refuse(called: str, found: list[str], text: str) -> None:
    if found:
        what = text.format(found[0], n=len(found), shown=", ".join(found[:_NAMED]))
        raise UserError(f"{called}: {what}. The files are not the official ones: download them again.")


def copy(source: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """The rows of a table whose index is to be kept."""
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with source.open(encoding="utf-8", newline="") as old, _new(target) as new:
        lines = csv.reader(old, delimiter="\t")
        header = next(lines)
        _put(new, header)
        place = header.index("index")
        for cells in lines:
            if keep(cells[place]):
                _put(new, cells)


# -- the file beside it --------------------------------------------------------------------------------------------------------
def origin(table: Path) -> dict[str, Any] | None:
    """What we noted when we made this table; None for a table that is not ours, or was changed since."""
    beside = table.with_suffix(".json")
    noted = read_json(beside) if beside.is_file() else None
    if noted is None or noted.get("made_by") != MADE_BY or not table.is_file():
        return None
    return noted if noted.get("sha256") == digest(table) else None


def describe(
    recipe: Recipe, source: Path, written: Written, *, all_rows: str, table: str, lost: dict[str, str]
) -> dict[str, Any]:
    """What is noted: `all_rows` and `table` are the digests with and without the rows that were left out."""
    skipped = [index for index, paths in written.media.items() if not lost.keys().isdisjoint(paths)]
    return {
        "made_by": MADE_BY,
        "version": __version__,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "table": recipe.table,
        "source": str(source),
        "split": ", ".join(sorted(written.splits)) or recipe.split,
        "rows": len(written.media) - len(skipped),
        "expected": list(recipe.expected),
        "missing": sorted(lost),
        "skipped": skipped,
        "sha256": table,
        "sha256_of_all_rows": all_rows,
    }
