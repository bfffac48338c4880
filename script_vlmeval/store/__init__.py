"""One cell's folder on disk, safe against crashes and several processes: `work_dir/<config>/<benchmark>/`.

    cell.json               what the folder holds (the fingerprint: everything that could change the score)
    predictions.jsonl       one JSON object per answered row, durable once `append` returns
    predictions-<r>.jsonl   the same by process r of a run, until it is merged: a shard
    worth.jsonl             what each row is worth to the score, where the scorer says so; written before result.json
    result.json             written last, in one step: done
    failure.json            why the cell was given up
    .lock                   held by the run that works on it, and says who that is

A killed run leaves at most a torn last line, which is cut off, and shards, which the next run merges. A line that is not ours is
skipped, never read as an answer: `seal` tells them apart. `cell` is the folder, `shard` its files of answers, `lock` who has it.
"""

from __future__ import annotations

from .cell import CELL, FAILURE, RESULT, WORTH, CellStore, Line, failure
from .lock import LOCK, held
from .shard import PREDICTIONS, written

ATLAS, SAMPLES, MADE = "atlas", "samples.jsonl", "atlas.json"  # beside the cells: work_dir/atlas/<benchmark>/, and its files

__all__ = [
    "ATLAS",
    "CELL",
    "FAILURE",
    "LOCK",
    "MADE",
    "PREDICTIONS",
    "RESULT",
    "SAMPLES",
    "WORTH",
    "CellStore",
    "Line",
    "failure",
    "held",
    "written",
]
