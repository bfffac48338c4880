"""What the rows on disk say of the scores: intervals, paired comparisons, and which configurations cannot be told apart.

Rows are compared where two cells of one model have the same rows of the same table; a cell without `worth.jsonl`, or with a
damaged one, has no entries. p values are adjusted by Holm within a family: one benchmark, one model, and comparisons of one kind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal, TypeAlias

import numpy as np

from .. import stats
from ..cells import Config
from ..draw import Row, peers
from ..stats import Difference, Estimate
from .figures import key
from .summary import Summary
from .worth import Panel, loyalty, panels, worth_file

Key: TypeAlias = tuple[str, str]  # (str(config), row.benchmark)
Why: TypeAlias = Literal["full", "random", "pair"]

RANDOM, DOWNSAMPLE = "random", "downsample"
_FAMILIES: tuple[Why, ...] = ("full", "random", "pair")
_WRONG = 0.5  # a row worth less is wrong


@dataclass(frozen=True)
class Comparison:
    """config - against on one benchmark. adjusted: Holm's p within the family.

    why: against the unpruned model ('full'), random choice among the peers ('random'), or any of the peers ('pair').
    """

    benchmark: str
    config: Config
    against: Config
    why: Why
    difference: Difference
    adjusted: float

    @property
    def verdict(self) -> str:
        """Of `config`, at 5 % after the adjustment."""
        if not self.adjusted < 1 - stats.LEVEL:
            return "cannot tell"
        return "better" if self.difference.value > 0 else "worse"


@dataclass(frozen=True)
class Evidence:
    """Keyed by (str(config), row.benchmark) unless said otherwise; what is not known has no entry.

    Peers are configurations of one model that read equally many visual tokens, the unpruned one left out.
    interval: of the score, in its unit. retention, mean_retention (by str(config)): percent of the unpruned model.
    letters: peers that share a letter cannot be told apart. loyalty: percent of rows read as the unpruned model's answer.
    hard: percent right of the rows that plain downsampling among the peers has wrong, and how many these are.
    oracle: by (model, benchmark, budget), percent of rows that some peer has right. Peers that were not all asked the same rows
    have neither letters nor an oracle.
    damaged: cells whose rows on disk cannot be used: nothing else stands in for their intervals.
    """

    interval: dict[Key, Estimate] = field(default_factory=dict)
    retention: dict[Key, Estimate] = field(default_factory=dict)
    mean_retention: dict[str, Estimate] = field(default_factory=dict)
    letters: dict[Key, str] = field(default_factory=dict)
    loyalty: dict[Key, Estimate] = field(default_factory=dict)
    hard: dict[Key, tuple[Estimate, int]] = field(default_factory=dict)
    oracle: dict[tuple[str, str, str], float] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    damaged: set[Key] = field(default_factory=set)


def evidence(summary: Summary) -> Evidence:
    """Read from the folder that the summary is of."""
    found = Evidence()
    told: set[Key] = set()
    tables: dict[Key, list[Row]] = defaultdict(list)
    for row in summary.rows:
        tables[row.config.model, row.benchmark].append(row)
    for panel in panels(summary.rows, summary.workbook.parent):
        first = panel.rows[0]
        alike = peers(tables[first.config.model, first.benchmark])  # also of those that have no panel, as the plots have it
        _Reading(panel, alike).into(found)
        told.update(map(key, panel.rows))
    for config in summary.configs:
        if (mean := _mean_retention(summary, config, found)) is not None:
            found.mean_retention[str(config)] = mean
    silent = (row for row in summary.rows if key(row) not in told)
    found.damaged.update(key(row) for row in silent if worth_file(row, summary.workbook.parent).exists())
    return found


def _mean_retention(summary: Summary, config: Config, found: Evidence) -> Estimate | None:
    """None where a benchmark of the mean has no interval. Of a single benchmark, its own."""
    ratios = [found.retention.get(key(row)) for row in summary.compared(config)]
    known = [ratio for ratio in ratios if ratio is not None]
    if not known or len(known) < len(ratios):
        return None
    return known[0] if len(known) == 1 else stats.mean_of_ratios(known)


def _known(estimates: Iterable[tuple[Key, Estimate]]) -> Iterator[tuple[Key, Estimate]]:
    """Those with an interval: a single picture has none."""
    return ((key, estimate) for key, estimate in estimates if estimate.known)


@dataclass(frozen=True)
class _Peers:
    """A group of cells with equally many visual tokens: those in the panel, by their columns.

    budget: what the group is called, also by its cells in other panels; whole: it has no cells there.
    """

    columns: list[int]
    budget: str
    tokens: float
    whole: bool


class _Reading:
    """What one panel says. `alike`: groups of cells with equally many visual tokens, in the panel or not."""

    def __init__(self, panel: Panel, alike: Sequence[Sequence[Row]]) -> None:
        self.panel, self.rows = panel, panel.rows
        self.benchmark, self.model = self.rows[0].benchmark, self.rows[0].config.model
        self.data = stats.Paired(panel.points, panel.clusters, worth=panel.worth)
        self.full = next((i for i, row in enumerate(self.rows) if row.config.full), None)
        self.peers = [self._group(group) for group in alike]

    def _group(self, group: Sequence[Row]) -> _Peers:
        place = {str(row.config): i for i, row in enumerate(self.rows)}
        names = {str(row.config) for row in group if not row.config.full}
        known = [row for row in (*self.rows, *self.panel.others) if str(row.config) in names]
        budget = " / ".join(dict.fromkeys(row.config.budget for row in sorted(known, key=lambda row: row.order)))
        columns = sorted(place[name] for name in names if name in place)
        return _Peers(columns, budget, group[0].measured, len(columns) == len(known))

    def into(self, found: Evidence) -> None:
        """Adds what there is to say."""
        comparisons = self._comparisons()
        found.comparisons.extend(comparisons)
        found.letters.update(self._letters(comparisons))
        found.interval.update(_known((self._key(i), self.data.estimate(i)) for i in range(len(self.rows))))
        found.retention.update(_known(self._retentions()))
        found.loyalty.update(_known(self._loyalty()))
        for group in self.peers:
            found.hard.update((key, (share, n)) for key, share, n in self._hard(group.columns) if share.known)
        found.oracle.update(self._oracles())

    def _key(self, i: int) -> Key:
        return key(self.rows[i])

    def _comparisons(self) -> list[Comparison]:
        groups = [group.columns for group in self.peers]
        pairs: dict[Why, list[tuple[int, int]]] = {
            "full": [(i, self.full) for i in range(len(self.rows)) if self.full is not None and i != self.full],
            "random": [(i, at) for group in groups for i in group if (at := self._baseline(group, i, RANDOM)) is not None],
            "pair": [pair for group in groups for pair in combinations(group, 2)],
        }
        return [comparison for why in _FAMILIES for comparison in self._family(why, sorted(pairs[why]))]

    def _family(self, why: Why, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        differences = [self.data.difference(a, b) for a, b in pairs]
        adjusted = stats.holm([difference.p for difference in differences])
        return [
            Comparison(self.benchmark, self.rows[a].config, self.rows[b].config, why, difference, p)
            for (a, b), difference, p in zip(pairs, differences, adjusted, strict=True)
            if difference.known
        ]

    def _baseline(self, group: Sequence[int], i: int, method: str) -> int | None:
        """The peer that a method is measured by: of the same budget where there are several; None for itself."""
        configs = {at: self.rows[at].config for at in group if self.rows[at].config.method == method}
        same = [at for at, config in configs.items() if config.budget == self.rows[i].config.budget]
        found = next(iter([*same, *configs]), None)
        return None if self.rows[i].config.method == method else found

    def _retentions(self) -> Iterator[tuple[Key, Estimate]]:
        for i, row in enumerate(self.rows):
            if self.full is not None and row.retention is not None:
                yield self._key(i), self.data.ratio(i, self.full)

    def _whole(self) -> list[_Peers]:
        """Groups of which all may be held against all: peers with other rows would seem to be tied with each other."""
        return [group for group in self.peers if group.whole and len(group.columns) > 1]

    def _letters(self, comparisons: Sequence[Comparison]) -> Iterator[tuple[Key, str]]:
        told = {(str(c.config), str(c.against)) for c in comparisons if c.why == "pair" and c.verdict != "cannot tell"}
        for group in self._whole():
            names = [str(self.rows[i].config) for i in group.columns]
            apart = np.array([[(a, b) in told for b in names] for a in names], dtype=bool)
            means = [self.data.means[i] for i in group.columns]
            yield from zip(map(self._key, group.columns), stats.letters(means, apart), strict=True)

    def _loyalty(self) -> Iterator[tuple[Key, Estimate]]:
        full = None if self.full is None else self.panel.reads[self.full]
        for i, reads in enumerate(self.panel.reads):
            if i != self.full and (share := loyalty(reads, full, self.panel.clusters)) is not None:
                yield self._key(i), share

    def _hard(self, group: Sequence[int]) -> Iterator[tuple[Key, Estimate, int]]:
        for i in group:
            plain = self._baseline(group, i, DOWNSAMPLE)
            if plain is None or np.isnan(self.panel.worth[:, [i, plain]]).any():
                continue
            wrong = self.panel.worth[:, plain] < _WRONG
            if wrong.any():
                yield self._key(i), stats.share(self.panel.worth[wrong, i], self.data.codes[wrong]), int(wrong.sum())

    def _oracles(self) -> Iterator[tuple[tuple[str, str, str], float]]:
        """Groups with the same budgets' names, here or in another panel, are told apart by the tokens that they read."""
        labels = [group.budget for group in self.peers]
        for group in self._whole():
            worth = self.panel.worth[:, group.columns]
            if not np.isnan(worth).any():
                mark = f" ({group.tokens:.0f} tokens)" if labels.count(group.budget) > 1 else ""
                yield (self.model, self.benchmark, group.budget + mark), 100 * float(worth.max(axis=1).mean())
