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
    """Cells of one model on one benchmark with the same rows of the same table: worth, points (rows, cells).

    others: cells of that model and benchmark with other rows, in panels of their own.
    """

    rows: tuple[Row, ...]
    others: tuple[Row, ...]
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
    """The rows in a file; None where there is none or it is damaged. `load_worth` says what is wrong."""
    try:
        return load_worth(path) if path.exists() else None
    except UserError:
        return None


def load_worth(path: Path) -> Worths:
    """The rows in a file. UserError, with the number of the line, where it is torn or not of this program."""
    places: dict[str, int] = {}
    found = list[_Line]()
    for place, text in enumerate(lines(path), 1):
        line = _line(text, f"line {place:,}")
        if (first := places.setdefault(line.index, place)) != place:
            raise UserError(f"line {place:,} is about the same row as line {first:,}")
        found.append(line)
    reads = tuple(line.read for line in found)
    said = all(line.failed or line.read is not None for line in found)
    worth, points = (np.array([getattr(line, name) for line in found], dtype=np.float64) for name in ("worth", "points"))
    return Worths(tuple(places), tuple(line.cluster for line in found), reads if said else None, worth, points)


@dataclass(frozen=True)
class _Line:
    """What a line says of a row; not numbers where it says null."""

    index: str
    cluster: str
    read: str | None
    failed: bool
    worth: float
    points: float


def _line(text: bytes, where: str) -> _Line:
    """UserError for anything that is no such line."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not JSON") from None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("index", "cluster")):
        raise UserError(f"{where} does not name a row and its picture ('index', 'cluster')")
    worth = _number(record, "worth", where)
    if worth < 0 or worth > 1:
        raise UserError(f"{where} has a row that is worth {worth:g}: not from 0 to 1")
    points = _number(record, "points", where) if "points" in record else 100 * worth
    failed = bool(record.get("failed"))
    read = record.get("read") if not failed and isinstance(record.get("read"), str) else None
    interned = None if read is None else sys.intern(read)
    return _Line(sys.intern(record["index"]), sys.intern(record["cluster"]), interned, failed, worth, points)


def _number(record: dict[str, Any], name: str, where: str) -> float:
    """NaN for null; UserError for what is neither."""
    if name in record and record[name] is None:
        return math.nan
    if (found := number(record.get(name))) is None:
        raise UserError(f"{where} has no number as '{name}'")
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
        others = tuple(row for another in groups if another is not group for row, _ in another)
        worth, points = (np.stack([getattr(one, name) for one in known], axis=1) for name in ("worth", "points"))
        yield Panel(cells, others, known[0].clusters, tuple(one.reads for one in known), worth, points)


def _checked(row: Row, work_dir: Path) -> Worths | None:
    """None, with a warning, where the rows are not those that the result is about. Where no row has points, the score is another
    figure than what rows are worth: there is no interval, and what was read and right is known."""
    path = worth_file(row, work_dir)
    if not path.exists():
        return None
    try:
        worths = load_worth(path)
        why = unlike(worths, row)
    except UserError as error:
        why = str(error)
    if why:
        _log.warning("%s: left out, %s: `%s` writes it anew", path, why, again(path.parent))
    return None if why else worths


def worth_file(row: Row, work_dir: Path) -> Path:
    """Where a cell says what its rows are worth; it need not be there."""
    return work_dir / str(row.config) / row.folder / WORTH


def again(folder: Path) -> str:
    """The command that scores a cell's answers again and writes what its rows are worth."""
    return f"run.py --mode eval --model {folder.parent.name} --data {folder.name} --work-dir {folder.parents[1]}"


def unlike(worths: Worths, row: Row) -> str:
    """Why these rows are not those that a result is about, '' where they are: also where the points of some are not known, but
    not where those of all are not."""
    if not worths.indices:
        return "it has no rows"
    if len(worths.indices) != row.n:
        return f"it has {len(worths.indices):,} of the {row.n:,} rows"
    unknown = int(np.isnan(worths.points).sum())
    if 0 < unknown < row.n:
        return f"it does not say what {unknown:,} of the {row.n:,} rows add to the score"
    total = float(worths.points.mean())
    if unknown or math.isclose(total, row.score, rel_tol=1e-4, abs_tol=_ROUNDED):
        return ""
    return f"its rows come to {total:.4f} and the score is {row.score:.4f}"


def loyalty(reads: Reads | None, theirs: Reads | None, clusters: Sequence[str]) -> Estimate | None:
    """Percent of rows from which the same was read as from the other's answer; None where a scorer does not say what it read. An
    answer that failed agrees with nothing; two from which nothing was read agree."""
    if not reads or not theirs:
        return None
    return stats.share([a == b and a is not None for a, b in zip(reads, theirs, strict=True)], clusters)
