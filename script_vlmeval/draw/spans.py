"""How far from what was measured the truth may be: 95 % intervals, from the rows where these are known."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Protocol

from .mean import MEAN
from .row import Row


class Estimate(Protocol):
    """What `stats.Estimate` has."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Evidence(Protocol):
    """What is read here of a report's evidence; its keys are (str(config), row.benchmark), or str(config)."""

    @property
    def interval(self) -> Mapping[tuple[str, str], Estimate]: ...
    @property
    def retention(self) -> Mapping[tuple[str, str], Estimate]: ...
    @property
    def mean_retention(self) -> Mapping[str, Estimate]: ...
    @property
    def damaged(self) -> Container[tuple[str, str]]: ...


@dataclass(frozen=True)
class Span:
    low: float
    high: float

    def around(self, value: float) -> tuple[list[float], list[float]]:
        """How far down and up it goes from `value`, as matplotlib takes the errors of one point."""
        return [max(value - self.low, 0.0)], [max(self.high - value, 0.0)]


class Spans:
    """Without evidence, a score's interval is that of its standard error, and a retention has none."""

    def __init__(self, evidence: Evidence | None = None) -> None:
        self._evidence = evidence

    def score(self, row: Row) -> Span | None:
        """Of the row's main figure."""
        if row.benchmark == MEAN:
            return self._mean(row)
        found = self._evidence.interval.get((str(row.config), row.benchmark)) if self._evidence else None
        if span := _span(found):
            return span
        if row.half is None or (str(row.config), row.benchmark) in (self._evidence.damaged if self._evidence else ()):
            return None
        return Span(row.score - row.half, row.score + row.half)

    def retention(self, row: Row) -> Span | None:
        if row.benchmark == MEAN:
            return self._mean(row)
        return _span(self._evidence.retention.get((str(row.config), row.benchmark)) if self._evidence else None)

    def _mean(self, row: Row) -> Span | None:
        return _span(self._evidence.mean_retention.get(str(row.config)) if self._evidence else None)


def _span(found: Estimate | None) -> Span | None:
    """None also where an interval could not be had."""
    return Span(found.low, found.high) if found and math.isfinite(found.low) and math.isfinite(found.high) else None
