"""What is written: the workbook that VLMEvalKit scores, and a folder's summary with its plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..draw import accuracy
from .pages import pages
from .rows import read
from .sheets import save, save_texts
from .summary import Summary


def write_predictions(path: Path, rows: Sequence[Mapping[str, str]], predictions: Mapping[str, str]) -> None:
    """The workbook that VLMEvalKit scores: the rows' columns without `image`, then `prediction`, every cell text.

    `predictions` maps a row's `index` to its answer; a row without one gets an empty cell. Lines are made as they are written.
    UserError when the disk refuses.
    """
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("image", "prediction")]
    lines = ([*(row.get(name, "") for name in columns), predictions.get(row["index"], "")] for row in rows)
    save_texts("predictions", [*columns, "prediction"], lines, len(rows), path)


def summarise(work_dir: Path) -> Summary:
    """Reads every result under `work_dir` and writes its summary.xlsx and, where there is something to draw, accuracy.png.

    What is not a result of this program is skipped with a warning. UserError when there is none, or the disk refuses.
    """
    summary = read(work_dir)
    if summary.plot:
        accuracy(summary.rows, summary.plot)
    save(pages(summary), summary.workbook)
    return summary
