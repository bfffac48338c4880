"""What marks and figures mean: what is there is explained, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .summary import UNFINISHED, UNREADABLE, Summary

if TYPE_CHECKING:
    from .evidence import Evidence

_BOLD = "Bold: the best among configurations that read equally many visual tokens (mean over the layers, within 1 %)."
_TIED = "Bold and slanted: cannot be told apart from that one."
_LETTERS = "Group: configurations of one model that read equally many visual tokens and share a letter cannot be told apart."
_RETENTION = (
    "Retention: percent of the unpruned model's score on the same rows by the same scorer. Mean retention: the mean of the "
    "benchmarks' ratios, over those on which the unpruned model scores above 0."
)
_HALF = "±95%: half the width of the 95% interval; both of its ends are on the sheet 'long'."
_PLAIN_HALF = "±95%: half the width of the 95% interval of the score alone: 1.96 standard errors."
_SURE = "Verdicts: 'better' and 'worse' where the p that is corrected for the number of comparisons (Holm) is below 0.05."
_WON = "Won and lost: rows that one of the two alone has right. Clusters: pictures or videos, of which several rows may be."
_DETECTABLE = "Smallest detectable: the difference that a comparison of this kind finds in 80% of cases."
_LOYALTY = "Loyalty: percent of rows that are read as the unpruned model's answers are."
_HARD = "Hard rows: those that plain downsampling to as many tokens gets wrong, and the score on them."
_ORACLE = "Best of methods: the score if on every row the method were known that has it right."
_SILENT = "There is no sheet 'statistics': no two configurations have rows of known worth in common."
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


def _known(evidence: Evidence) -> list[str]:
    """What is said of intervals and comparisons."""
    there = {
        _TIED: bool(evidence.letters),
        _LETTERS: bool(evidence.letters),
        _HALF: bool(evidence.interval),
        _PLAIN_HALF: not evidence.interval,
        _SURE: bool(evidence.comparisons),
        _WON: bool(evidence.comparisons),
        _DETECTABLE: bool(evidence.comparisons),
        _SILENT: not evidence.comparisons,
        _LOYALTY: bool(evidence.loyalty),
        _HARD: bool(evidence.hard),
        _ORACLE: bool(evidence.oracle),
    }
    return [line for line, is_there in there.items() if is_there]


def notes(summary: Summary, evidence: Evidence, sheets: Mapping[str, str]) -> list[str]:
    """For a sheet of its own. sheets: benchmark -> what its sheet is called."""
    marked = causes(summary)
    tokens = {row.video for row in summary.answered if row.measured}
    figures = [row.data["metrics"].keys() for row in summary.rows if row.metric == "total"]
    others = [other for row in summary.rows for other in row.data.get("other scorers") or ()]
    return [
        _BOLD,
        *_known(evidence),
        *([f"Coloured, with a star: incomplete ({marked})."] if marked else []),
        _RETENTION,
        *(["Visual tokens: means over benchmarks with pictures, and over those with videos."] if len(tokens) > 1 else []),
        *([_MME] if any("perception" in names and names & {"cognition", "reasoning"} for names in figures) else []),
        *([_DIFFER] if any(other.get("rows that differ") is None for other in others) else []),
        *(f"{line[0].upper()}{line[1:]}." for line in why(summary)),
        *(f"Sheet '{sheet}': {benchmark}." for benchmark, sheet in sheets.items() if sheet != benchmark),
    ]
