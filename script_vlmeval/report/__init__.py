"""Spreadsheets and tables, built from what is on disk: `<config>_<benchmark>.xlsx`, `summary.xlsx`, `accuracy.png`.

    files.py      what is written
    rows.py       results from the disk, and what tells their scorers apart
    summary.py    what is known of a folder of results
    overview.py   configurations by benchmarks; terminal.py prints them
    pages.py      the other sheets; legend.py: what marks mean
    sheets.py     lines of values as a workbook

Text stays text: no cell is a formula, and what was said can be read back (`celltext`).
"""

from .files import summarise, write_predictions
from .summary import Summary
from .terminal import table

__all__ = ["Summary", "summarise", "table", "write_predictions"]
