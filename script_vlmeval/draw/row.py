"""What is shown of a finished cell, and which cells may be compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..cells import Config

Z95 = 1.96
_ALIKE = 1.01  # how many times the fewest visual tokens the most may be where two count as equally many


@dataclass(frozen=True)
class Row:
    """A finished cell as its result.json (`data`) tells. Scores are in the metric's unit, retention in percent of unpruned."""

    config: Config
    benchmark: str
    score: float
    stderr: float | None
    n: int
    failed: int
    data: Mapping[str, Any]
    retention: float | None = None

    @property
    def metric(self) -> str:
        return str(self.data.get("primary", ""))

    @property
    def folder(self) -> str:
        """The benchmark's own name, also where scores by several scorers are told apart in `benchmark`."""
        return str(at(self.data, "cell.benchmark") or self.benchmark)

    @property
    def heading(self) -> str:
        """The benchmark with its metric, which those told apart already have."""
        return headed(self.benchmark, self.metric if self.benchmark == self.folder else "")

    @property
    def scorer(self) -> str:
        """Who scored, whatever VLMEvalKit's version."""
        return re.sub(r"^vlmeval \S+ ", "vlmeval ", str(self.data.get("scorer") or ""))

    @property
    def judge(self) -> str:
        return str(self.data.get("judge") or "")

    @property
    def unread(self) -> int:
        """Rows that count as wrong because what the judge said of them could not be read."""
        return int(number(at(self.data, "metrics.judge_unparsable")) or 0)

    @property
    def incomplete(self) -> bool:
        return self.failed > 0 or self.unread > 0

    @property
    def video(self) -> bool:
        return at(self.data, "tokens.frames") is not None

    @property
    def measured(self) -> float:
        """The visual tokens that were read, the mean over the layers; 0 where nothing was measured."""
        return number(at(self.data, "tokens.visual_kept")) or 0.0

    @property
    def named(self) -> float:
        """The number of tokens that the budget names; 0 for a share, a schedule and the unpruned model."""
        return float(self.config.budget) if self.config.budget.isdecimal() else 0.0

    @property
    def tokens(self) -> float:
        """The place on the budget axis: what was measured, as the number named where that is the same within 1 %."""
        few, many = sorted((self.named, self.measured))
        return self.named if 0 < many <= _ALIKE * few else self.measured

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval; None also where rows that are all alike say nothing of it."""
        return Z95 * self.stderr if self.stderr else None

    @property
    def floors(self) -> dict[str, float]:
        """What is reached without looking at the image, where it is stated."""
        levels = {
            "chance": number(at(self.data, "reference.chance")),
            "image-blind": number(at(self.data, "reference.blind")),
        }
        return {label: score for label, score in levels.items() if score is not None}

    @property
    def order(self) -> tuple[Any, ...]:
        """Model by model, the unpruned one first, then from the largest budget to the smallest, methods side by side."""
        size = self.named or self.measured
        return self.config.model, not self.config.full, -size, self.config.budget, self.config.method, self.benchmark


def peers(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows, of one model on one benchmark, that may be compared: those that read equally many visual tokens. From the
    fewest up, a new group begins where more than 1 % above the group's fewest were read. Rows without a measurement are in none.
    """
    groups: list[list[Row]] = []
    for row in sorted((row for row in rows if row.measured), key=lambda row: row.measured):
        if groups and row.measured <= _ALIKE * groups[-1][0].measured:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def headed(benchmark: str, metric: str) -> str:
    """A benchmark with its metric, where that is not plainly the overall score."""
    return benchmark if metric in ("", "Overall") else f"{benchmark} {metric}"


def number(value: Any) -> float | None:
    """A finite number, or None for anything else, also for an integer beyond what a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def at(data: Any, path: str) -> Any:
    """What lies at 'a.b' in nested mappings, or None."""
    for key in path.split("."):
        data = data.get(key) if isinstance(data, dict) else None
    return data
