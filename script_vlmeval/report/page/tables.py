"""The page's tables: columns with a kind, and rows whose cells are a number, a text, or a figure with what stands beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...cells import Config
from ...draw import Row, at, number
from ...draw.clear import clear
from .. import figures
from ..comparisons import AGAINST
from ..costs import counted, speed
from ..figures import Interval
from ..reported import Reported, reported
from ..sheets import fine, words
from ..summary import NOT_SCORED, Summary
from .facts import differing, origin

if TYPE_CHECKING:
    from ...stats import Estimate
    from ..evidence import Comparison, Evidence

_MARKS = {"better": "better", "worse": "worse"}


def tables(summary: Summary, evidence: Evidence) -> dict[str, Any]:
    """Name -> {"columns": [{"head", "kind", "digits"}], "rows": [[cell]]}. A cell is null, a number, a text or a mapping: v what
    it is sorted by, t what is shown, s what stands beside it, u below it, l letters, m marks. And "clear": what a clear cell in
    the pictures of kept tokens stands for, by configuration, where that is more than its own token."""
    return {
        "overview": _overview(summary, evidence),
        "results": _results(summary, evidence),
        "statistics": _statistics(evidence.comparisons),
        "provenance": _provenance(summary.answered),
        "clear": {str(config): text for config in summary.configs if (text := clear(config))},
    }


def _table(columns: Sequence[dict[str, Any]], rows: Sequence[list[Any]]) -> dict[str, Any]:
    """Without columns that are empty throughout, and without the model where there is one."""
    used = [i for i, _ in enumerate(columns) if any(row[i] is not None for row in rows)]
    used = [i for i in used if columns[i]["head"] != "model" or len({row[i] for row in rows}) > 1]
    return {"columns": [columns[i] for i in used], "rows": [[row[i] for i in used] for row in rows]}


def _text(head: str) -> dict[str, Any]:
    return {"head": head, "kind": "text"}


def _number(head: str, digits: int = 1) -> dict[str, Any]:
    return {"head": head, "kind": "number", "digits": digits}


# configurations by benchmarks ---------------------------------------------------------------------------------------------


def _overview(summary: Summary, evidence: Evidence) -> dict[str, Any]:
    heads = {row.benchmark: row.heading for row in summary.rows}
    scores = [_number(heads.get(name, name)) for name in summary.benchmarks]
    tokens = [_tokens(summary, config) for config in summary.configs]
    whole = all(count is None or count == round(count) for count in tokens)
    columns = [*_NAMED, _number("visual tokens", 0 if whole else 1), *scores, _number("mean retention %")]
    cells = {(str(row.config), row.benchmark): row for row in summary.rows}
    rows = []
    for config, count in zip(summary.configs, tokens, strict=True):
        named = str(config)
        found = [
            _score(cells.get((named, name)), summary.gaps.get((named, summary.folders[name])), evidence)
            for name in summary.benchmarks
        ]
        rows.append([*_name(config), count, *found, _mean(summary, config, evidence)])
    return _table(columns, rows)


_NAMED = [_text("configuration"), _text("model"), _text("method"), _text("budget")]


def _name(config: Config) -> list[Any]:
    return [str(config), config.model, config.method, config.budget or "full"]


def _tokens(summary: Summary, config: Config) -> float | None:
    """The visual tokens that were read, the mean over the benchmarks' means."""
    read = [row.measured for row in summary.answered if row.config == config and row.measured]
    return sum(read) / len(read) if read else None


def _score(row: Row | None, gap: str | None, evidence: Evidence) -> Any:
    """A score with its interval, letters and, on a line of its own, what others have published of it; or why there is none."""
    if row is None:
        return {"t": gap, "m": "" if gap == NOT_SCORED else "incomplete"} if gap else None
    letters = evidence.letters.get(figures.key(row), "")
    interval = figures.score(row, evidence)
    cell = {"v": number(row.score), "m": "incomplete" if row.incomplete else ""}
    if interval is not None:
        cell["s"] = interval.said(row.score)
    if published := _published(reported(row)):
        cell["u"] = published
    if letters:
        cell |= {"l": letters, "m": f"{cell['m']} best".strip() if "a" in letters else cell["m"]}
    return cell


def _published(found: Reported | None) -> str:
    """With the measured figure of that metric, where it is not the main one."""
    if found is None:
        return ""
    before = f"{found.metric} {found.measured:.1f}, " if found.metric else ""
    return f"{before}published {found.published.figure:.1f}"


def _mean(summary: Summary, config: Config, evidence: Evidence) -> Any:
    """The mean of the benchmarks' ratios, with how many they are where some are missing."""
    if (mean := summary.mean_retention(config)) is None:
        return {"t": "-", "m": ""}
    interval = None if config.full else figures.of(evidence.mean_retention.get(str(config)))
    beside = filter(None, [interval.said(mean.value) if interval else "", mean.lacks])
    return {"v": mean.value, "m": "incomplete" if mean.incomplete else "", "s": "; ".join(beside)}


