"""The pictures of a benchmark's first rows that come along: those of the table that its cells were asked of, never another's."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import lines, read_json, write_json
from ..store import ATLAS, MADE, SAMPLES
from .plans import Plan

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pictures:
    """A benchmark's folder of pictures. table: the digest of the table whose rows they show, None where nothing says it."""

    folder: Path
    rows: int
    table: str | None
    signed: bool  # it says so itself; one of an earlier version does not

    @property
    def name(self) -> Path:
        return Path(ATLAS, self.folder.name)

    def sign(self, folder: Path) -> None:
        """Says, in this folder or a copy of it, whose rows it shows: cells of other tables may come to lie beside it."""
        if self.table is not None and not self.signed:
            write_json(folder / MADE, {**(read_json(folder / MADE) or {}), "data": self.table})


def pictures(work_dirs: Sequence[Path], plans: Sequence[Plan]) -> list[Pictures]:
    """What the target, the first work dir, lacks or has of fewer rows: of each benchmark the folder with the most. The target's
    own are among them where they are to be signed.

    Where its cells were asked of several tables, which a warning says, the target's pictures stay and else those of the table
    that most cells were asked of are taken.
    """
    asked, here = defaultdict[str, Counter[str | None]](Counter), defaultdict[tuple[Path, str], set[str | None]](set)
    for plan in plans:
        asked[plan.benchmark][plan.copies[0].table] += 1
        for copy in plan.copies:
            here[copy.work_dir, plan.benchmark].add(copy.table)
    found = []
    for benchmark, tables in sorted(asked.items()):
        there = [_read(work_dir / ATLAS / benchmark, here[work_dir, benchmark]) for work_dir in work_dirs]
        mine = there[0].table
        table = mine if there[0].rows and mine in tables else tables.most_common(1)[0][0]
        best = max((one for one in there if one.table == table), key=lambda one: one.rows, default=there[0])
        if best.rows and (best is not there[0] or (len(tables) > 1 and not best.signed)):  # of equal ones the target's is first
            found.append(best)
        if len(tables) > 1:
            _warn(benchmark, tables, table)
    return found


def _read(folder: Path, tables: Collection[str | None]) -> Pictures:
    """What is there; without a word about the table, it is the one that all cells beside it were asked of."""
    rows = sum(1 for _ in lines(folder / SAMPLES))
    said = (read_json(folder / MADE) or {}).get("data") if rows else None
    only = next(iter(tables)) if len(tables) == 1 else None
    signed = isinstance(said, str)
    return Pictures(folder, rows, said if signed else only, signed)


def _warn(benchmark: str, tables: Counter[str | None], shown: str | None) -> None:
    counts = ", ".join(f"{str(table)[:8]}: {n} cell{'s' * (n > 1)}" for table, n in tables.most_common())
    _log.warning(
        "%s: its cells were asked of %d tables (%s). Scores are not compared between them, and pictures are shown of %s alone",
        benchmark,
        len(tables),
        counts,
        str(shown)[:8],
    )
