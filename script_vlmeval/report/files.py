"""What is written: the workbook that VLMEvalKit scores, and what sums a folder up."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..draw import Row, accuracy, plots
from ..files import replacing
from .book import write_books
from .evidence import Evidence, evidence
from .latex import write_table
from .page import write_page
from .pages import pages
from .rows import read
from .sheets import plain_page, save
from .summary import Summary


def write_predictions(path: Path, rows: Sequence[Mapping[str, str]], predictions: Mapping[str, str]) -> None:
    """The workbook that VLMEvalKit scores: the rows' columns without `image`, then `prediction`, every cell text.

    `predictions` maps a row's `index` to its answer; a row without one gets an empty cell. Lines are made as they are written.
    UserError when the disk refuses.
    """
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("image", "prediction")]
    lines = ([*(row.get(name, "") for name in columns), predictions.get(row["index"], "")] for row in rows)
    save([plain_page("predictions", [*columns, "prediction"], lines, len(rows))], path)


def summarise(work_dir: Path) -> Summary:
    """Reads every result under `work_dir` and writes what sums them up: summary.xlsx and summary.tex, a workbook for each
    configuration, plots where there is something to draw, and report.html.

    What is not a result of this program is skipped with a warning. UserError when there is none, or the disk refuses.
    """
    summary = read(work_dir)
    found = evidence(summary)
    drawn = plots(summary.rows, found, work_dir / "plots")
    if summary.plot:
        _accuracy(summary.rows, found, summary.plot, drawn)
    save(pages(summary, found), summary.workbook)
    write_table(summary, found)
    books = write_books(summary, found, work_dir)
    known = replace(summary, evidence=found, plots=tuple(drawn), books=tuple(books))
    return replace(known, page=write_page(known, found))


def _accuracy(rows: Sequence[Row], found: Evidence, path: Path, drawn: Sequence[Path]) -> None:
    """The plot of all models. Of a single one it is there already."""
    same = next((plot for plot in drawn if plot.name == path.name), None)
    if same is None:
        accuracy(rows, path, found)
        return
    with replacing(path) as temporary:
        shutil.copyfile(same, temporary)
