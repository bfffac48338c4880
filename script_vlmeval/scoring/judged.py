"""Figures from what a judge model said of each answer.

Replies stand in the order of the rows; None is a reply that could not be parsed even after retries: it counts as no, as the least
number of points, and in `judge_unparsable`. An empty prediction is wrong whatever was said of it, and never unparsable.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .tasks import by_task, task_mean, task_points
from .verdicts import Row, Verdicts, breakdown, error_of, mean, prediction_of, require

ABILITIES = ("rec", "ocr", "know", "gen", "spat", "math")
LEAST = (1.0, 1.0)  # of MLVU's two scores


class Reply(Protocol):
    """What `videoqa_judged` reads of a judge's reply: whether the answer is right, and 0..5 points."""

    @property
    def yes(self) -> bool: ...

    @property
    def score(self) -> float: ...


def videoqa_judged(rows: Sequence[Row], replies: Sequence[Reply | None]) -> Verdicts:
    """`judge_acc` (percent said to be right, of all rows), `stderr`, `judge_score` (mean of 0..5), `judge_unparsable` (a count),
    `type/x` (of `judge_acc`)."""
    require(rows)
    told = [None if reply is None else (reply.yes, reply.score) for reply in replies]
    kept = [said if prediction_of(row) else (False, 0.0) for row, said in zip(rows, told, strict=True)]
    scores = [float(said is not None and said[0]) for said in kept]
    metrics = {"judge_acc": 100 * mean(scores), **error_of(scores, rows)}
    metrics["judge_score"] = mean([said[1] if said else 0.0 for said in kept])
    metrics["judge_unparsable"] = float(kept.count(None))
    metrics |= breakdown(rows, scores, {"type": "type"})
    return Verdicts(["" if said is None else "yes" if said[0] else "no" for said in kept], scores, metrics)


def mmvet(rows: Sequence[Row], scores: Sequence[float | None]) -> Verdicts:
    """MM-Vet from scores of 0..1: `Overall` (100 x mean), `stderr`, `judge_unparsable`, and the six abilities by name, each over
    the rows whose `category` lists it."""
    require(rows)
    kept = [score if prediction_of(row) else 0.0 for row, score in zip(rows, scores, strict=True)]
    values = [score or 0.0 for score in kept]
    metrics = {"Overall": 100 * mean(values), **error_of(values, rows), "judge_unparsable": float(kept.count(None))}
    for ability in ABILITIES:
        tested = [v for row, v in zip(rows, values, strict=True) if ability in _abilities(row)]
        if tested:
            metrics[ability] = 100 * mean(tested)
    return Verdicts(["" if score is None else f"{score:g}" for score in kept], values, metrics)


def _abilities(row: Row) -> set[str]:
    return {ability.strip() for ability in row.get("category", "").split(",")}


def mlvu_open(rows: Sequence[Row], scores: Sequence[tuple[float, float] | None]) -> Verdicts:
    """MLVU's open tasks from two scores of 1..5 each: `G-Avg` is the mean over tasks of the mean sum (2..10), then `stderr`,
    `judge_unparsable` and `task/x`. What cannot be parsed and an empty prediction get the least there is, 1 and 1."""
    require(rows)
    kept = [pair if prediction_of(row) else LEAST for row, pair in zip(rows, scores, strict=True)]
    sums = [sum(LEAST if pair is None else pair) for pair in kept]
    points = task_points(rows, sums)
    metrics = {"G-Avg": task_mean(rows, sums), **error_of(points, rows, scale=1), "judge_unparsable": float(kept.count(None))}
    metrics |= {f"task/{task}": mean([sums[i] for i in members]) for task, members in by_task(rows).items() if task}
    worth = [(total - sum(LEAST)) / (10 - sum(LEAST)) for total in sums]
    return Verdicts(["" if pair is None else f"{pair[0]:g} + {pair[1]:g}" for pair in kept], worth, metrics, points)
