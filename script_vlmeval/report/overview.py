"""Configurations by benchmarks: scores, intervals and retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..cells import Config
from ..draw import Row, peers
from .sheets import Styled
from .summary import NOT_SCORED, Summary


@dataclass(frozen=True)
class Column:
    """A heading and a value for each line: the configurations, then what is reached without looking.

    brief: the heading on a terminal, None for what is on the sheet alone. detail: what is left out where there are many
    benchmarks.
    """

    head: str
    values: list[Any]
    brief: str | None = None
    detail: bool = False


def overview(summary: Summary) -> list[Column]:
    """The columns from left to right."""
    configs, floors = summary.configs, _floors(summary)
    names = [name(config) for config in configs]
    names += [{"config": label, "model": model} for label, model in floors]
    heads = [Column(key, [line.get(key) for line in names], "config" if key == "config" else None) for key in names[0]]
    blank = [None] * len(floors)
    tokens = [Column(head, [*values, *blank], head.removeprefix("visual ")) for head, values in _tokens(summary).items()]
    mean = [Column("mean retention %", [*(_mean_retention(summary, config) for config in configs), *blank], "mean retention %")]
    scores = [column for benchmark in summary.benchmarks for column in _scores(summary, benchmark, floors)]
    return heads + tokens + scores + mean


def name(config: Config) -> dict[str, Any]:
    """What the lines of every sheet begin with."""
    budget: Any = int(config.budget) if config.budget.isdecimal() else config.budget or "full"
    return {"config": str(config), "model": config.model, "method": config.method, "budget": budget}


def _floors(summary: Summary) -> dict[tuple[str, str], dict[str, float]]:
    """(label, model) -> benchmark -> what is reached without looking."""
    floors: dict[tuple[str, str], dict[str, float]] = {}
    for row in summary.rows:
        for label, score in row.floors.items():
            floors.setdefault((f"({label}, {row.config.model})", row.config.model), {})[row.benchmark] = score
    return floors


def _tokens(summary: Summary) -> dict[str, list[Styled]]:
    """The visual tokens that were read, the mean over the benchmarks' means: of pictures and of videos apart. A benchmark's own
    are on the sheet `long`."""
    read = [row for row in summary.answered if row.measured]
    kinds = sorted({row.video for row in read}) or [False]
    return {
        "visual tokens, video" if video and len(kinds) > 1 else "visual tokens": [
            _mean([row.measured for row in read if (str(row.config), row.video) == (str(config), video)])
            for config in summary.configs
        ]
        for video in kinds
    }


def _mean(counts: Sequence[float]) -> Styled:
    return Styled(sum(counts) / len(counts) if counts else None, digits=1)


def _scores(summary: Summary, benchmark: str, floors: dict[tuple[str, str], dict[str, float]]) -> list[Column]:
    here = [row for row in summary.rows if row.benchmark == benchmark]
    by_config = {str(row.config): row for row in here}
    head = here[0].heading if here else benchmark
    rows = [by_config.get(str(config)) for config in summary.configs]
    gaps = [summary.gaps.get((str(config), summary.folders[benchmark])) for config in summary.configs]
    scores: list[Any] = [_score(row, gap, here) for row, gap in zip(rows, gaps, strict=True)]
    blank = [None] * len(floors)
    return [
        Column(head, scores + [scored.get(benchmark) for scored in floors.values()], head),
        Column(f"{head} ±95%", [*(row and row.half for row in rows), *blank], "±95%", detail=True),
        Column(f"{head} retention %", [*(row and row.retention for row in rows), *blank], "retention %", detail=True),
    ]


def _score(row: Row | None, gap: str | None, here: Sequence[Row]) -> Styled:
    """The score, or why there is none; bold where it is the best of those that it may be compared with."""
    if row is None:
        return Styled(gap, incomplete=gap not in (None, NOT_SCORED))
    mine = [other for other in here if other.config.model == row.config.model]
    alike = [other.score for group in peers(mine) if row in group for other in group]
    return Styled(row.score, len(alike) > 1 and row.score == max(alike), row.incomplete)


def _mean_retention(summary: Summary, config: Config) -> Styled:
    """The mean of the benchmarks' ratios; marked when one is missing on which the unpruned model scores above 0, or a score of
    either is incomplete."""
    rows = summary.compared(config)
    flawed = any(part.incomplete for row in rows for part in (row, summary.unpruned[config.model, row.benchmark]))
    ratios = [row.retention or 0.0 for row in rows]
    return Styled(
        sum(ratios) / len(ratios) if ratios else None, incomplete=bool(rows) and (flawed or bool(summary.lacking(config)))
    )
