"""What is known of a cell's figures beside the score: intervals and estimates. Nothing is said where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..draw import Row, number

if TYPE_CHECKING:
    from ..stats import Estimate
    from .evidence import Evidence


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % interval."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


def key(row: Row) -> tuple[str, str]:
    """What evidence calls a cell."""
    return str(row.config), row.benchmark


def of(estimate: Estimate | None) -> Interval | None:
    """The interval of an estimate that has one."""
    ends = (None, None) if estimate is None else (number(estimate.low), number(estimate.high))
    return None if ends[0] is None or ends[1] is None else Interval(ends[0], ends[1])


def score(row: Row, evidence: Evidence) -> Interval | None:
    """Of a cell's score: as the rows say or, where they are not known one by one, by its standard error."""
    found = of(evidence.interval.get(key(row)))
    if found is None and row.half is not None and number(row.score) is not None:
        return Interval(row.score - row.half, row.score + row.half)
    return found


def retention(row: Row, evidence: Evidence) -> Interval | None:
    return None if row.retention is None else of(evidence.retention.get(key(row)))


def half(interval: Interval | None) -> float | None:
    return None if interval is None else interval.half


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def columns(label: str, estimate: Estimate | None) -> dict[str, Any]:
    """An estimate and its ends as three columns."""
    low, high = ends(of(estimate))
    value = None if estimate is None else number(estimate.value)
    return {label: value, f"{label}, 95% low": low, f"{label}, 95% high": high}
