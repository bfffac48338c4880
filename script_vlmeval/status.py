"""How far the cells under a work dir are, from the disk alone, also while other processes work on them.

Nothing is written; a lock is tried for an instant, which a starting run expects.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from .cells import Config
from .errors import UserError
from .files import disk, read_json
from .progress import Pace, is_terminal, percent, span, speed
from .store import CELL, FAILURE, LOCK, RESULT, failure, held, written

T = TypeVar("T")
_Files: TypeAlias = "dict[str, os.DirEntry[str]]"  # name -> file

DONE, FAILED_ROWS, RUNNING, WAITING = "done", "failed rows", "running", "waiting"
PARTIAL, FAILED, MISSING = "partial", "failed", "missing"
_ORDER = (DONE, FAILED_ROWS, RUNNING, WAITING, PARTIAL, FAILED, MISSING)
_SINGLY = 60  # cells that are listed one by one
_EVERY = 2.0  # seconds between looks,
_SHARE = 4  # and so many times as long as a look takes, if that is more
_SILENCE = 60.0  # seconds without a new answer that are worth a word
_WIDTH = 130  # characters in a line where there is no terminal


@dataclass(frozen=True)
class CellState:
    """One cell: a state of those above, in numbers and words.

    rows: 0 where that is not known. answers: of a finished cell those that are no failures, of any other all that are there.
    score: of a finished cell. reason: what is wrong, if anything.
    """

    config: str
    benchmark: str
    state: str
    rows: int
    answers: int
    failed: int = 0
    score: str = ""
    reason: str = ""

    @property
    def active(self) -> bool:
        """Whether a run holds it."""
        return self.state in (RUNNING, WAITING)


def states(work_dir: Path) -> list[CellState]:
    """Every cell under a folder. UserError when there is no such folder, or it cannot be read."""
    return _Watch(work_dir).look()


def table(states: Sequence[CellState]) -> str:
    """Cell by cell, or of many cells benchmark by benchmark with what is wrong; all of them in the last line."""
    width = shutil.get_terminal_size((_WIDTH, 24)).columns
    lines = _singly(states) if len(states) <= _SINGLY else [*_together(states), *_wrong(states, width)]
    return "\n".join([*(_cut(line, width) for line in lines), _totals(states)])


def command(work_dir: Path, live: bool) -> int:
    """Prints the table; the exit status: 0 when every cell is done, else 1. UserError where there is no cell.

    live: on a terminal the table is kept up to date until nothing runs any more, or Ctrl-C, whose status is 0.
    """
    watch = _Watch(work_dir)
    cells = watch.look()
    if not cells:
        raise UserError(f"There are no cells in '{work_dir}': name the --work-dir of a run, or start one first.")
    if live and is_terminal(sys.stdout) and any(cell.active for cell in cells):
        try:
            cells = _followed(watch, cells)
        except KeyboardInterrupt:
            print("\x1b[?7h")  # the picture may be half painted
            return 0
    else:
        print(table(cells))
    return 0 if all(cell.state == DONE for cell in cells) else 1


# the disk -------------------------------------------------------------------------------------------------------------------


class _Watch:
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
        return self._once(folder / RESULT, _stamp(files, [RESULT]), lambda: _result(folder)) if RESULT in files else None

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
    try:
        config = Config.parse(name)
    except UserError:
        return "~", name
    size = float(config.budget.lstrip("r").partition("k")[0].removesuffix("pct") or 0)
    return config.model, not config.full, -size, config.budget, config.method


# words ----------------------------------------------------------------------------------------------------------------------


def _singly(cells: Sequence[CellState]) -> list[str]:
    heads = "configuration", "benchmark", "state", "answers", "%", "score", "reason"
    lines = [(c.config, c.benchmark, c.state, *_counts([c]), c.score, c.reason) for c in cells]
    return _aligned([heads, *lines], left={0, 1, 2, 6})


def _together(cells: Sequence[CellState]) -> list[str]:
    """A line for each benchmark."""
    there = {cell.state for cell in cells}
    columns = [state for state in _ORDER if state in there]
    groups = defaultdict(list)
    for cell in cells:
        groups[cell.benchmark].append(cell)
    lines = []
    for benchmark, group in sorted(groups.items()):
        number = Counter(cell.state for cell in group)
        lines.append((benchmark, str(len(group)), *(f"{number[state] or ''}" for state in columns), *_counts(group)))
    return _aligned([("benchmark", "cells", *columns, "answers", "%"), *lines], left={0})


def _wrong(cells: Sequence[CellState], width: int) -> list[str]:
    """The cells with which something is wrong, by reason."""
    groups = defaultdict(list)
    for cell in cells:
        if cell.reason and cell.state != DONE:
            groups[cell.state, cell.reason].append(_plain(f"{cell.config}/{cell.benchmark}"))
    lines = []
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    for (state, reason), names in groups.items():
        wrapper.initial_indent, wrapper.subsequent_indent = "", "  "
        lines += wrapper.wrap(_plain(f"{state}: {reason}"))
        wrapper.initial_indent = wrapper.subsequent_indent = "    "
        lines += wrapper.wrap(", ".join(names))
    return lines


def _totals(cells: Sequence[CellState]) -> str:
    number = Counter(cell.state for cell in cells)
    counts = ", ".join(f"{number[state]:,} {state}" for state in _ORDER if number[state])
    rows = sum(cell.rows for cell in cells)
    share = f"; {percent(sum(cell.answers for cell in cells if cell.rows), rows)} of {rows:,} answers" if rows else ""
    return f"{len(cells):,} {'cell' if len(cells) == 1 else 'cells'}: {counts}{share}"


def _counts(cells: Sequence[CellState]) -> tuple[str, str]:
    """Answers of rows, and the share: for the columns."""
    answers, rows = sum(cell.answers for cell in cells), sum(cell.rows for cell in cells)
    if not all(cell.rows for cell in cells):
        return f"{answers:,}/?", ""
    return f"{answers:,}/{rows:,}", percent(answers, rows).removesuffix(" %")


def _aligned(lines: Sequence[Sequence[str]], left: Collection[int]) -> list[str]:
    """In columns, without those that are empty."""
    columns = [(i, [_plain(text) for text in column]) for i, column in enumerate(zip(*lines, strict=True)) if any(column[1:])]
    padded = []
    for i, column in columns:
        width = max(map(len, column))
        padded.append([text.ljust(width) if i in left else text.rjust(width) for text in column])
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def _plain(text: str) -> str:
    """In one line, without what a terminal would obey."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: max(0, width - 3)]}..."


