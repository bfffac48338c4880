"""What the page says in words: what was run, its plots, where the figures come from. HTML, with every text escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ...draw import Row, at
from ...files import disk
from ..costs import flat
from ..legend import causes, why
from ..reported import reported
from ..summary import Summary

_SHOWN = 12  # values of one fact that are named
_APART = ("fingerprint.config", "fingerprint.benchmark", "finished", "fingerprint.rows")  # in the tables, or different by nature
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}
_TITLES = {  # of the plots, by how their names begin, in the order in which they stand
    "accuracy": "Score against the budget of visual tokens",
    "retention": "Retention: percent of the unpruned score",
    "radar": "Retention, benchmark by benchmark",
    "cost-tokens": "Score against visual tokens",
    "cost-flops": "Score against prefill FLOPs",
    "cost-seconds": "Score against time per answer",
}


def headline(summary: Summary) -> str:
    """The facts under the title."""
    rows = summary.answered
    configs = summary.configs
    answers, failed = sum(row.n for row in rows), sum(row.failed for row in rows)
    counts = {row.folder: row.n for row in rows}
    facts = {
        "Models": _names(sorted({config.model for config in configs})),
        "Methods": _names(sorted({config.method for config in configs if not config.full})),
        "Budgets": _names(list(dict.fromkeys(config.budget for config in configs if config.budget)), " visual tokens"),
        "Benchmarks": _names([f"{name} (n = {n:,})" for name, n in sorted(counts.items())]),
        "Answers": f"{answers:,}"
        + (f", of which <strong class='bad'>✗ {failed:,} failed</strong>" if failed else ", none failed"),
        "Versions": _names(_versions(rows)),
        "Hardware": _names(_distinct(rows, "provenance.machine")),
        "Commands": "".join(f"<code>{escape(command)}</code>" for command in _distinct(rows, "provenance.command")[:_SHOWN]),
    }
    title = f"<h1>{_count(configs, 'configuration')} on {_count(counts, 'benchmark')}</h1>"
    items = "".join(f"<div><dt>{name}</dt><dd dir='auto'>{text}</dd></div>" for name, text in facts.items() if text)
    return f"{title}\n<dl class='facts'>{items}</dl>"


def remarks(summary: Summary) -> str:
    """What marks mean, where they are used."""
    marked, told = causes(summary), any(map(reported, summary.rows))
    lines = [
        "Score: in the benchmark's own unit, with its 95 % interval: ± half its width, or both ends where it is not even around "
        "the score. Questions about one picture are one cluster.",
        "Retention: percent of the unpruned model's score on the same rows by the same scorer.",
        "Letters: among configurations of one model that read equally many visual tokens, those that share a letter cannot be "
        "told apart; bold: those with an a.",
        "Loyalty: rows read as the unpruned model's answer. Hard rows: right among the rows that plain downsampling to as many "
        "tokens has wrong. Some method: rows that at least one method at that budget has right.",
        *(["Published: what others report of the same quantity. Who, and what may differ: in the table of all results."] * told),
        *([f"A star: incomplete ({marked})."] if marked else []),
        *(f"{line[0].upper()}{line[1:]}." for line in why(summary)),
    ]
    return f"<ul class='remarks'>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


# plots -------------------------------------------------------------------------------------------------------------------


def plots(work_dir: Path) -> str:
    """The plots of the folder, each within the page."""
    with disk(work_dir):
        found = sorted((work_dir / "plots").glob("*.svg"), key=_order)
        single = work_dir / "accuracy.png"
        if not found and single.is_file():
            found = [single]
        figures = "\n".join(_figure(path) for path in found)
    return figures or "<p class='none'>There are no plots in this folder.</p>"


def _order(path: Path) -> tuple[int, list[Any]]:
    """By kind, then by name, in which 8 comes before 16."""
    kind = next((i for i, start in enumerate(_TITLES) if path.stem.startswith(start)), len(_TITLES))
    return kind, [(part.isdecimal(), int(part) if part.isdecimal() else part) for part in re.split(r"(\d+)", path.stem) if part]


def _figure(path: Path) -> str:
    title = escape(_title(path.stem))
    data = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{title}" loading="lazy" decoding="async" src="data:{_KINDS[path.suffix]};base64,{data}">'
    return f"<figure>{image}<figcaption>{title}</figcaption></figure>"


def _title(stem: str) -> str:
    """What a plot shows, and of which model where its name says it; of a file that is not ours its name."""
    for start, title in _TITLES.items():
        if stem == start or stem.startswith(f"{start}-"):
            model = stem[len(start) + 1 :]
            return f"{title}, {model}" if model else title
    return re.sub(r"[-_]+", " ", stem).strip().capitalize()


# provenance --------------------------------------------------------------------------------------------------------------


def provenance(summary: Summary) -> str:
    """What all cells have in common; what differs is a table of its own (`differing`)."""
    common = {key: value for key, value in shared(summary.answered).items() if key not in _APART}
    items = "".join(f"<div><dt>{escape(key)}</dt><dd dir='auto'>{escape(value)}</dd></div>" for key, value in common.items())
    return f"<h3>The same in every cell</h3><dl class='facts small'>{items}</dl>" if items else ""


def shared(rows: Sequence[Row]) -> dict[str, str]:
    """What every cell has, with one value."""
    cells = [origin(row) for row in rows]
    return {key: value for key, value in cells[0].items() if all(cell.get(key) == value for cell in cells)} if cells else {}


def differing(rows: Sequence[Row]) -> list[str]:
    """What cells differ in, in the order in which they say it."""
    common = shared(rows)
    keys = dict.fromkeys(key for row in rows for key in origin(row))
    return [key for key in keys if key not in common and key not in _APART[:2]]


def origin(row: Row) -> dict[str, str]:
    """All that a cell says of where its figures come from, nested keys as 'a.b'."""
    told = flat({"": row.data.get("provenance"), "fingerprint": row.data.get("fingerprint")}, "")
    return {key: str(value) for key, value in told if value is not None}


def _versions(rows: Sequence[Row]) -> list[str]:
    """Of what the answers depend on; several where cells were made with several."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for name, version in (at(row.data, "provenance.versions") or {}).items():
            found.setdefault(str(name), set()).add(str(version))
    return [f"{name} {' and '.join(sorted(versions))}" for name, versions in found.items()]


def _distinct(rows: Sequence[Row], path: str) -> list[str]:
    return list(dict.fromkeys(str(value) for row in rows if (value := at(row.data, path))))


def _names(names: Sequence[str], unit: str = "") -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return escape(", ".join(names[:_SHOWN]) + more + (unit if names and names[-1].isdecimal() else ""))


def _count(things: Sequence[Any] | Mapping[Any, Any], noun: str) -> str:
    return f"{len(things):,} {noun}{'' if len(things) == 1 else 's'}"
