"""What marks and figures mean: what is there is explained, and nothing else."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .reported import reported
from .summary import UNFINISHED, UNREADABLE, Summary

if TYPE_CHECKING:
    from .evidence import Evidence

_BOLD = "Bold: the best among configurations that read equally many visual tokens (mean over the layers, within 1 %)."
_TIED = "Bold and slanted: cannot be told apart from that one."
_LETTERS = "Letters: configurations of one model that read equally many visual tokens and share a letter cannot be told apart."
_RETENTION = (
    "Retention: percent of the unpruned model's score on the same rows by the same scorer. Mean retention: the mean of the "
    "benchmarks' ratios, over those on which the unpruned model scores above 0."
)
_ENDS = "95% low and high: the ends of the 95% interval. That of a share ends at 0 and 100, and is not even around its figure."
_PLAIN_ENDS = "95% low and high: the ends of the 95% interval of the score alone, 1.96 standard errors around it."
_SURE = "Verdicts: 'better' and 'worse' where the p that is corrected for the number of comparisons (Holm) is below 0.05."
FAMILIES = (
    "Corrected together are a model's comparisons on one benchmark that have the same 'why': with the unpruned model; with "
    "random choice at equally many visual tokens; between all methods at equally many. So a method may be compared with random "
    "choice twice, with two verdicts: among the few comparisons with random choice, and among the many pairs, where each has to "
    "be surer. Letters follow the pairs."
)
_WON = "Won and lost: rows that one of the two alone has right. Clusters: pictures or videos, of which several rows may be."
_DETECTABLE = "Smallest detectable: the difference that a comparison of this kind finds in 80% of cases."
_LOYALTY = "Loyalty: percent of rows that are read as the unpruned model's answers are."
_HARD = "Hard rows: those that plain downsampling to as many tokens gets wrong, and the score on them."
_SOME = "Some method: percent of rows that at least one method at that budget has right."
_PUBLISHED = "Published: what others report of the same quantity; who, and what may differ, is said in 'published from'."
_SILENT = "There is no sheet 'statistics': no two configurations have rows of known worth in common."
_MME = "MME: the score is `total`, perception and cognition together; papers' MME is `perception` alone, on the sheet of MME."
_DIFFER = "`rows that differ` is blank where one of the two scorers does not say what each row is worth."


def causes(summary: Summary) -> str:
    """Why something is marked as incomplete, or nothing."""
    there = {
        "failed rows": any(row.failed for row in summary.answered),
        "judge replies that could not be read": any(row.unread for row in summary.rows),
        "unfinished cells": UNFINISHED in summary.gaps.values(),
        "unreadable results": UNREADABLE in summary.gaps.values(),
    }
    found = [cause for cause, is_there in there.items() if is_there]
    return " or ".join(filter(None, [", ".join(found[:-1]), *found[-1:]]))


def why(summary: Summary) -> list[str]:
    """A line for each reason why cells have no score, or no retention, and what means of fewer benchmarks than others lack."""
    reasons: dict[str, set[str]] = defaultdict(set)
    for row in summary.unscored:
        reasons[str(row.data["unscored"])].add(row.benchmark)
    return [
        *(f"not scored: {', '.join(sorted(names))} ({reason})" for reason, names in sorted(reasons.items())),
        *(f"no retention on {', '.join(names)}: add {model}_full to the run" for model, names in summary.unmatched.items()),
        *_partial(summary),
    ]


def _partial(summary: Summary) -> list[str]:
    """Why means are over some of the benchmarks."""
    lacks = {(str(config), b) for config in summary.configs if summary.compared(config) for b in summary.lacking(config)}
    if not lacks:
        return []
    other = {(str(row.config), row.benchmark) for row in summary.rows} & lacks
    cause = "missing benchmarks" * bool(lacks - other), "scores on other rows than the unpruned model's" * bool(other)
    return [f"mean over 'k of n' benchmarks, not to be compared with other means: {' and '.join(filter(None, cause))}"]


def _known(evidence: Evidence) -> list[str]:
    """What is said of intervals and comparisons."""
    there = {
        _TIED: bool(evidence.letters),
        _LETTERS: bool(evidence.letters),
        _ENDS: bool(evidence.interval),
        _PLAIN_ENDS: not evidence.interval,
        _SURE: bool(evidence.comparisons),
        FAMILIES: bool(evidence.comparisons),
        _WON: bool(evidence.comparisons),
        _DETECTABLE: bool(evidence.comparisons),
        _SILENT: not evidence.comparisons,
        _LOYALTY: bool(evidence.loyalty),
        _HARD: bool(evidence.hard),
        _SOME: bool(evidence.oracle),
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
        *([_PUBLISHED] if any(map(reported, summary.rows)) else []),
        *(["Visual tokens: means over benchmarks with pictures, and over those with videos."] if len(tokens) > 1 else []),
        *([_MME] if any("perception" in names and names & {"cognition", "reasoning"} for names in figures) else []),
        *([_DIFFER] if any(other.get("rows that differ") is None for other in others) else []),
        *(f"{line[0].upper()}{line[1:]}." for line in why(summary)),
        *(f"Sheet '{sheet}': {benchmark}." for benchmark, sheet in sheets.items() if sheet != benchmark),
    ]
