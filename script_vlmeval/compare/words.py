"""What a comparison says: the table, the mean over benchmarks, the settings and answers that differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from .. import stats
from ..draw import at, headed
from ..errors import UserError
from ..stats import Difference, Estimate
from .pair import Pair
from .sides import Side

SAME = "no row differs"
_OWN = ("config", "code", "relevance", "clip")  # settings in which two configurations differ by nature, with `method ...`
_ROWS = 8  # rows with other answers that are named


def told(pairs: Sequence[Pair], a: Side, b: Side) -> Iterator[str]:
    folders = a.config is None
    yield f"A: {a.said}"
    yield f"B: {b.said}"
    yield ""
    yield from _table(pairs, folders)
    yield from _failed(pairs, folders)
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
    return {
        "": _name(pair, folders),
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


def _name(pair: Pair, folders: bool) -> str:
    return headed(pair.a.name if folders else pair.a.row.folder, pair.a.row.metric)


def _failed(pairs: Sequence[Pair], folders: bool) -> Iterator[str]:
    """A line for each side with rows that have no answer."""
    for pair in pairs:
        for side, failed in (("A", pair.a.row.failed), ("B", pair.b.row.failed)):
            if failed:
                rows = "1 row of {} failed and counts" if failed == 1 else f"{failed:,} rows of {{}} failed and count"
                yield f"{_name(pair, folders)}: {rows.format(side)} as wrong."


def _legend(several: bool) -> list[str]:
    holm = ["Holm p: p for as many comparisons as there are lines; verdicts go by it."] if several else []
    return [
        "p: two-sided, rows about one picture or video taken together; McNemar: rows as independent ones.",
        *holm,
        "won, lost: rows that A, that B alone has right (or better); same: rows from which the same was read.",
        "detectable: the true difference that four of five such comparisons would find.",
    ]


def _verdict(found: Difference, adjusted: float) -> str:
    if found.value == found.stderr == found.won == found.lost == 0:
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
        mean = stats.mean_of_ratios([pair.data.ratio(0, 1) for pair in known])
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
        try:
            rows = pair.other_answers()
        except UserError as error:
            yield f"Answers not compared, {pair.a.name}: {error}."
            continue
        if not rows:
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
