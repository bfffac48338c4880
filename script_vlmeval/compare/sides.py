"""What A and B stand for, and the cells that both have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cells import Config
from ..errors import UserError, unknown
from ..files import disk
from ..store import CELL, FAILURE, RESULT
from .cell import Cell

_NAMED = 8  # cells of a side that are named


@dataclass(frozen=True)
class Side:
    """What A or B stands for: a folder of results, and one configuration in it or, with none, all."""

    said: str
    folder: Path
    config: str | None

    def cells(self) -> dict[tuple[str, str], Path]:
        """(configuration, benchmark) -> folder, of those with a result. The configuration is '' where it is this side's own."""
        with disk(self.folder):
            found = sorted(self.folder.glob(f"{self.config or '*'}/*/{RESULT}"))
        cells = [path.parent for path in found if Config.of_folder(path.parent.parent.name)]
        return {("" if self.config else cell.parent.name, cell.name): cell for cell in cells}

    def unfinished(self) -> str:
        """What to do where a cell was begun that has no result; '' where all have one."""
        with disk(self.folder):
            begun = [path for name in (CELL, FAILURE) for path in self.folder.glob(f"{self.config or '*'}/*/{name}")]
            if all(path.with_name(RESULT).exists() for path in begun if Config.of_folder(path.parent.parent.name)):
                return ""
        return f" `run.py status --work-dir {self.folder}` says what is done; the same run again finishes the rest."


def side_of(said: str, work_dir: Path) -> Side:
    """A configuration of the work dir before a folder of the same name."""
    if "/" not in said and (work_dir / said).is_dir() and Config.of_folder(said):
        return Side(said, work_dir, said)
    path = Path(said).expanduser()
    if path.is_dir() and (Config.of_folder(path.name) and not any(path.glob(f"*/*/{RESULT}"))):
        return Side(said, path.parent, path.name)
    if path.is_dir():
        return Side(said, path, None)
    where, name = (path.parent, path.name) if "/" in said else (work_dir, said)
    known = [folder.name for folder in where.glob("*/") if Config.of_folder(folder.name)] if where.is_dir() else []
    if not known:
        advice = "give a folder that a run has written" if "/" in said else "name its folder with --work-dir"
        raise UserError(f"'{said}' is neither a folder of results nor a configuration in '{where}', which has none; {advice}.")
    raise unknown("configuration", name, known, f"(in '{where}'; a folder of results may be named too)")


def pairs_of(a: Side, b: Side, data: Sequence[str]) -> list[tuple[Cell, Cell]]:
    """What both have. UserError where that is nothing, or lacks a benchmark that was named."""
    if (a.config is None) != (b.config is None):
        one, other = (a, b) if a.config is None else (b, a)
        raise UserError(f"'{one.said}' is a folder of results and '{other.said}' one configuration: name two of a kind.")
    if (a.folder.resolve(), a.config) == (b.folder.resolve(), b.config):
        raise UserError(f"'{a.said}' and '{b.said}' are the same results: name two.")
    here, there = a.cells(), b.cells()
    both = [key for key in here if key in there]
    for name in data:
        for side, cells in ((a, here), (b, there)):
            if name not in {benchmark for _, benchmark in cells}:
                raise UserError(f"'{side.said}' has no result on {name}: it has {_named(cells)}.{side.unfinished()}")
    chosen = [key for key in both if not data or key[1] in data]
    if not chosen:
        has = "; ".join(f"'{side.said}' has {_named(cells)}" for side, cells in ((a, here), (b, there)))
        raise UserError(f"There is no finished cell that both have: {has}.{a.unfinished() or b.unfinished()}")
    return [(Cell(here[key]), Cell(there[key])) for key in chosen]


def _named(cells: Collection[tuple[str, str]]) -> str:
    """The first of them."""
    names = ["/".join(filter(None, key)) for key in cells]
    more = [f"{len(names) - _NAMED:,} more"] if len(names) > _NAMED else []
    return ", ".join([*names[:_NAMED], *more]) or "none"
