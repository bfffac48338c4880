"""Results from the disk: scores by different scorers are told apart, and compared with the unpruned model's by the same one."""

from __future__ import annotations

import json
import logging
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..cells import Config
from ..draw import Row, at, headed, number
from ..errors import UserError
from ..files import disk
from ..store import CELL, PREDICTIONS, RESULT
from .summary import NOT_SCORED, UNFINISHED, UNREADABLE, Summary

_log = logging.getLogger(__name__)


def read(work_dir: Path) -> Summary:
    """Every result under a folder. UserError when there is none, or it cannot be read."""
    with disk(work_dir):
        folders = sorted(path for path in work_dir.glob("*/*/") if any((path / f).exists() for f in (CELL, PREDICTIONS, RESULT)))
    found = {(path.parent.name, path.name): _read(path) for path in folders}
    cells = [row for row in found.values() if isinstance(row, Row)]
    unscored = sorted((row for row in cells if row.data.get("unscored")), key=lambda row: row.order)
    rows = _compared(sorted(_apart([row for row in cells if not row.data.get("unscored")]), key=lambda row: row.order))
    gaps = {key: reason for key, reason in found.items() if isinstance(reason, str)}
    if not cells:
        begun = f" ({len(gaps)} begun: run the same command again)" if gaps else ""
        raise UserError(f"There are no results in '{work_dir}'{begun}. Name the --work-dir of a run, or run one first.")
    gaps |= {(str(row.config), row.benchmark): NOT_SCORED for row in unscored}
    plot = work_dir / "accuracy.png" if any(row.tokens and not row.config.full for row in rows) else None
    return Summary(tuple(rows), gaps, work_dir / "summary.xlsx", plot, tuple(unscored))


def _read(folder: Path) -> Row | str | None:
    """The result in a cell's folder, or why there is none; None for a folder that is no cell's."""
    if (config := Config.of_folder(folder.parent.name)) is None:
        return None
    if not (folder / RESULT).exists():
        return UNFINISHED
    try:
        return _parse(config, folder.name, _loaded(folder / RESULT))
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        _log.warning(
            "%s: not a result of this program (%s), so its cell is left out. Remove the file and run the sweep again: answers "
            "on disk are not asked again",
            folder / RESULT,
            _why(error),
        )
        return UNREADABLE


def _loaded(path: Path) -> dict[str, Any]:
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    return found


def _why(error: Exception) -> str:
    """In words: what Python calls a missing key or a foreign type says nothing to who reads it."""
    if isinstance(error, KeyError):
        return f"it lacks '{error.args[0]}'"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | RecursionError):
        return "not readable as JSON"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error) if type(error) is ValueError else "a value is of another kind"


def _parse(config: Config, benchmark: str, data: Mapping[str, Any]) -> Row:
    cell, score = data["cell"], math.nan if data.get("unscored") else number(data["score"])
    if (cell["config"], cell["benchmark"]) != (str(config), benchmark):
        raise ValueError(f"it is about {cell['config']} on {cell['benchmark']}")
    if score is None or not isinstance(data["metrics"], dict):
        raise ValueError("it has no score")
    config = replace(config, params=tuple(sorted((cell.get("params") or {}).items())))
    return Row(config, benchmark, score, number(data.get("stderr")), int(data["n"]), int(data["failed"]), data)


# scorers -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    """What tells scores apart that must not share a column: the main figure, and who scored."""

    metric: str
    scorer: str
    judge: str

    @property
    def names(self) -> tuple[str, ...]:
        """From the shortest to one that no other way has."""
        name = self.scorer.removeprefix("script_vlmeval ").removeprefix("vlmeval ")
        short = self.judge.partition(" at ")[0] or name.partition(" (")[0]
        whole = self.scorer if self.judge in self.scorer else f"{self.scorer}, {self.judge}"
        return "", short, self.judge or name, whole


def _apart(rows: Sequence[Row]) -> list[Row]:
    """Where a benchmark was scored in several ways, by string match and by a judge, each way is a benchmark of its own."""
    ways: dict[str, set[_Way]] = defaultdict(set)
    for row in rows:
        ways[row.benchmark].add(_way(row))
    names = {benchmark: _names(benchmark, several) for benchmark, several in ways.items()}
    return [replace(row, benchmark=names[row.benchmark][_way(row)]) for row in rows]


def _way(row: Row) -> _Way:
    return _Way(row.metric, row.scorer, row.judge)


def _names(benchmark: str, ways: Collection[_Way]) -> dict[_Way, str]:
    """What to call each: by the metric where metrics differ, by the scorer where that is not enough, in as few words as do."""
    if len(ways) == 1:
        return dict.fromkeys(ways, benchmark)
    differ = len({way.metric for way in ways}) > 1
    found = {}
    for way in ways:
        rivals = [other for other in ways if other != way and other.metric == way.metric]
        names = way.names if differ else way.names[1:]
        mark = next((n for i, n in enumerate(names, -len(names)) if all(n != other.names[i] for other in rivals)), names[-1])
        if differ:
            found[way] = f"{benchmark} ({', '.join(filter(None, (way.metric, mark)))})"
        else:
            found[way] = f"{headed(benchmark, way.metric)} ({mark})"
    return found


# the unpruned model ------------------------------------------------------------------------------------------------------


def _compared(rows: Sequence[Row]) -> list[Row]:
    full = {(row.config.model, row.benchmark): row for row in rows if row.config.full}
    return [replace(row, retention=_retention(row, full.get((row.config.model, row.benchmark)))) for row in rows]


def _retention(row: Row, full: Row | None) -> float | None:
    """None without an unpruned score by the same scorer, or when that one was measured on other rows."""
    if full is None or full.score <= 0:
        return None
    if full.n != row.n:
        _log.warning("%s on %s: %d rows, but %d of %s: no retention", row.config, row.benchmark, row.n, full.n, full.config)
        return None
    if at(full.data, "fingerprint.data") != at(row.data, "fingerprint.data"):
        _log.warning("%s on %s: %s saw another table: no retention", row.config, row.benchmark, full.config)
        return None
    return 100 * row.score / full.score
