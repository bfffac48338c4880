"""How far the cells under a work dir are, from the disk alone, also while other processes work on them.

    state.py    one cell, in numbers and words
    watch.py    the cells of a folder, looked at again and again
    words.py    them as a table
    live.py     the command: the table, kept up to date on a terminal

Nothing is written; a lock is tried for an instant, which a starting run expects. Of a finished cell the lines of answers are
counted, not read: half a second for a million. Fewer than rows are told of; lines that are damaged, or there twice, are not seen.
"""

from .live import command
from .state import DONE, FAILED, FAILED_ROWS, MISSING, PARTIAL, RUNNING, WAITING, CellState
from .watch import states
from .words import table

__all__ = [
    "DONE",
    "FAILED",
    "FAILED_ROWS",
    "MISSING",
    "PARTIAL",
    "RUNNING",
    "WAITING",
    "CellState",
    "command",
    "states",
    "table",
]
