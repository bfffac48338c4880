"""Spreadsheets and tables, built from what is on disk: `<config>_<benchmark>.xlsx`, `<config>.xlsx`, `summary.xlsx`
and `summary.tex`.

    files.py      what is written
    rows.py       results from the disk, and what tells their scorers apart
    summary.py    what is known of a folder of results
    overview.py   configurations by benchmarks; terminal.py prints them, latex.py sets them for a paper
    pages.py      the other sheets; costs.py, comparisons.py: what two of them hold; legend.py: what marks mean
    charts.py     native charts, and what they draw
    book.py       a configuration's workbook; questions.py: what its benchmarks ask
    figures.py    intervals, where they are known
    reported.py   what others have published of the same
    evidence.py   what the rows prove; worth.py reads them
    page/         the page
    sheets.py     lines of values as a workbook; rowxml.py: very many lines

Text stays text: no cell is a formula, and what was said can be read back (`celltext`).
"""

from .files import summarise, write_predictions
from .summary import Summary
from .terminal import table

__all__ = ["Summary", "summarise", "table", "write_predictions"]
