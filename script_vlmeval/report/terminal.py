"""The overview for a terminal, in aligned columns."""

from __future__ import annotations

from .evidence import Evidence
from .legend import causes, why
from .overview import Column, overview
from .sheets import words
from .summary import Summary

_FIT = 4  # benchmarks whose intervals and retention fit beside their scores
_WIDE = 8  # benchmarks that fit side by side


def table(summary: Summary) -> str:
    """A line for each configuration, and what its stars and gaps mean. Of many benchmarks the scores alone, since the rest is in
    the workbook; and of very many a line for each benchmark, where configurations are fewer."""
    benchmarks = len(summary.benchmarks)
    columns = [
        column
        for column in overview(summary, summary.evidence or Evidence())
        if column.brief is not None and not (column.detail and benchmarks > _FIT)
    ]
    lines = [_texts(column) for column in columns]
    if not benchmarks > max(_WIDE, len(summary.configs)):
        lines = [list(line) for line in zip(*lines, strict=True)]
    text = _aligned(lines)
    marked = causes(summary)
    legend = [f"* incomplete: {marked}"] if marked and "*" in text else []
    return "\n".join([text, *legend, *why(summary)])


def _texts(column: Column) -> list[str]:
    return [column.brief or "", *map(words, column.values)]


def _aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(f"{line[0]:<{widths[0]}}  " + "  ".join(map(str.rjust, line[1:], widths[1:])) for line in lines)
