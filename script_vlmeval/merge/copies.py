"""A cell's folder in one of several work dirs: what it holds, and how good that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from ..cells import Config
from ..errors import UserError
from ..files import disk, read_json
from ..store import CELL, LOCK, RESULT, WORTH, CellStore, Line, held, shard

Files: TypeAlias = tuple[tuple[str, int, int], ...]  # name, bytes, nanoseconds


@dataclass
class Copy:
    """A cell's folder, and its files as they were when it was looked at."""

    work_dir: Path
    store: CellStore
    files: Files

    @cached_property
    def result(self) -> dict[str, Any]:
        """Empty where the cell is not done."""
        return self.store.result() or {}

    @cached_property
    def rows(self) -> int | None:
        """How many its result is of; None where that does not say."""
        return _whole(self.result.get("n"))

    @cached_property
    def failed(self) -> int | None:
        """How many of them failed, likewise."""
        return _whole(self.result.get("failed", 0))

    @property
    def table(self) -> str | None:
        """The digest of the table that was asked."""
        found = self.store.fingerprint.get("data")
        return found if isinstance(found, str) else None

    def answered(self) -> list[Line]:
        """Of the rows that have a prediction. Lines that cannot be read are told of in a warning that names the folder."""
        return [line for line in self.store.lines().values() if line.answered]

    def said(self) -> dict[str, tuple[str, str]]:
        """Row index -> stamp and prediction, of the rows that have one."""
        return {r["index"]: (str(r.get("stamp", "")), r["prediction"]) for r in self.store.records(self.answered())}

    def lacking(self, answered: int) -> int:
        """Answers that the result was made of and that are not there."""
        return 0 if self.rows is None or self.failed is None else max(0, self.rows - self.failed - answered)

    def goodness(self, answered: int) -> tuple[int, bool, bool, bool]:
        """What makes one copy better than another: answers, that they are all that its result is of, a score, and what each row
        is worth to it."""
        whole = self.rows is not None and self.failed is not None and answered + self.failed == self.rows
        return answered, whole, whole and not self.result.get("unscored"), (self.store.folder / WORTH).exists()


def cells(work_dir: Path) -> Iterator[tuple[str, str, Path]]:
    """Configuration, benchmark and folder of each cell."""
    with disk(work_dir):
        folders = sorted(path for path in work_dir.glob("*/*/") if not path.name.startswith("."))
    for folder in folders:
        there = any((folder / name).exists() for name in (CELL, RESULT)) or shard.files(folder)
        if there and Config.of_folder(folder.parent.name):
            yield folder.parent.name, folder.name, folder


def copy_of(work_dir: Path, config: str, benchmark: str, folder: Path) -> Copy | None:
    """None where nothing was answered yet. UserError where a run is at work, or nothing says what the answers belong to."""
    if held(folder):
        raise UserError(f"A run is working on '{folder}': merge when it has ended.")
    found, settings = looked(folder), read_json(folder / CELL)
    if not shard.begun(folder) and not (folder / RESULT).exists():
        return None
    if settings is None:
        raise UserError(f"'{folder}' has no readable {CELL}, so nothing says what its answers belong to: remove the folder.")
    return Copy(work_dir, CellStore(work_dir, config, benchmark, settings), found)


def looked(folder: Path) -> Files:
    """What changes when a file of a cell does."""
    with disk(folder):
        stats = [(path.name, path.stat()) for path in folder.iterdir() if path.is_file() and path.name != LOCK]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
