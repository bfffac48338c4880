"""What is known of a cell's figures beside the score: intervals and estimates. Nothing is said where nothing is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..draw import Row, number

if TYPE_CHECKING:
    from ..stats import Estimate
    from .evidence import Evidence

_EVEN = 0.1  # of the longer arm of an interval: by how much the other one may be shorter where ± is said


@dataclass(frozen=True)
class Interval:
    """The ends of a 95 % interval."""

    low: float
    high: float

    def around(self, value: float) -> tuple[float, float]:
        """How far it goes down and up from its figure."""
        return value - self.low, self.high - value

    def said(self, value: float, digits: int = 1) -> str:
        """In words, beside its figure: ± where both arms are equally long, and else both ends. That of a share ends at 0 and 100:
        ± would go beyond."""
        down, up = self.around(value)
        if abs(down - up) <= _EVEN * max(down, up):
            return f"±{(down + up) / 2:.{digits}f}"
        return f"{self.low:.{digits}f} to {self.high:.{digits}f}"


def key(row: Row) -> tuple[str, str]:
    """What evidence calls a cell."""
    return str(row.config), row.benchmark


def of(estimate: Estimate | None) -> Interval | None:
    """The interval of an estimate that has one."""
    ends = (None, None) if estimate is None else (number(estimate.low), number(estimate.high))
    return None if ends[0] is None or ends[1] is None else Interval(ends[0], ends[1])


def score(row: Row, evidence: Evidence) -> Interval | None:
    """Of a cell's score: as the rows say or, where they are not known one by one, by its standard error. Of damaged rows none:
    that of another kind would pass for theirs."""
    found = of(evidence.interval.get(key(row)))
    if found is None and key(row) not in evidence.damaged and row.half is not None and number(row.score) is not None:
        return Interval(row.score - row.half, row.score + row.half)
    return found


def retention(row: Row, evidence: Evidence) -> Interval | None:
    return None if row.retention is None else of(evidence.retention.get(key(row)))


def ends(interval: Interval | None) -> tuple[float | None, float | None]:
    return (None, None) if interval is None else (interval.low, interval.high)


def columns(label: str, estimate: Estimate | None) -> dict[str, Any]:
    """An estimate, in percent, and its ends as three columns."""
    low, high = ends(of(estimate))
    value = None if estimate is None else number(estimate.value)
    return {f"{label} %": value, f"{label} 95% low": low, f"{label} 95% high": high}
