"""Paired comparisons from the disk: `run.py compare A B`, two configurations of one folder of results, or two people's results.

The same rows were answered twice, so what differs row by row says far more than two scores with two intervals. Between two
folders it is also told which settings differ, and on which rows the answers do, also where no setting explains it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import stats
from .benchmarks import expand
from .cells import Config
from .draw import Row, at, headed, number
from .errors import UserError, unknown
from .files import disk, dumps, read_json
from .report.worth import Worths, loyalty, read_worth, unlike
from .stats import Difference, Estimate
from .store import CELL, RESULT, WORTH, CellStore

_OWN = ("config", "code", "relevance", "clip")  # settings in which two configurations differ by nature, with `method ...`
SAME = "no difference"
_ROWS = 8  # rows with other answers that are named


def command(a: str, b: str, work_dir: Path, data: Sequence[str] = ()) -> int:
    """Prints the comparison. The exit status: 0, or 1 where a cell that both have could not be compared.

    a, b: configurations in `work_dir`, folders of results, or FOLDER/configuration. data: benchmarks, all without. UserError
    where nothing can be compared.
    """
    first, second = _side(a, work_dir), _side(b, work_dir)
    pairs = _pairs(first, second, [benchmark.name for benchmark in expand(data)])
    found, refused = list[Pair](), list[str]()
    for one, other in pairs:
        try:
            found.append(Pair.of(one, other))
        except UserError as error:
            refused.append(f"{one.name if first.config is None else one.row.folder}: {error}")
    if not found:
        raise UserError("\n  ".join(["Nothing here can be compared:", *refused][len(refused) == 1 :]))
    print("\n".join(_told(found, first, second)))
    for reason in refused:
        print(f"Not compared: {reason}")
    return 1 if refused else 0


# sides -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Side:
    """What A or B stands for: a folder of results, and one configuration in it or, with none, all."""

    said: str
    folder: Path
    config: str | None

    def cells(self) -> dict[tuple[str, str], Path]:
        """(configuration, benchmark) -> folder, of those with a result. The configuration is '' where it is this side's own."""
        with disk(self.folder):
            found = sorted(self.folder.glob(f"{self.config or '*'}/*/{RESULT}"))
        cells = [path.parent for path in found if _parsed(path.parent.parent.name)]
        return {("" if self.config else cell.parent.name, cell.name): cell for cell in cells}


def _side(said: str, work_dir: Path) -> Side:
    """A configuration of the work dir before a folder of the same name."""
    if "/" not in said and (work_dir / said).is_dir() and _parsed(said):
        return Side(said, work_dir, said)
    path = Path(said).expanduser()
    if path.is_dir() and (_parsed(path.name) and not any(path.glob(f"*/*/{RESULT}"))):
        return Side(said, path.parent, path.name)
    if path.is_dir():
        return Side(said, path, None)
    where, name = (path.parent, path.name) if "/" in said else (work_dir, said)
    known = [folder.name for folder in where.glob("*/") if _parsed(folder.name)] if where.is_dir() else []
    if not known:
        raise UserError(f"'{said}' is neither a folder of results nor a configuration in '{where}', which has none.")
    raise unknown("configuration", name, known, f"(in '{where}'; a folder of results may be named too)")


def _parsed(name: str) -> Config | None:
    try:
        return Config.parse(name)
    except UserError:
        return None


def _pairs(a: Side, b: Side, data: Sequence[str]) -> list[tuple[Cell, Cell]]:
    """What both have. UserError where that is nothing, or lacks a benchmark that was named."""
    if (a.config is None) != (b.config is None):
        one, other = (a, b) if a.config is None else (b, a)
        raise UserError(f"'{one.said}' is a folder of results and '{other.said}' one configuration: name two of a kind.")
    if (a.folder.resolve(), a.config) == (b.folder.resolve(), b.config):
        raise UserError(f"'{a.said}' and '{b.said}' are the same results: name two.")
    here, there = a.cells(), b.cells()
    both = [key for key in here if key in there]
    for name in data:
        for side, cells in ((a, here), (b, there)):
            if name not in {benchmark for _, benchmark in cells}:
                raise UserError(f"'{side.said}' has no result on {name}. {_finish(side)}")
    chosen = [key for key in both if not data or key[1] in data]
    if not chosen:
        has = "; ".join(f"'{side.said}' has {len(cells) or 'none'}" for side, cells in ((a, here), (b, there)))
        raise UserError(f"There is no finished cell that both have ({has}). {_finish(a)}")
    return [(Cell(here[key]), Cell(there[key])) for key in chosen]


def _finish(side: Side) -> str:
    return f"`run.py status --work-dir {side.folder}` says what is done; the same run again finishes the rest."


# cells -------------------------------------------------------------------------------------------------------------------


