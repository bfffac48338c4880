"""What is known of a folder of results."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..cells import Config
from ..draw import Row

if TYPE_CHECKING:
    from .evidence import Evidence

NOT_SCORED, UNFINISHED, UNREADABLE = "not scored", "unfinished", "unreadable"


@dataclass(frozen=True)
class Mean:
    """The mean of a configuration's retentions, over `n` of the benchmarks on which the unpruned model scores above 0."""

    value: float
    n: int
    of: int
    incomplete: bool  # whether a score that it rests on is

    @property
    def lacks(self) -> str:
        """'2 of 3' where benchmarks are missing."""
        return f"{self.n} of {self.of}" if self.n < self.of else ""


@dataclass(frozen=True)
class Summary:
    """All finished cells, in the order of the tables, and why others have no score ((config, benchmark) -> reason).

    unscored: those that are finished and have no score: a server or a judge gives it. Their score is not a number.
    The rest is known once it was written: what the answers say of the scores, plots, workbooks of configurations, the page.
    """

    rows: tuple[Row, ...]
    gaps: Mapping[tuple[str, str], str]
    workbook: Path
    plot: Path | None
    unscored: tuple[Row, ...] = ()
    evidence: Evidence | None = None
    plots: tuple[Path, ...] = ()
    books: tuple[Path, ...] = ()
    page: Path | None = None

    @property
    def benchmarks(self) -> list[str]:
        return sorted(self.folders)

    @cached_property
    def folders(self) -> dict[str, str]:
        """What has a column -> the benchmark's own name: several have the same where its scores are told apart."""
        scored = {row.benchmark: row.folder for row in self.rows}
        known = set(scored.values())
        return scored | {name: name for _, name in self.gaps if name not in known}

    @cached_property
    def configs(self) -> list[Config]:
        known = {config: Row(Config.parse(config), "", 0.0, None, 0, 0, {}) for config, _ in self.gaps}
        known |= {str(row.config): row for row in (*self.unscored, *self.rows)}
        return [row.config for row in sorted(known.values(), key=lambda row: row.order)]

    @cached_property
    def answered(self) -> list[Row]:
        """Scored or not."""
        return sorted((*self.rows, *self.unscored), key=lambda row: row.order)

    @cached_property
    def unpruned(self) -> dict[tuple[str, str], Row]:
        """(model, benchmark) -> what the others are compared with: a score above 0."""
        return {(row.config.model, row.benchmark): row for row in self.rows if row.config.full and row.score > 0}

    def compared(self, config: Config) -> list[Row]:
        """The cells of a configuration that have a retention."""
        return [row for row in self._of[str(config)] if row.retention is not None]

    def lacking(self, config: Config) -> set[str]:
        """The benchmarks that its mean retention lacks."""
        full = {benchmark for model, benchmark in self.unpruned if model == config.model}
        return full - {row.benchmark for row in self.compared(config)}

    def mean_retention(self, config: Config) -> Mean | None:
        """The mean of the benchmarks' ratios, incomplete where a score of either side is. None without any ratio."""
        rows = self.compared(config)
        if not rows:
            return None
        flawed = any(part.incomplete for row in rows for part in (row, self.unpruned[config.model, row.benchmark]))
        mean = sum(row.retention or 0.0 for row in rows) / len(rows)
        return Mean(mean, len(rows), len(rows) + len(self.lacking(config)), flawed)

    @cached_property
    def unmatched(self) -> dict[str, list[str]]:
        """Model -> benchmarks on which it was pruned and nobody asked it unpruned."""
        there = {(row.config.model, row.folder) for row in self.answered if row.config.full}
        there |= {(Config.parse(config).model, name) for config, name in self.gaps if Config.parse(config).full}
        found: dict[str, list[str]] = defaultdict(list)
        for model, name in sorted({(row.config.model, row.folder) for row in self.rows} - there):
            found[model].append(name)
        return dict(found)

    @cached_property
    def _of(self) -> dict[str, list[Row]]:
        cells = defaultdict[str, list[Row]](list)
        for row in self.rows:
            cells[str(row.config)].append(row)
        return cells
