"""The sheets of a summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..draw import Row, at, number
from . import figures
from .charts import chart_pages
from .comparisons import comparisons
from .costs import costs, flat, speed
from .legend import notes
from .overview import name, overview
from .sheets import Page, Styled, fine, sheet_names
from .summary import Summary

if TYPE_CHECKING:
    from .evidence import Evidence

_FIRST = ("overview", "long", "efficiency", "statistics", "charts")
_LAST = ("curves", "retention", "provenance", "notes")


def pages(summary: Summary, evidence: Evidence) -> list[Page]:
    """From left to right: tables, charts, a sheet of all metrics for each benchmark, what charts are drawn of, origins, notes."""
    benchmarks = sorted({row.benchmark for row in summary.rows})
    sheets = dict(zip(benchmarks, sheet_names(benchmarks, (*_FIRST, *_LAST)), strict=True))
    columns = [column for column in overview(summary, evidence) if column.head is not None]
    front = [[column.head for column in columns], *map(list, zip(*(column.values for column in columns), strict=True))]
    clusters = _clusters(evidence)
    compared = comparisons(evidence)
    drawn = chart_pages(summary, evidence)
    found = {"long": [_long(row, evidence, clusters) for row in summary.answered]}
    found["efficiency"] = [_place(row) | _fine(costs(row)) for row in summary.answered]
    metrics = {}
    for benchmark, sheet in sheets.items():
        rows = [row for row in summary.rows if row.benchmark == benchmark]
        metrics[sheet] = [name(row.config) | _counts(row) | _metrics(row) for row in rows]
    last = {"provenance": [_provenance(row) for row in summary.answered]}
    last["notes"] = [{"notes": Styled(note, wrapped=True)} for note in notes(summary, evidence, sheets)]
    return [
        Page("overview", front),
        *_pages(found | ({"statistics": compared} if compared else {})),
        *drawn[:1],
        *_pages(metrics),
        *drawn[1:],
        *_pages(last),
    ]


def _pages(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Page]:
    return [Page(sheet, lines(records)) for sheet, records in tables.items()]


def lines(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Records as lines under a head of all their keys."""
    head = list(dict.fromkeys(key for record in records for key in record))
    return [head, *([record.get(key) for key in head] for record in records)]


def _place(row: Row) -> dict[str, Any]:
    return name(row.config) | {"benchmark": row.benchmark}


def _counts(row: Row) -> dict[str, Any]:
    return {"n": row.n, "failed": Styled(row.failed, incomplete=row.failed > 0)}


def _metrics(row: Row) -> dict[str, Any]:
    """All said of a cell: the main scorer's by their names; those of others over all rows with the scorer's name behind, and
    on how many rows they differ. What others say of categories is in result.json."""
    said = dict(row.data["metrics"])
    if row.unread:
        said["judge_unparsable"] = Styled(said["judge_unparsable"], incomplete=True)
    for other in row.data.get("other scorers") or ():
        named = {key: value for key, value in other["metrics"].items() if "/" not in key}
        named |= {"rows that differ": other.get("rows that differ")}
        said |= {f"{key} [{other['scorer']}]": value for key, value in named.items()}
    return said


def _clusters(evidence: Evidence) -> dict[tuple[str, str], int]:
    """How many pictures or videos a cell's rows are about, of those that are compared with another."""
    return {
        (str(config), one.benchmark): one.difference.clusters
        for one in evidence.comparisons
        for config in (one.config, one.against)
    }


def _long(row: Row, evidence: Evidence, clusters: Mapping[tuple[str, str], int]) -> dict[str, Any]:
    """All that is known of a cell, for pivot tables."""
    score = {"metric": row.metric, "score": Styled(number(row.score), incomplete=row.incomplete), "standard error": row.stderr}
    interval = dict(zip(("95% low", "95% high"), figures.ends(figures.score(row, evidence)), strict=True))
    tokens = {"visual tokens": at(row.data, "tokens.visual_kept"), "visual tokens unpruned": at(row.data, "tokens.visual_full")}
    tokens |= {"frames": at(row.data, "tokens.frames")}
    settings = {"scorer": row.data.get("scorer"), "parameters": ", ".join(f"{key}={value}" for key, value in row.config.params)}
    size = {"n": row.n, "clusters": clusters.get(figures.key(row))} | _counts(row)
    rest = _compared(row, evidence) | tokens | _fine(speed(row)) | settings
    return _place(row) | score | interval | size | rest | _why(row)


def _compared(row: Row, evidence: Evidence) -> dict[str, Any]:
    """What the unpruned model and other methods say of a cell. Columns of which nothing is known are left out."""
    key = figures.key(row)
    kept = figures.ends(figures.retention(row, evidence))
    hard, rows = evidence.hard.get(key, (None, None))
    best = evidence.oracle.get((row.config.model, row.benchmark, row.config.budget))
    found = {"retention %": row.retention}
    more = {
        **dict(zip(("retention 95% low", "retention 95% high"), kept, strict=True)),
        "letters": evidence.letters.get(key),
        **figures.columns("loyalty", evidence.loyalty.get(key)),
        **figures.columns("hard rows", hard),
        "hard rows": rows,
        "some method %": None if best is None else number(best),
    }
    known = any((evidence.retention, evidence.letters, evidence.loyalty, evidence.hard, evidence.oracle))
    return found | (more if known else {})


def _fine(record: Mapping[str, Any]) -> dict[str, Any]:
    """With three digits of what is small: milliseconds are not 0.01 seconds."""
    return {head: fine(value) if isinstance(value, float) else value for head, value in record.items()}


def _why(row: Row) -> dict[str, str]:
    """Nothing for a cell with a score, so that there is no such column where all have one."""
    if not row.data.get("unscored"):
        return {}
    send = f"; to send in: {row.data['submission']}" if row.data.get("submission") else ""
    return {"why there is no score": f"{row.data['unscored']}{send}"}


def _provenance(row: Row) -> dict[str, Any]:
    origin = flat({"": row.data.get("provenance"), "fingerprint": row.data.get("fingerprint")}, "")
    return {"config": str(row.config), "benchmark": row.benchmark} | dict(origin) | _why(row)