class Cell:
    """A finished cell's folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def name(self) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def row(self) -> Row:
        data = read_json(self.folder / RESULT) or {}
        score, n = number(data.get("score")), data.get("n")
        if data.get("unscored"):
            raise UserError(f"'{self.folder}' has answers and no score: {data['unscored']}.")
        if score is None or not isinstance(n, int):
            raise UserError(f"'{self.folder}' holds no result of this program: `{self.again}` writes it anew.")
        failed = data["failed"] if isinstance(data.get("failed"), int) else 0
        return Row(Config.parse(self.folder.parent.name), self.folder.name, score, number(data.get("stderr")), n, failed, data)

    @cached_property
    def worths(self) -> Worths:
        """What each row is worth. UserError where that is not known, or is not what the score is made of."""
        found = read_worth(self.folder / WORTH)
        if found is None:
            raise UserError(
                f"'{self.folder}' does not say what its rows are worth (no readable {WORTH}): `{self.again}`, with the other "
                "flags of its run, scores the answers again and writes it, unless its scorer knows the whole alone."
            )
        alone = "its scorer knows the whole alone" if np.isnan(found.points).all() else ""
        if why := unlike(found, self.row) or alone:
            raise UserError(
                f"'{self.folder}' has rows that do not explain its score ({WORTH}: {why}): `{self.again}` scores it again."
            )
        return found

    @property
    def again(self) -> str:
        config, folder = self.folder.parent.name, self.folder
        return f"run.py --mode eval --model {config} --data {folder.name} --work-dir {folder.parents[1]}"

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        found = read_json(self.folder / CELL) or at(self.row.data, "fingerprint")
        return found if isinstance(found, dict) else {}

    def said(self) -> dict[str, str | None]:
        """Row index -> its answer, None of a row that failed."""
        store = CellStore(self.folder.parents[1], self.folder.parent.name, self.folder.name, self.settings)
        return {record["index"]: record.get("prediction") for record in store.records(store.lines().values())}


@dataclass(frozen=True)
class Pair:
    """Two cells on the same rows."""

    a: Cell
    b: Cell
    data: stats.Resampled  # column 0: A, column 1: B
    difference: Difference
    loyalty: Estimate | None  # percent of rows from which the same was read; None where the scorer does not say

    @classmethod
    def of(cls, a: Cell, b: Cell) -> Pair:
        """UserError for cells that cannot be compared."""
        for what, get in _ALIKE.items():
            if get(a.row) != get(b.row):
                raise UserError(f"{what}: {get(a.row) or 'none'} in '{a.folder}', {get(b.row) or 'none'} in '{b.folder}'.")
        ours, theirs = a.worths, b.worths.like(a.worths)
        if theirs is None:
            raise UserError(f"other rows: '{a.folder}' and '{b.folder}' have {a.row.n:,} each, but not the same ones.")
        points, worth = (np.stack([getattr(x, name) for x in (ours, theirs)], axis=1) for name in ("points", "worth"))
        data = stats.Resampled(points, ours.clusters, worth=worth)
        same = loyalty(ours.reads, theirs.reads, ours.clusters)
        return cls(a, b, data, data.difference(0, 1), same)

    def differing(self) -> list[str]:
        """The settings that are not equal, each as 'name: A's -> B's'."""
        a, b = self.a.settings, self.b.settings
        names = [name for name in {**a, **b} if dumps(a.get(name)) != dumps(b.get(name))]
        return [f"{name}: {a.get(name, '(none)')} -> {b.get(name, '(none)')}" for name in names]

    def other_answers(self) -> list[str]:
        """The rows, in the table's order."""
        a, b = self.a.said(), self.b.said()
        return [index for index in self.a.worths.indices if a.get(index) != b.get(index)]


_ALIKE: dict[str, Callable[[Row], Any]] = {
    "other numbers of rows": lambda row: row.n,
    "other tables (their digests differ)": lambda row: at(row.data, "fingerprint.data"),
    "other main figures": lambda row: row.metric,
    "other scorers": lambda row: row.scorer,
    "other judges": lambda row: row.judge,
}


# words -------------------------------------------------------------------------------------------------------------------


def _told(pairs: Sequence[Pair], a: Side, b: Side) -> Iterator[str]:
    folders = a.config is None
    yield f"A: {a.said}"
    yield f"B: {b.said}"
    yield ""
    yield from _table(pairs, folders)
    yield ""
    yield from _overall(pairs, folders)
    yield from _settings(pairs, natural=not folders and a.config != b.config)
    if folders or a.config == b.config:
        yield from _answers(pairs)


def _table(pairs: Sequence[Pair], folders: bool) -> list[str]:
    """A line for each pair, and what its columns mean."""
    adjusted = stats.holm([pair.difference.p for pair in pairs])
    several = len(pairs) > 1
    lines = [_line(pair, p, several, folders) for pair, p in zip(pairs, adjusted, strict=True)]
    cells = [list(lines[0]), *(list(line.values()) for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    last = len(widths) - 1
    table = ["  ".join(t.ljust(w) if i in (0, last) else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True)))
             for row in cells]  # fmt: skip
    return [*(line.rstrip() for line in table), "", *_legend(several)]


