"""What each row of a cell is worth (`worth.jsonl`), and cells side by side that were measured on the same rows."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import stats
from ..draw import Row, at, number
from ..errors import UserError
from ..files import lines
from ..stats import Estimate
from ..store import WORTH

Floats: TypeAlias = NDArray[np.float64]
Reads: TypeAlias = tuple[str | None, ...]  # what the scorer read from each answer; None of a row that failed

_ROUNDED = 0.01  # by how much a score may differ from the mean of its rows' points: host scorers round
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worths:
    """A cell's rows. worth (n,) from 0 to 1, points (n,) whose mean is the score: not numbers where the scorer does not say.

    reads: None where the scorer does not say.
    """

    indices: tuple[str, ...]
    clusters: tuple[str, ...]
    reads: Reads | None
    worth: Floats
    points: Floats

    def like(self, other: Worths) -> Worths | None:
        """These rows in the order of the other's; None where they are not the same rows."""
        if self.indices == other.indices:
            return self if self.clusters == other.clusters else None
        place = {index: i for i, index in enumerate(self.indices)}
        if place.keys() != set(other.indices):
            return None
        order = [place[index] for index in other.indices]
        reads = tuple(self.reads[i] for i in order) if self.reads else None
        clusters = tuple(self.clusters[i] for i in order)
        return Worths(other.indices, clusters, reads, self.worth[order], self.points[order]).like(other)


@dataclass(frozen=True)
class Panel:
    """Cells of one model on one benchmark with the same rows of the same table: worth, points (rows, cells)."""

    rows: tuple[Row, ...]
    clusters: tuple[str, ...]
    reads: tuple[Reads | None, ...]
    worth: Floats
    points: Floats


def panels(rows: Sequence[Row], work_dir: Path) -> Iterator[Panel]:
    """Of finished cells, those that say what their rows are worth, benchmark by benchmark and model by model."""
    tables: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        tables[row.benchmark, row.config.model].append(row)
    for key in sorted(tables):
        yield from _side_by_side(tables[key], work_dir)


def read_worth(path: Path) -> Worths | None:
    """The rows in a file; None where there is none or, with a warning, where it is torn or not of this program."""
    if not path.exists():
        return None
    try:
        return _parse([json.loads(line) for line in lines(path)])
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, UserError, ValueError) as error:
        _log.warning("%s: left out, not the rows of a finished cell (%s: %s)", path, type(error).__name__, error)
        return None


def _parse(records: Sequence[dict[str, Any]]) -> Worths:
    indices = tuple(sys.intern(record["index"]) for record in records)
    clusters = tuple(sys.intern(record["cluster"]) for record in records)
    if len(set(indices)) < len(indices):
        raise ValueError("a row occurs twice")
    worth = np.array([_number(record["worth"]) for record in records], dtype=np.float64)
    if np.any((worth < 0) | (worth > 1)):
        raise ValueError("a row is worth less than 0 or more than 1")
    points = [
        _number(record["points"]) if "points" in record else 100 * value for record, value in zip(records, worth, strict=True)
    ]
    reads = [None if record.get("failed") else record.get("read") for record in records]
    said = all(record.get("failed") or isinstance(record.get("read"), str) for record in records)
    read = tuple(sys.intern(text) if text is not None else None for text in reads) if said else None
    return Worths(indices, clusters, read, worth, np.array(points, dtype=np.float64))


def _number(value: Any) -> float:
    """NaN for null; ValueError for what is neither."""
    if value is None:
        return math.nan
    if (found := number(value)) is None:
        raise ValueError(f"{value!r} is no number")
    return found


def _side_by_side(rows: Sequence[Row], work_dir: Path) -> Iterator[Panel]:
    """Rows of one model and benchmark; those measured on other rows, or on another table, have a panel of their own."""
    groups: list[list[tuple[Row, Worths]]] = []
    for row in rows:
        if (worths := _checked(row, work_dir)) is None:
            continue
        for group in groups:
            first, theirs = group[0]
            if at(first.data, "fingerprint.data") == at(row.data, "fingerprint.data") and (same := worths.like(theirs)):
                group.append((row, same))
                break
        else:
            groups.append([(row, worths)])
    for group in groups:
        cells, known = zip(*group, strict=True)
        worth, points = (np.stack([getattr(one, name) for one in known], axis=1) for name in ("worth", "points"))
        yield Panel(cells, known[0].clusters, tuple(one.reads for one in known), worth, points)


def _checked(row: Row, work_dir: Path) -> Worths | None:
    """None, with a warning, where the rows are not those that the result is about. Where no row has points, the score is another
    figure than what rows are worth: there is no interval, and what was read and right is known."""
    path = work_dir / str(row.config) / row.folder / WORTH
    if (worths := read_worth(path)) is None:
        return None
    if why := unlike(worths, row):
        _log.warning("%s: left out, %s", path, why)
        return None
    return worths


def unlike(worths: Worths, row: Row) -> str:
    """Why these rows are not those that a result is about, '' where they are: also where the points of some are not known, but
    not where those of all are not."""
    if len(worths.indices) != row.n:
        return f"it has {len(worths.indices):,} of the {row.n:,} rows"
    total = float(worths.points.mean()) if row.n else math.nan
    if np.isnan(worths.points).all() or math.isclose(total, row.score, rel_tol=1e-4, abs_tol=_ROUNDED):
        return ""
    return f"its rows come to {total:.4f} and the score is {row.score:.4f}"


def loyalty(reads: Reads | None, theirs: Reads | None, clusters: Sequence[str]) -> Estimate | None:
    """Percent of rows from which the same was read as from the other's answer; None where a scorer does not say what it read. An
    answer that failed agrees with nothing; two from which nothing was read agree."""
    if not reads or not theirs:
        return None
    return stats.share([a == b and a is not None for a, b in zip(reads, theirs, strict=True)], clusters)
