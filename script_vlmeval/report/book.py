"""A configuration's workbook: its figures on all benchmarks, and on each what was asked, said, read and scored, row by row."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cells import Config
from ..draw import Row, at, number
from ..files import digest, read_json
from ..store import CELL, WORTH, CellStore
from . import figures
from .questions import Questions, Table
from .rowxml import Plain
from .sheets import Page, Styled, mark_of, plain_page, save, sheet_names
from .summary import Summary
from .worth import read_worth

if TYPE_CHECKING:
    from .evidence import Evidence

MOST, SHOWN = 20_000, 1_000  # rows that a benchmark's sheet has at most, and that it has of more
_LAYOUT = 3  # of these workbooks: a new one is written where the number is another
_FRONT = "benchmarks"


def write_books(summary: Summary, evidence: Evidence, work_dir: Path) -> list[Path]:
    """`<config>/<config>.xlsx` for each configuration with a finished cell; those that would be what is there are left alone.

    UserError when the disk refuses.
    """
    questions, found = Questions(), []
    for config in summary.configs:
        rows = [row for row in summary.answered if row.config == config]
        if rows:
            found.append(work_dir / str(config) / f"{config}.xlsx")
            _write(config, rows, evidence, found[-1], questions)
    return found


def _write(config: Config, rows: Sequence[Row], evidence: Evidence, path: Path, questions: Questions) -> None:
    sheets = sheet_names([row.folder for row in rows], (_FRONT,))
    front = _front([_figures(row, evidence, sheet) for row, sheet in zip(rows, sheets, strict=True)])
    shown = [[value.value if isinstance(value, Styled) else value for value in line] for line in front]
    mark = digest({"layout": _LAYOUT, "shown": shown, "results": [row.data for row in rows]})
    if mark_of(path) == mark:
        return
    pages = [Page(_FRONT, front)]
    for row, sheet in zip(rows, sheets, strict=True):
        pages.append(_answers(row, sheet, path.parent / row.folder, questions))
    save(pages, path, mark)


def _front(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    head = list(dict.fromkeys(key for record in records for key in record))
    return [head, *([record.get(key) for key in head] for record in records)]


def _figures(row: Row, evidence: Evidence, sheet: str) -> dict[str, Any]:
    """A line of the first sheet."""
    low, high = figures.ends(figures.score(row, evidence))
    kept_low, kept_high = figures.ends(figures.retention(row, evidence))
    return {
        "benchmark": row.benchmark,
        "metric": row.metric,
        "score": Styled(number(row.score), incomplete=row.incomplete),
        "95% low": low,
        "95% high": high,
        "retention %": row.retention,
        "retention 95% low": kept_low,
        "retention 95% high": kept_high,
        "n": row.n,
        "failed": Styled(row.failed, incomplete=row.failed > 0),
        "visual tokens": at(row.data, "tokens.visual_kept"),
        "visual tokens unpruned": at(row.data, "tokens.visual_full"),
        "answers/s": row.data.get("samples_per_second"),
        "scorer": row.data.get("scorer") or row.data.get("unscored"),
        "sheet": sheet,
        "rows shown": min(row.n, SHOWN) if row.n > MOST else row.n,
    }


# answers -----------------------------------------------------------------------------------------------------------------


def _answers(row: Row, sheet: str, folder: Path, questions: Questions) -> Page:
    """A line for each row of the table, or the first ones of very many."""
    most = SHOWN if row.n > MOST else None
    table = questions.of(row, folder, most)
    store = CellStore(folder.parent.parent, str(row.config), row.folder, read_json(folder / CELL) or row.data["fingerprint"])
    found = store.lines()
    order = list(islice(table.rows or found, most))
    head = ["index", *table.columns, "prediction", "read", "worth", "failed"]
    made = _lines(order, store.records(found[index] for index in order if index in found), found, table, folder)
    if most is None:
        return plain_page(sheet, head, made, len(order))
    whole = f"The first {len(order):,} of {row.n:,} rows. All of them: {row.folder}/{store.workbook.name} and predictions.jsonl"
    note: list[Plain] = ["…", whole, *[None] * (len(head) - 2)]
    return plain_page(sheet, head, chain([note], made), len(order) + 1)


def _lines(
    order: Sequence[str],
    records: Iterator[Mapping[str, Any]],
    found: Collection[str],
    table: Table,
    folder: Path,
) -> Iterator[list[Plain]]:
    """records: of those in the order of which some were found."""
    blank, known = ("",) * len(table.columns), _worths(folder / WORTH)
    for index in order:
        record = next(records) if index in found else {}
        yield [
            index,
            *table.rows.get(index, blank),
            record.get("prediction"),
            *known.get(index, (None, None)),
            record.get("error"),
        ]


def _worths(path: Path) -> dict[str, tuple[str | None, float | None]]:
    """By row: what was read of its answer, and what that is worth; of rows of which the scorer says so."""
    if (known := read_worth(path)) is None:
        return {}
    reads = known.reads or repeat(None)
    return dict(zip(known.indices, zip(reads, map(number, known.worth.tolist()), strict=False), strict=True))
