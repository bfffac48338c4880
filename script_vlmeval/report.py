"""Spreadsheets and tables, built from what is on disk: `<config>_<benchmark>.xlsx`, `summary.xlsx`, `accuracy.png`.

Text stays text: no cell is a formula, and what was said can be read back (`celltext`).
"""

from __future__ import annotations

import io
import logging
import math
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.cell import WriteOnlyCell
from openpyxl.formatting.rule import FormulaRule
from openpyxl.styles import Alignment, Border, Font, PatternFill, Side
from openpyxl.utils import get_column_letter

from .cells import Config
from .celltext import escape
from .draw import Row, accuracy, at, number, peers
from .errors import UserError
from .store import CELL, PREDICTIONS, RESULT, disk, read_json, replacing

NOTES = (
    "Bold: the best among configurations that read equally many visual tokens (mean over the layers, within 1 %).",
    "Coloured, with a star: incomplete (failed rows, unfinished cells, missing benchmarks).",
    "Retention: percent of the unpruned model's score on the same rows. Mean retention: the mean of the benchmarks' ratios.",
    "±95%: half the width of the 95% interval of the score alone: 1.96 standard errors.",
)
_log = logging.getLogger(__name__)
_FIT = 4  # benchmarks whose intervals and retention fit on a terminal beside their scores
_HEAD = Font(bold=True, color="FFFFFF"), PatternFill("solid", fgColor="2F4B6E"), Alignment(wrap_text=True, vertical="center")
_INCOMPLETE = PatternFill("solid", fgColor="FBE3D0")
_RULE = FormulaRule(formula=["$D2<>$D1"], border=Border(top=Side("thin", color="9AA5B1")))  # between budgets


@dataclass(frozen=True)
class Styled:
    """A value and how it is to be shown."""

    value: Any
    bold: bool = False
    incomplete: bool = False
    digits: int = 2  # of a fraction


@dataclass(frozen=True)
class Summary:
    """All finished cells, in the order of the tables, and why others are not among them ((config, benchmark) -> reason)."""

    rows: tuple[Row, ...]
    gaps: Mapping[tuple[str, str], str]
    workbook: Path
    plot: Path | None

    @property
    def benchmarks(self) -> list[str]:
        return sorted({row.benchmark for row in self.rows} | {benchmark for _, benchmark in self.gaps})

    @property
    def configs(self) -> list[Config]:
        known = {config: Row(Config.parse(config), "", 0.0, None, 0, 0, {}) for config, _ in self.gaps}
        known |= {str(row.config): row for row in self.rows}
        return [row.config for row in sorted(known.values(), key=lambda row: row.order)]


def write_predictions(path: Path, rows: Sequence[Mapping[str, str]], predictions: Mapping[str, str]) -> None:
    """The workbook that VLMEvalKit scores: the rows' columns without `image`, then `prediction`, every cell text.

    `predictions` maps a row's `index` to its answer; a row without one gets an empty cell. UserError when the disk refuses.
    """
    columns = [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("image", "prediction")]
    lines = [[*columns, "prediction"]] + [
        [*(row.get(name, "") for name in columns), predictions.get(row["index"], "")] for row in rows
    ]
    _save([("predictions", lines)], path)


