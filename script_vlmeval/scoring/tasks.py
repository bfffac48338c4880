"""Means over tasks, each counting alike however many questions it has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .verdicts import Row, grouped, image_of, mean, standard_error


def by_task(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The places of the rows of each `task_type`."""
    groups = grouped([row.get("task_type", "").strip() for row in rows], [float(i) for i in range(len(rows))])
    return {task: [int(i) for i in members] for task, members in groups.items()}


def task_mean(rows: Sequence[Row], scores: Sequence[float]) -> float:
    """The mean of the tasks' means."""
    return mean([mean([scores[i] for i in members]) for members in by_task(rows).values()])


def task_error(rows: Sequence[Row], scores: Sequence[float]) -> float:
    """Standard error of `task_mean`, tasks being independent, clustered by video in each. NaN where a task has one video."""
    tasks = by_task(rows).values()
    errors = [standard_error([scores[i] for i in members], [image_of(rows[i]) for i in members]) for members in tasks]
    return math.sqrt(sum(error**2 for error in errors)) / len(errors)
