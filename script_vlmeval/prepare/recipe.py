"""What is known of one official download: where its files lie, and how its rows come out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .folder import Folder

__all__ = ["IMAGE", "VIDEO", "Folder", "Prepared", "Recipe", "Row"]

Row = dict[str, str]
IMAGE, VIDEO = "image_path", "video_path"  # the columns that hold absolute paths of media
_FILLED = ("index", "question", "answer", "answers", "candidates", IMAGE, VIDEO)


@dataclass(frozen=True)
class Recipe:
    """How one table is made.

    layout: a few short lines that show the expected files; errors hold all of them. rows: yields every row in the official
    order, all with the same keys, each cell the text to be written; it asks the folder for all files first and reads them then,
    so that one error names everything that is missing, and says how many rows will come (`folder.total`) before the first.
    expected: the published numbers of rows, several where several editions are; another number is said, not refused. media: the
    column of absolute paths, several as a Python list. columns: their order; further keys of the first row follow, and a column
    that it lacks is left out. blank: columns that may be empty although they would have to be filled. split: where rows do not
    say it themselves.
    """

    table: str
    layout: str
    rows: Callable[[Folder], Iterator[Row]]
    expected: tuple[int, ...]
    media: str
    columns: tuple[str, ...]
    links: tuple[str, ...] = ()
    split: str = ""
    blank: tuple[str, ...] = ()

    @property
    def files(self) -> str:
        """The layout in one line, for errors."""
        return "; ".join(line.strip() for line in self.layout.strip().splitlines())

    def header(self, row: Row) -> list[str]:
        """The columns of the table, given its first row."""
        return [*(name for name in self.columns if name in row), *(name for name in row if name not in self.columns)]

    def filled(self, row: Row) -> list[str]:
        """The columns in which no cell may be empty."""
        return [name for name in _FILLED if name in row and name not in self.blank]


@dataclass(frozen=True)
class Prepared:
    """What came of it. expected: the published numbers of rows, () where none is. missing: media that are absent or damaged,
    whose rows were left out. notes: sentences for the user."""

    table: Path
    rows: int
    expected: tuple[int, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