# live -----------------------------------------------------------------------------------------------------------------------


def _followed(watch: _Watch, cells: list[CellState]) -> list[CellState]:
    """Shows the table, in place, until nothing runs any more; the cells at the end."""
    pace, begun, height, cost = Pace(), time.monotonic(), 0, 0.0
    while True:
        now = time.monotonic()
        pace.see(sum(cell.answers for cell in cells), now)
        lines = table(cells).split("\n")
        if not any(cell.active for cell in cells):
            _paint(lines, height)
            return cells
        lines = _fitting([*lines[:-1], lines[-1] + _forecast(cells, pace, begun, now)])
        _paint(lines, height)
        height = len(lines)
        time.sleep(max(_EVERY, _SHARE * cost))
        looked = time.monotonic()
        cells = watch.look()
        cost = time.monotonic() - looked


def _forecast(cells: Iterable[CellState], pace: Pace, begun: float, now: float) -> str:
    """How fast it goes, and how long the cells that are being worked on will take."""
    silence = now - (pace.since or begun)
    if silence > _SILENCE:
        return f"; no new answers for {span(silence)}"
    left = pace.left(sum(cell.rows - cell.answers for cell in cells if cell.active and cell.rows))
    return "" if left is None or pace.rate is None else f"; {speed(pace.rate)}, about {span(left)} left"


def _fitting(lines: list[str]) -> list[str]:
    """As many as the terminal has room for, the last among them."""
    room = max(3, shutil.get_terminal_size((_WIDTH, 24)).lines - 1)
    if len(lines) <= room:
        return lines
    return [*lines[: room - 2], f"... {len(lines) - room + 1} more lines", lines[-1]]


def _paint(lines: Sequence[str], height: int) -> None:
    """Writes over the last `height` lines, at once and line by line, so that nothing flickers. Too long a line does not wrap."""
    up = f"\r\x1b[{height}A" if height else ""
    sys.stdout.write("".join(["\x1b[?7l", up, *(f"{line}\x1b[K\n" for line in lines), "\x1b[J\x1b[?7h"]))
    sys.stdout.flush()
