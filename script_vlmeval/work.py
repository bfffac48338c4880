"""What is to be done: options of a run, one cell in progress, one model's cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .backbones import Backbone, Models
from .cells import Cell
from .judge import Judge
from .methods import Method
from .plugin import Dataset
from .store import CellStore

Rows: TypeAlias = NDArray[np.bool_]  # which rows of a dataset, by position
Chunk: TypeAlias = NDArray[np.intp]  # positions of rows that are dealt out together
_SHARE, _FEW = 0.05, 20  # failed rows that a cell may have where --max-failures does not say


@dataclass(frozen=True)
class Options:
    """How to run; what to run is the study."""

    work_dir: Path = Path("results")
    mode: str = "all"  # all | infer | eval
    limit: int | None = None
    batch_size: int | str = 32  # or auto
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    attn: str = "sdpa"
    models: Models = field(default_factory=Models)
    prompt_style: str = "auto"
    fresh: bool = False
    quiet: bool = False
    judge: Judge | None = None  # of benchmarks that one scores
    max_failures: int | None = None  # rows of a cell; None: a twentieth, or 20 where that is more
    atlas: int = 100  # the first rows of each benchmark of which it is recorded which tokens were kept

    def tolerated(self, rows: int) -> int:
        """How many failed rows a cell of so many may have."""
        return max(_FEW, int(_SHARE * rows)) if self.max_failures is None else self.max_failures


@dataclass
class Work:
    """One cell in progress. `missing`: rows without a valid answer, of which this process clears what it answers."""

    cell: Cell
    method: Method
    store: CellStore
    missing: Rows
    finished: bool = False  # result.json is there and no row failed
    origin: Mapping[str, Any] = field(default_factory=dict)  # the checkpoint that is asked, for the provenance
    since: Mapping[str, Any] = field(default_factory=dict)  # what is another thing now than when the cell was answered, as it is
    twin: Work | None = None  # an earlier cell whose every choice is the same under another name: its answers are this one's
    failures: int = 0  # of the model, not of pictures
    reason: str = ""  # why the cell was given up

    @property
    def answered(self) -> int:
        """How many rows have a valid answer, as far as this process knows."""
        return len(self.missing) - int(self.missing.sum())


@dataclass
class Table:
    """One benchmark as one model is asked it: the cells, and the rows in the order in which they are dealt out, in chunks."""

    dataset: Dataset
    works: list[Work]
    chunks: list[Chunk] = field(default_factory=list)


@dataclass
class Job:
    """What one model has to do: the record with its checkpoint on this computer, and its cells, benchmark by benchmark."""

    record: Backbone
    tables: list[Table]

    @property
    def works(self) -> list[Work]:
        return [work for table in self.tables for work in table.works]

    @property
    def missing(self) -> int:
        """How many answers were missing that this process has not given since."""
        return sum(int(work.missing.sum()) for work in self.works)