def summarise(work_dir: Path) -> Summary:
    """Reads every result under `work_dir` and writes its summary.xlsx and, where there is something to draw, accuracy.png.

    What is not a result of this program is skipped with a warning. UserError when there is none, or the disk refuses.
    """
    with disk(work_dir):
        folders = sorted(path for path in work_dir.glob("*/*/") if any((path / f).exists() for f in (CELL, PREDICTIONS, RESULT)))
    found = {(path.parent.name, path.name): _read(path) for path in folders}
    rows = sorted(_apart([row for row in found.values() if isinstance(row, Row)]), key=lambda row: row.order)
    gaps = {key: reason for key, reason in found.items() if isinstance(reason, str)}
    if not rows and "not scored" not in gaps.values():
        begun = f" ({len(gaps)} begun: run the same command again)" if gaps else ""
        raise UserError(f"There are no results in '{work_dir}'{begun}. Name the --work-dir of a run, or run one first.")
    full = {(row.config.model, row.benchmark): row for row in rows if row.config.full}
    rows = [replace(row, retention=_retention(row, full.get((row.config.model, row.benchmark)))) for row in rows]
    plot = work_dir / "accuracy.png" if any(row.tokens and not row.config.full for row in rows) else None
    summary = Summary(tuple(rows), gaps, work_dir / "summary.xlsx", plot)
    if plot:
        accuracy(rows, plot)
    _save(_pages(summary), summary.workbook)
    return summary