def _line(pair: Pair, adjusted: float, several: bool, folders: bool) -> dict[str, str]:
    found, row = pair.difference, pair.a.row
    name = headed(pair.a.name if folders else row.folder, row.metric)
    return {
        "": name,
        "n": f"{found.n:,}",
        "clusters": f"{found.clusters:,}",
        "A": f"{row.score:.2f}",
        "B": f"{pair.b.row.score:.2f}",
        "A - B": f"{found.value:+.2f}",
        "95 %": _interval(found, "+.2f"),
        "p": _p(found.p),
        **({"Holm p": _p(adjusted)} if several else {}),
        "McNemar": _p(found.mcnemar),
        "won": str(found.won),
        "lost": str(found.lost),
        "same": "-" if pair.loyalty is None else f"{pair.loyalty.value:.1f} %",
        "detectable": "-" if not found.detectable > 0 else f"{found.detectable:.2f}",
        "verdict": _verdict(found, adjusted),
    }


def _legend(several: bool) -> list[str]:
    holm = ["Holm p: p for as many comparisons as there are lines; verdicts go by it."] if several else []
    return [
        "p: two-sided, rows about one picture or video taken together; McNemar: rows as independent ones.",
        *holm,
        "won, lost: rows that A, that B alone has right (or better); same: rows from which the same was read.",
        "detectable: the true difference that four of five such comparisons would find.",
    ]


def _verdict(found: Difference, adjusted: float) -> str:
    if found.value == 0 and found.won == found.lost == 0:
        return SAME
    if np.isnan(adjusted) or adjusted >= 1 - stats.LEVEL:
        return "cannot tell"
    return "A is better" if found.value > 0 else "A is worse"


def _overall(pairs: Sequence[Pair], folders: bool) -> Iterator[str]:
    """The mean over benchmarks of A in percent of B, for every configuration: units of benchmarks differ."""
    groups = defaultdict[str, list[Pair]](list)
    for pair in pairs:
        groups[pair.a.folder.parent.name if folders else ""].append(pair)
    for name, group in groups.items():
        known = [pair for pair in group if pair.data.means[1] > 0]
        if len(known) < 2:
            continue
        parts = [(p.data.draws[:, 0], p.data.draws[:, 1], float(p.data.means[0]), float(p.data.means[1])) for p in known]
        mean = stats.mean_of_ratios(parts)
        sure = mean.known and not mean.low <= 100 <= mean.high
        verdict = ("A is better" if mean.value > 100 else "A is worse") if sure else "cannot tell"
        if all(_verdict(pair.difference, 1.0) == SAME for pair in known):
            verdict = SAME
        of = f"{name}, " if name else ""
        ends = f"95 %: {_interval(mean, '.2f')}"
        yield f"Overall, {of}mean over {len(known)} benchmarks of A in percent of B: {mean.value:.2f} ({ends}): {verdict}"


def _settings(pairs: Sequence[Pair], natural: bool) -> Iterator[str]:
    """What else differs than what is compared. natural: two configurations, whose methods do."""
    where = defaultdict[str, list[str]](list)
    for pair in pairs:
        for change in pair.differing():
            name = change.partition(": ")[0]
            if not (natural and (name.startswith("method ") or name in _OWN)):
                where[change].append(pair.a.name)
    if where:
        yield "Settings that differ (A's -> B's):"
        for change, cells in where.items():
            yield f"  {change}" + (f"  ({cells[0]} alone)" if len(cells) == 1 < len(pairs) else f"  ({len(cells)} cells)")
    elif not natural:
        yield "All settings are equal: parameters, checkpoint, versions, precision, data."


def _answers(pairs: Sequence[Pair]) -> Iterator[str]:
    """Where answers differ, and whether settings explain it."""
    for pair in pairs:
        if not (rows := pair.other_answers()):
            continue
        named = ", ".join(rows[:_ROWS]) + (", ..." if len(rows) > _ROWS else "")
        equal = "" if pair.differing() else ", though all settings are equal"
        half = " (half precision: rounding goes with the batch)" if equal and at(pair.a.settings, "dtype") != "float32" else ""
        yield f"Other answers, {pair.a.name}: {len(rows):,} of {pair.a.row.n:,} rows{equal}{half}: {named}"


def _interval(found: Estimate, form: str) -> str:
    return f"[{found.low:{form}}, {found.high:{form}}]" if found.known else "-"


def _p(value: float | None) -> str:
    if value is None or np.isnan(value):
        return "-"
    return "<0.0001" if value < 0.0001 else f"{value:.4f}"
