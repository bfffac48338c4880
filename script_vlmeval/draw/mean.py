"""All benchmarks as one: mean retention and mean cost of the configurations that have them all."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from .row import Row, at, number

MEAN = "all benchmarks"  # stands where a row has its benchmark
LEAST = 3  # benchmarks that a mean is taken of
_MEANS = ("tokens.visual_kept", "efficiency.flops", "efficiency.prefill_flops")


def means(rows: Iterable[Row]) -> list[Row]:
    """A row for each configuration that has a retention on every benchmark on which its model's unpruned score is known, and
    on three at least; the score is the mean retention. None of models that read pictures here and videos there.
    """
    models = defaultdict[str, list[Row]](list)
    for row in rows:
        if row.retention is not None:
            models[row.config.model].append(row)
    return [row for model in models.values() for row in _of(model)]


def _of(rows: Sequence[Row]) -> list[Row]:
    """Of one model's rows."""
    wanted = {row.benchmark for row in rows if row.config.full}
    if len(wanted) < LEAST or len({row.video for row in rows}) > 1:
        return []
    cells = defaultdict[str, list[Row]](list)
    for row in rows:
        cells[str(row.config)].append(row)
    return [_mean(own) for own in cells.values() if {row.benchmark for row in own} == wanted]


def _mean(rows: Sequence[Row]) -> Row:
    """Of one configuration's rows."""
    retention = statistics.fmean(row.retention or 0.0 for row in rows)
    data: dict[str, Any] = {"primary": "mean retention %"}
    for path in _MEANS:
        values = [value for row in rows if (value := number(at(row.data, path))) is not None]
        if len(values) == len(rows):
            outer, _, inner = path.partition(".")
            data.setdefault(outer, {})[inner] = statistics.fmean(values)
    if rows[0].video:
        data.setdefault("tokens", {})["frames"] = 0
    speeds = [number(row.data.get("samples_per_second")) or 0.0 for row in rows]
    if all(speeds):
        data["samples_per_second"] = statistics.harmonic_mean(speeds)
    n, failed = sum(row.n for row in rows), sum(row.failed for row in rows)
    return Row(rows[0].config, MEAN, retention, None, n, failed, data, retention)
