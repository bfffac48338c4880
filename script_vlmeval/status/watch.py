"""The cells of a folder, looked at again and again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from ..cells import Config
from ..errors import UserError
from ..files import disk, read_json
from ..store import CELL, FAILURE, LOCK, PREDICTIONS, RESULT, failure, held, written
from .state import DONE, FAILED, FAILED_ROWS, MISSING, PARTIAL, RUNNING, WAITING, CellState

T = TypeVar("T")
_Files: TypeAlias = "dict[str, os.DirEntry[str]]"  # name -> file

_BLOCK = 1 << 20  # bytes that are read at once


def states(work_dir: Path) -> list[CellState]:
    """Every cell under a folder. UserError when there is no such folder, or it cannot be read."""
    return Watch(work_dir).look()


class Watch:
    """Looks at a work dir again and again; a file that has not changed is not read twice."""

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir
        self._known: dict[Path, tuple[Any, Any]] = {}  # path -> its stamp, what was found

    def look(self) -> list[CellState]:
        if not self._work_dir.is_dir():
            raise UserError(f"There is no folder '{self._work_dir}': name the --work-dir of a run.")
        with disk(self._work_dir):
            folders = [folder for config in _folders(self._work_dir) for folder in _folders(config)]
        cells = [cell for folder in folders if (cell := self._cell(folder)) is not None]
        return sorted(_completed(cells), key=lambda cell: (_place(cell.config), cell.benchmark))

    def _cell(self, folder: Path) -> CellState | None:
        """None for a folder that is no cell's."""
        for _ in range(3):  # a run at work replaces and removes files
            try:
                return self._looked(folder)
            except FileNotFoundError:
                continue
            except (OSError, UserError) as error:
                why = getattr(error, "strerror", None) or error
                return CellState(folder.parent.name, folder.name, MISSING, 0, 0, reason=f"cannot be read: {why}")
        return None

    def _looked(self, folder: Path) -> CellState | None:
        files = _files(folder)
        if finished := self._finished(folder, files):
            return finished
        if not ({CELL, RESULT, FAILURE, LOCK} & files.keys() or _answers(files)):
            return None
        locked = LOCK in files and held(folder)
        if not locked and (finished := self._finished(folder, _files(folder))):  # it ended between the two looks
            return finished
        return self._unfinished(folder, files, locked)

    def _finished(self, folder: Path, files: _Files) -> CellState | None:
        if RESULT not in files:
            return None
        found = self._once(folder / RESULT, _stamp(files, [RESULT]), lambda: _result(folder))
        if found is None:
            return None
        names = _answers(files)
        there = self._once(folder / PREDICTIONS, _stamp(files, names), lambda: sum(_lines(folder / name) for name in names))
        return found.without(max(0, found.rows - there))

    def _unfinished(self, folder: Path, files: _Files, locked: bool) -> CellState:
        rows = self._once(folder / CELL, _stamp(files, [CELL]), lambda: _whole((read_json(folder / CELL) or {}).get("rows")))
        answers = self._once(folder, _stamp(files, _answers(files)), lambda: written(folder))
        bad = [RESULT] * (RESULT in files) + [CELL] * (rows is None and (CELL in files or answers > 0))
        reason = f"no readable {' and '.join(bad)}" if bad else ""
        if locked:
            state = RUNNING if answers else WAITING
        elif FAILURE in files:
            given = self._once(folder / FAILURE, _stamp(files, [FAILURE]), lambda: failure(folder))
            state, reason = FAILED, given or reason or "no reason is given"
        else:
            state = PARTIAL if answers else MISSING
        return CellState(folder.parent.name, folder.name, state, rows or 0, answers, reason=reason)

    def _once(self, path: Path, stamp: object, read: Callable[[], T]) -> T:
        """What `read` finds; not read again while the stamp stays the same."""
        known = self._known.get(path)
        if known is None or known[0] != stamp:
            known = self._known[path] = stamp, read()
        found: T = known[1]
        return found


def _folders(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError), os.scandir(folder) as entries:  # just removed
        return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    return []


def _files(folder: Path) -> _Files:
    with os.scandir(folder) as entries:
        return {entry.name: entry for entry in entries}


def _answers(files: _Files) -> list[str]:
    return sorted(name for name in files if name.startswith("predictions") and name.endswith(".jsonl"))


def _stamp(files: _Files, names: Iterable[str]) -> list[tuple[Any, ...]]:
    """What changes when one of these files does."""
    found = [(name, files[name].stat()) for name in names if name in files]
    return [(name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _result(folder: Path) -> CellState | None:
    """The state of a finished cell; None when its result cannot be read as one."""
    found = read_json(folder / RESULT) or {}
    rows, failed, score = _whole(found.get("n")), _whole(found.get("failed")), found.get("score")
    if rows is None or failed is None:
        return None
    reasons = found.get("failures")
    first = [str(reason) for reason in reasons.values()][:1] if isinstance(reasons, dict) else []
    wrong = ": ".join([f"{failed:,} {'row' if failed == 1 else 'rows'}", *first]) if failed else ""
    figure = f"{score:.2f}" if isinstance(score, int | float) and not isinstance(score, bool) else ""
    reason = wrong or (f"not scored: {found['unscored']}" if found.get("unscored") else "")
    state = FAILED_ROWS if failed else DONE
    return CellState(folder.parent.name, folder.name, state, rows, max(0, rows - failed), failed, figure, reason)


def _lines(path: Path) -> int:
    """Complete lines in a file, whatever they say. FileNotFoundError where it has just been merged into another."""
    with open(path, "rb", buffering=0) as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(_BLOCK), b""))


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _completed(cells: Sequence[CellState]) -> list[CellState]:
    """With the rows of cells that were not begun from others on the same benchmark, and no more answers than rows: one that was
    asked twice has two lines."""
    sizes = defaultdict(set)
    for cell in cells:
        sizes[cell.benchmark].add(cell.rows)
    found = []
    for cell in cells:
        others = list(filter(None, sizes[cell.benchmark]))
        rows = cell.rows or (others[0] if len(others) == 1 else 0)
        if rows and cell.state == PARTIAL and cell.answers >= rows:
            cell = replace(cell, reason=cell.reason or "not scored yet")
        if rows != cell.rows or cell.answers > rows > 0:
            cell = replace(cell, rows=rows, answers=min(rows, cell.answers))
        found.append(cell)
    return found


@cache
def _place(name: str) -> tuple[Any, ...]:
    """Of a configuration: model by model, the unpruned one first, then from the largest budget to the smallest."""
    if (config := Config.of_folder(name)) is None:
        return "~", name
    size = float(config.budget.lstrip("r").partition("k")[0].removesuffix("pct") or 0)
    return config.model, not config.full, -size, config.budget, config.method
