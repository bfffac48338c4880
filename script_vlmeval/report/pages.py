"""The sheets of a summary: name and lines, the first of which are the heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..draw import Row, at, number
from .legend import notes
from .overview import name, overview
from .sheets import Styled, sheet_names
from .summary import Summary

_FIRST, _LAST = ("overview", "long"), ("provenance", "notes")


def pages(summary: Summary) -> list[tuple[str, list[list[Any]]]]:
    """The sheets from left to right."""
    benchmarks = sorted({row.benchmark for row in summary.rows})
    sheets = dict(zip(benchmarks, sheet_names(benchmarks, (*_FIRST, *_LAST)), strict=True))
    columns = overview(summary)
    front = [[column.head for column in columns], *map(list, zip(*(column.values for column in columns), strict=True))]
    found = [("long", [_long(row) for row in summary.answered])]
    for benchmark, sheet in sheets.items():
        rows = [row for row in summary.rows if row.benchmark == benchmark]
        found.append((sheet, [name(row.config) | _counts(row) | _metrics(row) for row in rows]))
    found.append(("provenance", [_provenance(row) for row in summary.answered]))
    found.append(("notes", [{"notes": note} for note in notes(summary, sheets)]))
    return [("overview", front), *((sheet, _lines(records)) for sheet, records in found)]


def _counts(row: Row) -> dict[str, Any]:
    return {"n": row.n, "failed": Styled(row.failed, incomplete=row.failed > 0)}


def _metrics(row: Row) -> dict[str, Any]:
    """All figures of a cell: the main scorer's by their names; those of others over all rows with the scorer's name behind, and
    on how many rows they differ. What others say of categories is in result.json."""
    figures = dict(row.data["metrics"])
    if row.unread:
        figures["judge_unparsable"] = Styled(figures["judge_unparsable"], incomplete=True)
    for other in row.data.get("other scorers") or ():
        named = {key: value for key, value in other["metrics"].items() if "/" not in key}
        named |= {"rows that differ": other.get("rows that differ")}
        figures |= {f"{key} [{other['scorer']}]": value for key, value in named.items()}
    return figures


def _long(row: Row) -> dict[str, Any]:
    score = {"score": Styled(number(row.score), incomplete=row.incomplete), "standard error": row.stderr}
    ends = (None, None) if row.half is None else (number(row.score - row.half), number(row.score + row.half))
    interval = dict(zip(("95% low", "95% high"), ends, strict=True))
    tokens = {"visual tokens": at(row.data, "tokens.visual_kept"), "of": at(row.data, "tokens.visual_full")}
    tokens |= {"frames": at(row.data, "tokens.frames")}
    speed = {"seconds without encoder": row.data.get("seconds"), "answers/s": row.data.get("samples_per_second")}
    settings = {"scorer": row.data.get("scorer"), "parameters": ", ".join(f"{key}={value}" for key, value in row.config.params)}
    start = name(row.config) | {"benchmark": row.benchmark, "metric": row.metric}
    rest = {"retention %": row.retention} | tokens | speed | settings
    return start | score | interval | _counts(row) | rest | _why(row)


def _why(row: Row) -> dict[str, str]:
    """Nothing for a cell with a score, so that there is no such column where all have one."""
    if not row.data.get("unscored"):
        return {}
    send = f"; to send in: {row.data['submission']}" if row.data.get("submission") else ""
    return {"why there is no score": f"{row.data['unscored']}{send}"}


def _provenance(row: Row) -> dict[str, Any]:
    origin = _flat({"": row.data.get("provenance"), "fingerprint": row.data.get("fingerprint")}, "")
    return {"config": str(row.config), "benchmark": row.benchmark} | dict(origin) | _why(row)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Nested mappings as 'a.b' -> value."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}".strip("."))
    else:
        yield path, value


def _lines(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    head = list(dict.fromkeys(key for record in records for key in record))
    return [head, *([record.get(key) for key in head] for record in records)]
