"""Configurations by benchmarks: scores, intervals and retention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..cells import Config
from ..draw import Row, headed, number, peers
from . import figures
from .figures import Interval
from .reported import origins, reported
from .sheets import Styled
from .summary import NOT_SCORED, Mean, Summary

if TYPE_CHECKING:
    from .evidence import Evidence


@dataclass(frozen=True)
class Column:
    """A heading and a value for each line: the configurations, then what is reached without looking.

    head: the heading on the sheet, and brief: on a terminal; None for what is not there. detail: what is left out where there
    are many benchmarks.
    """

    head: str | None
    values: list[Any]
    brief: str | None = None
    detail: bool = False


def overview(summary: Summary, evidence: Evidence) -> list[Column]:
    """The columns from left to right. Of intervals and letters, those that are known of any configuration."""
    configs, floors = summary.configs, _floors(summary)
    names = [name(config) for config in configs]
    names += [{"config": label, "model": model} for label, model in floors]
    heads = [Column(key, [line.get(key) for line in names], "config" if key == "config" else None) for key in names[0]]
    blank = [None] * len(floors)
    tokens = [Column(head, [*values, *blank], head.removeprefix("visual ")) for head, values in _tokens(summary).items()]
    means = [summary.mean_retention(config) for config in configs]
    spread = [figures.of(evidence.mean_retention.get(str(config))) for config in configs]
    over = [Styled(mean.lacks, incomplete=True, centred=True) if mean and mean.lacks else None for mean in means]
    mean = [
        Column("mean retention %", [*map(_mean_retention, means), *blank], "mean retention %"),
        *_known(Column("mean over benchmarks", [*over, *blank], "mean over")),
        *_ends("mean retention", [found if mean else None for found, mean in zip(spread, means, strict=True)], blank),
    ]
    scores = [column for benchmark in summary.benchmarks for column in _scores(summary, evidence, benchmark, floors)]
    sources = _known(Column("published from", [*(_sources(summary, config) for config in configs), *blank]))
    return heads + tokens + scores + mean + sources


def _known(column: Column) -> list[Column]:
    """A column that has something to say."""
    return [column] if any(value is not None for value in column.values) else []


def _ends(label: str, intervals: Sequence[Interval | None], blank: Sequence[None]) -> list[Column]:
    """The ends of intervals, where some are known."""
    ends = zip(*map(figures.ends, intervals), strict=True)
    found = [Column(f"{label} 95% {end}", [*values, *blank]) for end, values in zip(("low", "high"), ends, strict=False)]
    return [known for column in found for known in _known(column)]


def name(config: Config) -> dict[str, Any]:
    """What the lines of every sheet begin with."""
    budget: Any = int(config.budget) if config.budget.isdecimal() else config.budget or "full"
    named = {"config": str(config), "model": config.model, "method": config.method}
    return named | {"budget": Styled(budget, centred=True)}


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


def _scores(
    summary: Summary, evidence: Evidence, benchmark: str, floors: dict[tuple[str, str], dict[str, float]]
) -> list[Column]:
    here = [row for row in summary.rows if row.benchmark == benchmark]
    by_config = {str(row.config): row for row in here}
    head = here[0].heading if here else benchmark
    rows = [by_config.get(str(config)) for config in summary.configs]
    gaps = [summary.gaps.get((str(config), summary.folders[benchmark])) for config in summary.configs]
    scores: list[Any] = [_score(row, gap, here, evidence) for row, gap in zip(rows, gaps, strict=True)]
    blank = [None] * len(floors)
    around = [figures.score(row, evidence) if row else None for row in rows]
    kept = [figures.retention(row, evidence) if row else None for row in rows]
    said = [interval.said(row.score) if row and interval else None for row, interval in zip(rows, around, strict=True)]
    letters = [row and _letters(row, evidence) for row in rows]
    return [
        Column(head, scores + [scored.get(benchmark) for scored in floors.values()], head),
        *_published(benchmark, head, rows, len(floors)),
        *_known(Column(None, [*said, *blank], "95%", detail=True)),
        *_ends(head, around, blank),
        *_known(Column(f"{head} letters", [*letters, *blank])),
        Column(f"{head} retention %", [*(row and row.retention for row in rows), *blank], "retention %", detail=True),
        *_ends(f"{head} retention", kept, blank),
    ]


def _letters(row: Row, evidence: Evidence) -> Styled | None:
    found = evidence.letters.get(figures.key(row))
    return Styled(found, centred=True) if found else None


def _score(row: Row | None, gap: str | None, here: Sequence[Row], evidence: Evidence) -> Styled:
    """The score, or why there is none; bold where it is the best of those that it may be compared with, and slanted too where it
    cannot be told apart from that one."""
    if row is None:
        return Styled(gap, incomplete=gap not in (None, NOT_SCORED))
    first, tied = standing(row, here, evidence)
    return Styled(row.score, bold=first or tied, italic=tied, incomplete=row.incomplete)


def standing(row: Row, here: Sequence[Row], evidence: Evidence) -> tuple[bool, bool]:
    """Whether a score is the best of those on its benchmark that it may be compared with, and else whether it cannot be told
    apart from that one."""
    mine = [other for other in here if other.config.model == row.config.model]
    alike = next((group for group in peers(mine) if row in group), [])
    best = max((other.score for other in alike), default=row.score)
    first = len(alike) > 1 and row.score == best
    tied = not first and any(
        set(evidence.letters.get(figures.key(row), "")) & set(evidence.letters.get(figures.key(other), ""))
        for other in alike
        if other.score == best
    )
    return first, tied


def _published(benchmark: str, head: str, rows: Sequence[Row | None], floors: int) -> list[Column]:
    """What others have published of the scores; where that is another metric than the main one, with the measured figure of that
    metric, of every configuration that has it."""
    found, blank = [row and reported(row) for row in rows], [None] * floors
    columns = []
    for metric in dict.fromkeys(one.metric for one in found if one):
        title = headed(benchmark, metric) if metric else head
        if metric:
            columns.append(Column(title, [*(row and _measured(row, metric) for row in rows), *blank]))
        said = [Styled(one.published.figure, digits=1) if one and one.metric == metric else None for one in found]
        columns.append(Column(f"{title} published", [*said, *blank]))
    return columns


def _measured(row: Row, metric: str) -> Styled | None:
    value = number(row.data["metrics"].get(metric))
    return None if value is None else Styled(value, incomplete=row.incomplete)


def _sources(summary: Summary, config: Config) -> Styled | None:
    """Where a configuration's published figures are from, and what may be different about them: once for all benchmarks, which
    keeps the sheet narrow."""
    rows = [row for row in summary.rows if str(row.config) == str(config)]
    found = {row.benchmark: one for row in rows if (one := reported(row))}
    return Styled(origins(found), wrapped=True) if found else None


def _mean_retention(mean: Mean | None) -> Styled:
    return Styled("-", centred=True) if mean is None else Styled(mean.value, incomplete=mean.incomplete)
