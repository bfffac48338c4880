"""What marks and figures mean: what is there is explained, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from .summary import UNFINISHED, UNREADABLE, Summary

_BOLD = "Bold: the best among configurations that read equally many visual tokens (mean over the layers, within 1 %)."
_FIGURES = (
    "Retention: percent of the unpruned model's score on the same rows by the same scorer. Mean retention: the mean of the "
    "benchmarks' ratios, over those on which the unpruned model scores above 0.",
    "±95%: half the width of the 95% interval of the score alone: 1.96 standard errors.",
)
_MME = "MME: the score is `total`, perception and cognition together; papers' MME is `perception` alone, on the sheet of MME."
_DIFFER = "`rows that differ` is blank where one of the two scorers does not say what each row is worth."


def causes(summary: Summary) -> str:
    """Why something is marked as incomplete, or nothing."""
    lacks = {(str(config), b) for config in summary.configs if summary.compared(config) for b in summary.lacking(config)}
    other = {(str(row.config), row.benchmark) for row in summary.rows} & lacks
    told = {(config, b) for config, b in lacks if summary.gaps.get((config, summary.folders[b])) in (UNFINISHED, UNREADABLE)}
    there = {
        "failed rows": any(row.failed for row in summary.answered),
        "judge replies that could not be read": any(row.unread for row in summary.rows),
        "unfinished cells": UNFINISHED in summary.gaps.values(),
        "unreadable results": UNREADABLE in summary.gaps.values(),
        "missing benchmarks": bool(lacks - other - told),
        "scores on other rows than the unpruned model's": bool(other),
    }
    found = [cause for cause, is_there in there.items() if is_there]
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def why(summary: Summary) -> list[str]:
    """A line for each reason why cells have no score."""
    reasons: dict[str, set[str]] = defaultdict(set)
    for row in summary.unscored:
        reasons[str(row.data["unscored"])].add(row.benchmark)
    return [f"not scored: {', '.join(sorted(names))} ({reason})" for reason, names in sorted(reasons.items())]


def notes(summary: Summary, sheets: Mapping[str, str]) -> list[str]:
    """For a sheet of its own. sheets: benchmark -> what its sheet is called."""
    marked = causes(summary)
    tokens = {row.video for row in summary.answered if row.measured}
    figures = [row.data["metrics"].keys() for row in summary.rows if row.metric == "total"]
    others = [other for row in summary.rows for other in row.data.get("other scorers") or ()]
    return [
        _BOLD,
        *([f"Coloured, with a star: incomplete ({marked})."] if marked else []),
        *_FIGURES,
        *(["Visual tokens: means over benchmarks with pictures, and over those with videos."] if len(tokens) > 1 else []),
        *([_MME] if any("perception" in names and names & {"cognition", "reasoning"} for names in figures) else []),
        *([_DIFFER] if any(other.get("rows that differ") is None for other in others) else []),
        *(f"{line[0].upper()}{line[1:]}." for line in why(summary)),
        *(f"Sheet '{sheet}': {benchmark}." for benchmark, sheet in sheets.items() if sheet != benchmark),
    ]