# a line for each cell -----------------------------------------------------------------------------------------------------


_COUNTED = ("prefill TFLOPs", "x fewer FLOPs than unpruned", "cache MiB")


def _results(summary: Summary, evidence: Evidence) -> dict[str, Any]:
    columns = [
        *_NAMED, _text("benchmark"), _text("metric"), _number("score", 2), _number("95 % interval", 2), _text("letters"),
        _number("published"), _text("published from"), _text("what may differ"),
        _number("retention %"), _number("retention, 95 %"),
        _number("visual tokens"), _number("visual tokens unpruned"), _number("frames"),
        *(_number(head, 3) for head in _COUNTED), _number("seconds per answer", 4),
        _number("loyalty %"), _number("hard rows %"), _number("some method %"), _number("n", 0), _number("failed", 0),
        _text("scorer"), _text("why there is no score"),
    ]  # fmt: skip
    return _table(columns, [_result(row, evidence) for row in summary.answered])


def _result(row: Row, evidence: Evidence) -> list[Any]:
    key, cost = figures.key(row), counted(row)
    hard = evidence.hard.get(key)
    kept = [number(at(row.data, f"tokens.{name}")) for name in ("visual_kept", "visual_full", "frames")]
    score = {"v": number(row.score), "m": "incomplete"} if row.incomplete else number(row.score)
    return [
        *_name(row.config), row.benchmark, row.metric or None, score, _interval(figures.score(row, evidence), 2),
        evidence.letters.get(key), *_told(reported(row)),
        row.retention, _interval(figures.retention(row, evidence)), *kept,
        *(_fine(cost.get(head)) for head in _COUNTED), _fine(speed(row)["seconds per answer"]),
        _beside(evidence.loyalty.get(key)), _beside(hard[0], f" of {hard[1]:,}") if hard else None,
        evidence.oracle.get((row.config.model, row.benchmark, row.config.budget)), row.n,
        {"v": row.failed, "m": "incomplete"} if row.failed else 0, row.scorer or None, row.data.get("unscored") or None,
    ]  # fmt: skip


def _fine(value: float | None) -> Any:
    """With three significant digits."""
    return None if value is None else {"v": value, "t": words(fine(value))}


def _told(found: Reported | None) -> list[Any]:
    """A published figure, whose it is, and the doubts about it."""
    if found is None:
        return [None, None, None]
    beside = {"s": f"{found.metric}; measured {found.measured:.1f}"} if found.metric else {}
    return [{"v": found.published.figure} | beside, found.source, found.doubt or None]


def _interval(interval: Interval | None, digits: int = 1) -> Any:
    """Its two ends, sorted by the lower one."""
    if interval is None:
        return None
    return {"v": interval.low, "t": f"{interval.low:.{digits}f} to {interval.high:.{digits}f}"}


def _beside(estimate: Estimate | None, more: str = "") -> Any:
    if estimate is None or not math.isfinite(estimate.value):
        return None
    interval = figures.of(estimate)
    return {"v": estimate.value, "s": (interval.said(estimate.value) if interval else "") + more}


# statistics and provenance ------------------------------------------------------------------------------------------------


def _statistics(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    columns = [
        _text("benchmark"), _text("configuration"), _text("against"), _text("why"), _number("difference", 2),
        _number("95 % interval", 2), _text("verdict"), _number("p", 4), _number("Holm p", 4), _number("McNemar p", 4),
        _number("won", 0), _number("lost", 0), _number("smallest detectable", 2), _number("n", 0), _number("clusters", 0),
    ]  # fmt: skip
    return _table(columns, [_comparison(comparison) for comparison in comparisons])


def _comparison(comparison: Comparison) -> list[Any]:
    found = comparison.difference
    verdict = {"t": comparison.verdict, "m": _MARKS.get(comparison.verdict, "even")}
    mcnemar = None if found.mcnemar is None else number(found.mcnemar)
    return [
        comparison.benchmark, str(comparison.config), str(comparison.against), AGAINST.get(comparison.why, comparison.why),
        number(found.value), _interval(figures.of(found), 2), verdict, number(found.p), number(comparison.adjusted),
        mcnemar, found.won, found.lost, number(found.detectable), found.n, found.clusters,
    ]  # fmt: skip


def _provenance(rows: Sequence[Row]) -> dict[str, Any]:
    keys = differing(rows)
    lines = [[str(row.config), row.benchmark, *(origin(row).get(key) for key in keys)] for row in rows]
    return _table([_text("configuration"), _text("benchmark"), *map(_text, keys)], lines)
