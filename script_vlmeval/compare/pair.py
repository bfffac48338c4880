"""Two cells on the same rows, and what may be paired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import stats
from ..draw import Row, at
from ..errors import UserError
from ..files import dumps
from ..report.worth import loyalty
from ..stats import Difference, Estimate
from .cell import Cell


@dataclass(frozen=True)
class Pair:
    """Two cells on the same rows."""

    a: Cell
    b: Cell
    data: stats.Paired  # column 0: A, column 1: B
    difference: Difference
    loyalty: Estimate | None  # percent of rows from which the same was read; None where the scorer does not say

    @classmethod
    def of(cls, a: Cell, b: Cell) -> Pair:
        """UserError for cells that cannot be compared."""
        for what, get in _ALIKE.items():
            if get(a.row) != get(b.row):
                raise UserError(f"{what}: {get(a.row) or 'none'} in '{a.folder}', {get(b.row) or 'none'} in '{b.folder}'.")
        ours, theirs = a.worths, b.worths.like(a.worths)
        if theirs is None:
            raise UserError(f"other rows: '{a.folder}' and '{b.folder}' have {a.row.n:,} each, but not the same ones.")
        points, worth = (np.stack([getattr(x, name) for x in (ours, theirs)], axis=1) for name in ("points", "worth"))
        data = stats.Paired(points, ours.clusters, worth=worth)
        same = loyalty(ours.reads, theirs.reads, ours.clusters)
        return cls(a, b, data, data.difference(0, 1), same)

    def differing(self) -> list[str]:
        """The settings that are not equal, each as 'name: A's -> B's'."""
        a, b = ({**cell.settings, **_rescored(cell)} for cell in (self.a, self.b))
        names = [name for name in {**a, **b} if dumps(a.get(name)) != dumps(b.get(name))]
        return [f"{name}: {a.get(name, '(none)')} -> {b.get(name, '(none)')}" for name in names]

    def other_answers(self) -> list[str]:
        """The rows, in the table's order. UserError where a side's answers are not all there."""
        a, b = self.a.said(), self.b.said()
        for cell, said in ((self.a, a), (self.b, b)):
            there = sum(index in said for index in self.a.worths.indices)
            if there < self.a.row.n:
                raise UserError(f"'{cell.folder}' holds {there:,} of {self.a.row.n:,}")
        return [index for index in self.a.worths.indices if a[index] != b[index]]


_ALIKE: dict[str, Callable[[Row], Any]] = {
    "other numbers of rows": lambda row: row.n,
    "other tables (their digests differ)": lambda row: at(row.data, "fingerprint.data"),
    "other main figures": lambda row: row.metric,
    "other scorers": lambda row: row.scorer,
    "other judges": lambda row: row.judge,
}


def _rescored(cell: Cell) -> dict[str, Any]:
    """By what a cell was scored later, where that is not what answered it."""
    found = cell.row.data.get("rescored")
    return {f"{key}, of the scorer": value for key, value in found.items()} if isinstance(found, dict) else {}
