"""What a rule hands back, and what all rules share: means, breakdowns by column, standard errors."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UserError

Row = Mapping[str, str]


@dataclass(frozen=True)
class Verdicts:
    """What was read from each prediction, what it is worth (0..1), and the metrics: percent, MME's in points. The first leads.

    points: what each row adds to the main figure (`points`), whose mean is that figure; None where it is 100 x what it is worth.
    """

    read: list[str]
    per_sample: list[float]
    metrics: dict[str, float]
    points: list[float] | None = None

    def pointed(self) -> list[float]:
        """The points, spelt out."""
        return [100 * worth for worth in self.per_sample] if self.points is None else self.points


def image_of(row: Row) -> str:
    """What tells a row's picture or video from another's: rows of one picture are not independent."""
    names = ("image_path", "image", "video_path", "video")
    return next((row[name] for name in names if row.get(name)), row.get("index", ""))


def prediction_of(row: Row) -> str:
    """What the model said, without white space around it. An empty prediction is no answer, and wrong in every rule."""
    return row.get("prediction", "").strip()


def name_of(row: Row) -> str:
    """How a message names a row."""
    return f"row '{row.get('index', '')}'"


def require(rows: Sequence[Row]) -> None:
    """UserError when there is nothing to score."""
    if not rows:
        raise UserError("There is no answered row to score.")


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return sum(values) / len(values) if values else math.nan


def grouped(keys: Iterable[str], values: Sequence[float]) -> dict[str, list[float]]:
    """Values by key, keys sorted."""
    groups: dict[str, list[float]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return dict(sorted(groups.items()))


def breakdown(rows: Sequence[Row], scores: Sequence[float], columns: Mapping[str, str]) -> dict[str, float]:
    """Means in percent as `<label>/<cell>` for each label -> column that the rows have; rows with an empty cell are left out."""
    return {
        f"{label}/{cell}": 100 * mean(values)
        for label, column in columns.items()
        for cell, values in grouped((row.get(column, "").strip() for row in rows), scores).items()
        if cell
    }


def with_categories(metrics: Mapping[str, float], rows: Sequence[Row], scores: Sequence[float]) -> dict[str, float]:
    """Metrics, and behind them the mean in percent of each `category` under its bare name, where no metric has it."""
    by_name = grouped((row.get("category", "") for row in rows), scores)
    return {**metrics, **{name: 100 * mean(values) for name, values in by_name.items() if name and name not in metrics}}


def accuracy(
    rows: Sequence[Row],
    read: Sequence[str],
    scores: Sequence[float],
    columns: Mapping[str, str] | None = None,
    main: str = "Overall",
) -> Verdicts:
    """Verdicts whose main figure is the mean of the rows, with its standard error and breakdowns."""
    metrics = {main: 100 * mean(scores), **error_of(scores, rows), **breakdown(rows, scores, columns or {})}
    return Verdicts(list(read), list(scores), metrics)


def error_of(scores: Sequence[float], rows: Sequence[Row], scale: float = 100) -> dict[str, float]:
    """`stderr` of scale x the rows' mean, clustered by picture or video; nothing where it is undefined. Points have scale 1."""
    error = scale * standard_error(scores, [image_of(row) for row in rows])
    return {} if math.isnan(error) else {"stderr": error}


def standard_error(values: Sequence[float], clusters: Sequence[str] | None = None) -> float:
    """Standard error of a mean; with `clusters`, rows of one cluster may depend on each other. NaN below two clusters."""
    centre = mean(values)
    sums: dict[str, float] = defaultdict(float)
    for i, value in enumerate(values):
        sums[clusters[i] if clusters is not None else str(i)] += value - centre
    n = len(sums)
    if n < 2:
        return math.nan
    return math.sqrt(n / (n - 1) * sum(s * s for s in sums.values())) / len(values)
