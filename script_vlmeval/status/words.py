"""Cells as a table: one by one, or many of them benchmark by benchmark."""

from __future__ import annotations

import shutil
import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence

from ..progress import percent
from .state import DONE, FAILED, FAILED_ROWS, MISSING, PARTIAL, RUNNING, WAITING, CellState

WIDTH = 130  # characters in a line where there is no terminal
_ORDER = (DONE, FAILED_ROWS, RUNNING, WAITING, PARTIAL, FAILED, MISSING)
_SINGLY = 60  # cells that are listed one by one


def table(states: Sequence[CellState]) -> str:
    """Cell by cell, or of many cells benchmark by benchmark with what is wrong; all of them in the last line."""
    width = shutil.get_terminal_size((WIDTH, 24)).columns
    lines = _singly(states) if len(states) <= _SINGLY else [*_together(states), *_wrong(states, width)]
    return "\n".join([*(_cut(line, width) for line in lines), _totals(states)])


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
        if cell.reason and (cell.lost or cell.state != DONE):
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
