"""What a scorer says, and scoring by a rule of ours (`scoring.RULES`): the files beside a workbook, and who differs where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from ..scoring import Rule, Verdicts
from .workbook import Row, answered_rows, write_lines

V = TypeVar("V")
_NAMED = 20  # rows that are named where two scorers differ


@dataclass(frozen=True)
class Score:
    """A benchmark's figures by one scorer, in percent or in MME's points.

    per_sample: index -> 0..1, None where the scorer does not say. points: index -> what the row adds to the main figure, which is
    the mean of these (`scoring.points`); None where rows do not explain it. read: index -> what was read from the answer, None
    where the scorer does not say. others: what other scorers make of the same answers; their figures never mix with these.
    unscored: why there is no figure, where there is none; submission: the file to send in.
    """

    metrics: dict[str, float]
    primary: str
    scorer: str
    per_sample: dict[str, float] | None = None
    others: tuple[Score, ...] = ()
    unscored: str = ""
    submission: str = ""
    differs: tuple[str, ...] | None = None  # of another scorer: indices of rows that it scores otherwise than the main one
    notes: tuple[str, ...] = ()
    judge: str = ""  # the judge's label
    read: dict[str, str] | None = field(default=None, repr=False)
    points: dict[str, float] | None = field(default=None, repr=False)

    def beside(self, other: Score) -> Score:
        """This score, with another scorer's beside it and the rows that they disagree on, where both say what a row is worth (and
        not what a group of rotations is)."""
        mine, theirs = self.per_sample or {}, other.per_sample or {}
        if mine.keys() != theirs.keys():
            return replace(self, others=(*self.others, other))
        apart = tuple(i for i in mine if not math.isclose(mine[i], theirs[i], abs_tol=1e-9))
        return replace(self, others=(*self.others, replace(other, differs=apart)))

    def said(self) -> dict[str, Any]:
        """For result.json."""
        told: dict[str, Any] = {"scorer": self.scorer, "primary": self.primary, "metrics": self.metrics}
        if self.judge:
            told["judge"] = self.judge
        if self.differs is not None:
            told |= {"rows that differ": len(self.differs), "such as": list(self.differs[:_NAMED])}
        return told


def by_rule(rule: Rule, workbook: Path, rows: Sequence[Row] | None = None) -> Score:
    """The score of a workbook by a rule; `<stem>_verdicts.xlsx` says what was read from each answer, `_verdicts.csv` has the
    figures. rows: those of the workbook, where they were read before. UserError for a workbook without answers, or rows that the
    rule cannot be applied to."""
    rows = answered_rows(workbook) if rows is None else rows
    verdicts = rule.function(rows)
    write_verdicts(workbook, rows, verdicts)
    label = f"script_vlmeval {rule.label}"
    read = by_index(rows, verdicts.read)
    worth, points = by_index(rows, verdicts.per_sample), by_index(rows, verdicts.pointed())
    return Score(verdicts.metrics, rule.primary, label, worth, read=read, points=points)


def write_verdicts(
    workbook: Path,
    rows: Sequence[Row],
    verdicts: Verdicts,
    mark: str = "verdicts",
    more: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """What was read from each answer and what it is worth, in files beside the workbook, which has the other columns. more:
    further columns."""
    answer = next((column for column in ("answer", "answers") if rows and column in rows[0]), "")
    kept, further = ["index", "prediction", *([answer] if answer else [])], more or {}
    lines = zip(
        ([row[column] for column in kept] for row in rows), verdicts.read, verdicts.per_sample, *further.values(), strict=True
    )
    write_lines(
        workbook.with_name(f"{workbook.stem}_{mark}.xlsx"),
        [*kept, "extracted", "hit", *further],
        ([*cells, *rest] for cells, *rest in lines),
        lean=True,
    )
    pd.DataFrame([verdicts.metrics]).to_csv(workbook.with_name(f"{workbook.stem}_{mark}.csv"), index=False)


def by_index(rows: Sequence[Row], values: Sequence[V]) -> dict[str, V]:
    """Values that stand in the order of the rows."""
    return {row["index"]: value for row, value in zip(rows, values, strict=True)}
