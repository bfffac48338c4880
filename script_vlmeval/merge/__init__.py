"""Results of several people or computers in one folder: `run.py merge DIR DIR... --into DIR`. Sources are read, never changed.

    folders.py    the command: which folders, what is told
    copies.py     a cell as one of the folders has it
    plans.py      what becomes of each cell: everything is compared before anything is written
    pictures.py   which pictures of a benchmark's first rows come along
    writing.py    whole folders into the target

A cell that one of them has is copied as it is. Of one that several have, settings and answers must agree: then a complete one is
taken or, where another has answers that it lacks, the answers are joined row by row, and the next run scores what there is.
A cell appears under its name in one step; `.merge` in the target holds what is on its way, and the next call clears up what a
killed one left there.
"""

from __future__ import annotations

from .folders import command
from .writing import REPLACED, STAGE

__all__ = ["REPLACED", "STAGE", "command"]
