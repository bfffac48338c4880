"""Means over tasks, each counting alike however many questions it has."""

from __future__ import annotations

from collections.abc import Sequence

from .points import of_strata
from .verdicts import Row, grouped, image_of, mean


def by_task(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The places of the rows of each `task_type`."""
    groups = grouped([row.get("task_type", "").strip() for row in rows], [float(i) for i in range(len(rows))])
    return {task: [int(i) for i in members] for task, members in groups.items()}


def task_mean(rows: Sequence[Row], scores: Sequence[float]) -> float:
    """The mean of the tasks' means."""
    return mean([mean([scores[i] for i in members]) for members in by_task(rows).values()])


def task_points(rows: Sequence[Row], scores: Sequence[float], scale: float = 1.0) -> list[float]:
    """The points of scale x `task_mean`, tasks being independent, for errors that are clustered by video."""
    tasks = [row.get("task_type", "").strip() for row in rows]
    return of_strata(scores, tasks, [image_of(row) for row in rows], scale / len(set(tasks)))
