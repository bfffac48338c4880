"""Budgets over several benchmarks: which configurations of a model read equally many visual tokens on each of them."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .row import Row, peers


@dataclass(frozen=True)
class Budget:
    """`lines`: how a configuration is called here -> its rows by benchmark. A method that is there twice has its budget added."""

    label: str
    lines: Mapping[str, Mapping[str, Row]]

    def method(self, name: str) -> str:
        return next(iter(self.lines[name].values())).config.method


def budgets(rows: Sequence[Row]) -> list[Budget]:
    """The pruned configurations of one model, the largest budget first. Rows without a measurement are left out."""
    cells = defaultdict[str, dict[str, Row]](dict)
    for row in rows:
        if not row.config.full and row.tokens:
            cells[str(row.config)][row.benchmark] = row
    places = {name: statistics.fmean(row.tokens for row in own.values()) for name, own in cells.items()}
    groups: list[list[dict[str, Row]]] = []
    for name in sorted(cells, key=lambda name: (-places[name], name)):
        home = next((group for group in groups if all(_alike(cells[name], other) for other in group)), None)
        if home is None:
            groups.append(home := [])
        home.append(cells[name])
    return [Budget(_label(group), _named(group)) for group in groups]


def _alike(one: Mapping[str, Row], other: Mapping[str, Row]) -> bool:
    """Whether they read equally many tokens on every benchmark that both have, one at least."""
    both = one.keys() & other.keys()
    return bool(both) and all(len(peers([one[name], other[name]])) == 1 for name in both)


def _label(group: Sequence[Mapping[str, Row]]) -> str:
    """By the number that the most of them are named by; else by the share, where all are; else by what was measured."""
    rows = [row for own in group for row in own.values()]
    named = Counter(f"{row.tokens:.0f}" for row in rows if row.tokens == row.named)
    if named:
        return f"{named.most_common(1)[0][0]} tokens"
    budget = rows[0].config.budget
    if budget.endswith("pct") and all(row.config.budget == budget for row in rows):
        return f"{budget.removesuffix('pct')} % of the tokens"
    return f"{statistics.fmean(row.tokens for row in rows):.4g} tokens"


def _named(group: Sequence[Mapping[str, Row]]) -> dict[str, Mapping[str, Row]]:
    configs = {str(row.config): row.config for own in group for row in own.values()}
    times = Counter(config.method for config in configs.values())
    lines = {}
    for own in group:
        config = next(iter(own.values())).config
        lines[f"{config.method} {config.budget}" if times[config.method] > 1 else config.method] = own
    return lines
