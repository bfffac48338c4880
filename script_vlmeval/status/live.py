"""The command: the table, kept up to date on a terminal as long as anything runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import UserError
from ..progress import Pace, is_terminal, span, speed
from .state import CellState
from .watch import Watch
from .words import WIDTH, table

_EVERY = 2.0  # seconds between looks,
_SHARE = 4  # and so many times as long as a look takes, if that is more
_SILENCE = 60.0  # seconds without a new answer that are worth a word


def command(work_dir: Path, live: bool) -> int:
    """Prints the table; the exit status: 0 when every cell is done and its answers are there, else 1. UserError: there is none.

    live: on a terminal the table is kept up to date until nothing runs any more, or Ctrl-C, whose status is 0.
    """
    watch = Watch(work_dir)
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
    return 0 if all(cell.complete for cell in cells) else 1


def _followed(watch: Watch, cells: list[CellState]) -> list[CellState]:
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
    room = max(3, shutil.get_terminal_size((WIDTH, 24)).lines - 1)
    if len(lines) <= room:
        return lines
    return [*lines[: room - 2], f"... {len(lines) - room + 1} more lines", lines[-1]]


def _paint(lines: Sequence[str], height: int) -> None:
    """Writes over the last `height` lines, at once and line by line, so that nothing flickers. Too long a line does not wrap."""
    up = f"\r\x1b[{height}A" if height else ""
    sys.stdout.write("".join(["\x1b[?7l", up, *(f"{line}\x1b[K\n" for line in lines), "\x1b[J\x1b[?7h"]))
    sys.stdout.flush()