def table(summary: Summary) -> str:
    """The overview for a terminal, in aligned columns; a star marks what is incomplete. Of many benchmarks the scores alone: the
    rest is in the workbook."""
    overview = _overview(summary)
    if len(summary.benchmarks) > _FIT:
        narrow = re.compile(r"(?<!^mean) (±95%|retention %)$")
        overview = [{key: value for key, value in record.items() if not narrow.search(key)} for record in overview]
    lines = [[_words(value) for value in [line[0], *line[4:]]] for line in _lines(overview)]
    lines[0] = [re.sub(r"^(?!mean ).* (±95%|retention %)$|^visual (tokens)$", r"\1\2", head) for head in lines[0]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = "\n".join(f"{line[0]:<{widths[0]}}  " + "  ".join(map(str.rjust, line[1:], widths[1:])) for line in lines)
    return text + "\n* incomplete: failed rows, unfinished cells or missing benchmarks" * ("*" in text)


def _words(value: Any) -> str:
    if isinstance(value, Styled):
        text = f"{value.value:.{value.digits}f}" if isinstance(value.value, float) else _words(value.value)
        return text + "*" * (value.incomplete and not isinstance(value.value, str))
    return "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _read(folder: Path) -> Row | str | None:
    """The result in a cell's folder, or why there is none; None for a folder that is no cell's."""
    try:
        config = Config.parse(folder.parent.name)
    except UserError:
        return None
    if not (folder / RESULT).exists():
        return "unfinished"
    try:
        data = read_json(folder / RESULT) or {}
        return "not scored" if data.get("unscored") else _parse(config, folder.name, data)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        _log.warning("%s: skipped, not a result of this program (%s: %s)", folder / RESULT, type(error).__name__, error)
        return "unreadable"


def _apart(rows: Sequence[Row]) -> list[Row]:
    """Where a benchmark was scored in several ways, by string match and by a judge, each way is a benchmark of its own."""
    ways: dict[str, set[str]] = {}
    for row in rows:
        ways.setdefault(row.benchmark, set()).add(row.way)
    return [replace(row, benchmark=f"{row.benchmark} ({row.way})") if len(ways[row.benchmark]) > 1 else row for row in rows]


def _parse(config: Config, benchmark: str, data: Mapping[str, Any]) -> Row:
    cell, score = data["cell"], number(data["score"])
    if (cell["config"], cell["benchmark"]) != (str(config), benchmark):
        raise ValueError(f"it is about {cell['config']} on {cell['benchmark']}")
    if score is None or not isinstance(data["metrics"], dict):
        raise ValueError("it has no score")
    config = replace(config, params=tuple(sorted((cell.get("params") or {}).items())))
    return Row(config, benchmark, score, number(data.get("stderr")), int(data["n"]), int(data["failed"]), data)


def _retention(row: Row, full: Row | None) -> float | None:
    """None without an unpruned score, or when that one was measured on other rows or by another metric."""
    if full is None or full.score <= 0 or full.metric != row.metric:
        return None
    if full.n != row.n:
        _log.warning("%s on %s: %d rows, but %d of %s: no retention", row.config, row.benchmark, row.n, full.n, full.config)
        return None
    if at(full.data, "fingerprint.data") != at(row.data, "fingerprint.data"):
        _log.warning("%s on %s: %s saw another table: no retention", row.config, row.benchmark, full.config)
        return None
    return 100 * row.score / full.score


def _mean_retention(summary: Summary, config: str) -> Styled:
    """The mean of the benchmarks' ratios; marked when one that the unpruned model has is missing or has failed rows."""
    rows = [row for row in summary.rows if str(row.config) == config and row.retention is not None]
    full = {row.benchmark for row in summary.rows if row.config.full and row.config.model == config.split("_")[0]}
    incomplete = any(row.failed for row in rows) or {row.benchmark for row in rows} != full
    return Styled(sum(row.retention or 0.0 for row in rows) / len(rows) if rows else None, incomplete=incomplete and bool(rows))


def _tokens(summary: Summary, config: str) -> Styled:
    """The visual tokens that were read, the mean over the benchmarks' means; a benchmark's own is on the sheet `long`."""
    read = [row.measured for row in summary.rows if str(row.config) == config and row.measured]
    return Styled(sum(read) / len(read) if read else None, digits=1)


def _pages(summary: Summary) -> list[tuple[str, list[list[Any]]]]:
    """The sheets: name and lines, the first of which are the heads."""
    pages = [("overview", _overview(summary)), ("long", [_long(row) for row in summary.rows])]
    for benchmark in sorted({row.benchmark for row in summary.rows}):
        rows = [row for row in summary.rows if row.benchmark == benchmark]
        pages.append((benchmark, [_name(row.config) | _counts(row) | _metrics(row) for row in rows]))
    pages.append(("provenance", [_provenance(row) for row in summary.rows]))
    pages.append(("notes", [{"notes": note} for note in NOTES]))
    return [(name, _lines(records)) for name, records in pages]


def _overview(summary: Summary) -> list[dict[str, Any]]:
    """A record for each configuration, then what is reached without looking."""
    records = []
    for config in summary.configs:
        scores = [_scores(summary, config, benchmark) for benchmark in summary.benchmarks]
        mean = {"mean retention %": _mean_retention(summary, str(config))}
        head = _name(config) | {"visual tokens": _tokens(summary, str(config))}
        records.append({key: value for part in (head, *scores, mean) for key, value in part.items()})
    floors: dict[str, dict[str, Any]] = {}
    for row in summary.rows:
        for label, score in row.floors.items():
            name = f"({label}, {row.config.model})"
            floors.setdefault(name, {"config": name, "model": row.config.model})[row.benchmark] = score
    return [*records, *floors.values()]


def _scores(summary: Summary, config: Config, benchmark: str) -> dict[str, Any]:
    here = [row for row in summary.rows if row.benchmark == benchmark and row.config.model == config.model]
    row = next((row for row in here if str(row.config) == str(config)), None)
    gap = summary.gaps.get((str(config), benchmark))
    score = Styled(gap, incomplete=bool(gap))
    if row:
        alike = [other.score for group in peers(here) if row in group for other in group]
        score = Styled(row.score, len(alike) > 1 and row.score == max(alike), row.failed > 0)
    return {benchmark: score, f"{benchmark} ±95%": row and row.half, f"{benchmark} retention %": row and row.retention}


def _name(config: Config) -> dict[str, Any]:
    budget: Any = int(config.budget) if config.budget.isdecimal() else config.budget or "full"
    return {"config": str(config), "model": config.model, "method": config.method, "budget": budget}


def _counts(row: Row) -> dict[str, Any]:
    return {"n": row.n, "failed": Styled(row.failed, incomplete=row.failed > 0)}


def _metrics(row: Row) -> dict[str, Any]:
    """All figures of a cell: the main scorer's by their names; those of others over all rows with the scorer's name behind, and
    on how many rows they differ. What others say of categories is in result.json."""
    figures = dict(row.data["metrics"])
    for other in row.data.get("other scorers") or ():
        named = {key: value for key, value in other["metrics"].items() if "/" not in key}
        named |= {"rows that differ": other.get("rows that differ")}
        figures |= {f"{key} [{other['scorer']}]": value for key, value in named.items()}
    return figures


def _long(row: Row) -> dict[str, Any]:
    half = math.nan if row.half is None else row.half
    score = {"score": Styled(row.score, incomplete=row.failed > 0), "standard error": row.stderr}
    interval = {"95% low": number(row.score - half), "95% high": number(row.score + half)}
    tokens = {"visual tokens": at(row.data, "tokens.visual_kept"), "of": at(row.data, "tokens.visual_full")}
    tokens |= {"frames": at(row.data, "tokens.frames")}
    speed = {"seconds without encoder": row.data.get("seconds"), "answers/s": row.data.get("samples_per_second")}
    settings = {"scorer": row.data.get("scorer"), "parameters": ", ".join(f"{key}={value}" for key, value in row.config.params)}
    start = _name(row.config) | {"benchmark": row.benchmark, "metric": row.metric}
    return start | score | interval | _counts(row) | {"retention %": row.retention} | tokens | speed | settings


def _provenance(row: Row) -> dict[str, Any]:
    origin = _flat({"": row.data.get("provenance"), "fingerprint": row.data.get("fingerprint")}, "")
    return {"config": str(row.config), "benchmark": row.benchmark} | dict(origin)


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


def _save(pages: Sequence[tuple[str, Sequence[Sequence[Any]]]], path: Path) -> None:
    """Writes a workbook in one step. The same content gives the same bytes, whatever the time."""
    workbook, buffer = openpyxl.Workbook(write_only=True), io.BytesIO()
    for name, lines in pages:
        _fill(workbook.create_sheet(re.sub(r"[\[\]:*?/\\]", "-", name)[:28]), lines)
    workbook.save(buffer)
    with replacing(path) as temporary, zipfile.ZipFile(buffer) as source, zipfile.ZipFile(temporary, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.startswith("xl/worksheets/"):
                data = data.replace(b"\r", b"&#13;")  # readers turn a bare one into a newline
            if entry == "docProps/core.xml":
                data = re.sub(rb"\d{4}-\d\d-\d\dT[\d:]+Z", b"1980-01-01T00:00:00Z", data)
            target.writestr(zipfile.ZipInfo(entry), data, zipfile.ZIP_DEFLATED)


def _fill(sheet: Any, lines: Sequence[Sequence[Any]]) -> None:
    last = get_column_letter(len(lines[0]))
    sheet.freeze_panes, sheet.auto_filter.ref = "B2", f"A1:{last}{len(lines)}"
    for place, column in enumerate(zip(*lines[:200], strict=True), 1):
        width = max(len(_words(value)) for value in column) + 3
        sheet.column_dimensions[get_column_letter(place)].width = min(max(width, 9), 60)
    if "budget" in lines[0]:
        sheet.conditional_formatting.add(f"A2:{last}{len(lines)}", _RULE)
    for place, line in enumerate(lines):
        sheet.append([_cell(sheet, value, head=not place) for value in line])


def _cell(sheet: Any, value: Any, head: bool) -> Any:
    styled = value if isinstance(value, Styled) else Styled(value)
    value = styled.value
    text = value is not None and number(value) is None
    cell = WriteOnlyCell(sheet, escape(str(value)) if text else value)
    if text:
        cell.data_type = "s"  # also what looks like a formula or an error code
    elif value is not None:
        cell.number_format = ("0." + "0" * styled.digits if isinstance(value, float) else "0") + '" *"' * styled.incomplete
    if styled.incomplete:
        cell.fill = _INCOMPLETE
    if styled.bold:
        cell.font = Font(bold=True)
    if head:
        cell.font, cell.fill, cell.alignment = _HEAD
    return cell
