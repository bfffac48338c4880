"""What was found as bench.json, bench.xlsx, bench.png and bench.svg, each replaced in one step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..draw.bench import Bar, Group, draw
from ..files import write_json
from ..report.sheets import Page, Styled, save
from .rows import ADVICE, TIMES, Row

_RAW = ("prefill_ms", "selection_ms", "question_ms", "token_ms", "generation_ms", "peak_bytes", "encoder_ms")
_DIGITS = 3


def write(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """All files, the JSON first: it holds everything. UserError when the disk refuses."""
    write_json(folder / "bench.json", {**facts, "rows": [row.data() for row in rows]}, ADVICE)
    save(pages(rows, facts), folder / "bench.xlsx")
    if groups := _groups(rows):
        draw(groups, folder / "bench.png", folder / "bench.svg")


# -- the workbook --------------------------------------------------------------------------------------------------------------
def pages(rows: Sequence[Row], facts: Mapping[str, Any]) -> list[Page]:
    """A line for each configuration and batch, the figures of every turn, and what was measured on."""
    return [
        Page("bench", _lines([_figures(row) for row in rows])),
        Page("turns", _lines([line for row in rows for line in _turns(row)] or [_place(row) for row in rows])),
        Page("about", [["what", "is"], *([name, Styled(text, wrapped=True)] for name, text in _flat("", facts))]),
    ]


def _lines(records: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """Records as lines under a head of all their keys; columns without any value are left out."""
    head = [key for key in dict.fromkeys(k for r in records for k in r) if any(r.get(key) is not None for r in records)]
    return [head, *([record.get(key) for key in head] for record in records)]


def _place(row: Row) -> dict[str, Any]:
    return {"configuration": row.name, "model": row.model, "method": row.method, "budget": row.budget, "batch": row.batch}


_UNITS = {
    "kv_bytes": ("KV MiB", 2**20),
    "peak_bytes": ("peak GiB", 2**30),
    "prefill_flops": ("TFLOPs", 1e12),
    "encoder_flops": ("encoder TFLOPs", 1e12),
}


def _figures(row: Row) -> dict[str, Any]:
    found = _place(row)
    found |= {name: row.counted.get(key) for name, key in (("visual tokens", "visual"), ("of", "visual_full"), ("text", "text"))}
    for name in TIMES:
        shown = row.spread(name)
        called = name.replace("_ms", " ms")
        for part in ("median", "low", "high"):
            quartile = {"median": "", "low": " 1st quartile", "high": " 3rd quartile"}[part]
            found[called + quartile] = None if shown is None else Styled(getattr(shown, part), digits=_DIGITS)
    found["answers/s"] = row.per_second
    found |= {name.replace("_ms", ""): value for name, value in row.against.items()}
    for name, (unit, size) in _UNITS.items():
        value = row.median(name)
        found[unit] = None if value is None else Styled(value / size, digits=4)
    found["parameters"] = ", ".join(f"{key}={value}" for key, value in row.params.items()) or None
    return found | {"not measured": row.error or None}


def _turns(row: Row) -> list[dict[str, Any]]:
    known = [name for name in _RAW if row.repeats.get(name)]
    count = len(row.repeats.get("prefill_ms", ()))
    return [
        _place(row) | {"turn": i + 1} | {name: Styled(row.repeats[name][i], digits=_DIGITS) for name in known}
        for i in range(count)
    ]


def _flat(start: str, value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, Mapping):
        return [(start, str(value))]
    return [found for key, own in value.items() for found in _flat(f"{start} {key}".strip(), own)]


# -- the plot ------------------------------------------------------------------------------------------------------------------
def _groups(rows: Sequence[Row]) -> list[Group]:
    """A batch each, of what was measured; the ideals are marks on the bars of their level."""
    found = []
    for (model, batch), of in groupby(rows, key=lambda row: (row.model, row.batch)):
        alive = [row for row in of if not row.error and row.values("prefill_ms")]
        ideals = {row.level: row for row in alive if row.ideal}
        bars = tuple(_bar(row, ideals.get(row.level)) for row in alive if not row.ideal)
        if bars:
            found.append(Group(f"{model}, batch {batch}", bars))
    return found


def _bar(row: Row, ideal: Row | None) -> Bar:
    spans = [row.spread(name) for name in ("prefill_ms", "ttft_ms")]
    marks = [None if ideal is None else ideal.median(name) for name in ("prefill_ms", "ttft_ms")]
    ends = [(s.low, s.median, s.high) if s else (0.0, 0.0, 0.0) for s in spans]
    return Bar(f"{row.method} {row.budget}".strip(), row.full, ends[0], ends[1], marks[0], marks[1])
