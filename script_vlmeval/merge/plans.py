"""What becomes of each cell that is merged: copies of one must agree, and the best is taken, or all of them are joined."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files import disk, dumps
from ..store import CELL, FAILURE, LOCK, shard
from .copies import Copy, cells, copy_of

KEPT, COPIED, JOINED = "there before", "copied", "joined"
NAMED = 20  # cells that are told one by one
_ROWS = 5  # likewise of a cell's rows
_log = logging.getLogger(__name__)


@dataclass
class Plan:
    """What becomes of a cell. copies: the one that is taken or, where they are joined, goes first; there: the target's."""

    config: str
    benchmark: str
    copies: list[Copy]
    there: Copy | None
    action: str = COPIED

    @property
    def name(self) -> Path:
        return Path(self.config, self.benchmark)

    @property
    def done(self) -> bool:
        return self.action != JOINED and bool(self.copies[0].result)


class _Contradiction(Exception):
    """Copies of one cell that cannot both be right."""


def plans(work_dirs: Sequence[Path]) -> list[Plan]:
    """For every cell; the first work dir is the target. UserError naming all that contradict each other, and for what is in the
    way of a cell in the target."""
    found: dict[tuple[str, str], list[Copy]] = {}
    for work_dir in work_dirs:
        for config, benchmark, folder in cells(work_dir):
            if copy := copy_of(work_dir, config, benchmark, folder):
                found.setdefault((config, benchmark), []).append(copy)
    made, wrong = [], []
    for (config, benchmark), copies in sorted(found.items()):
        plan = Plan(config, benchmark, copies, next((copy for copy in copies if copy.work_dir == work_dirs[0]), None))
        if plan.there is None:
            check_free(work_dirs[0] / plan.name)
        try:
            _decide(plan)
            made.append(plan)
        except _Contradiction as error:
            wrong.append(f"{config}/{benchmark}: {error}")
    if wrong:
        what = f"{len(wrong)} of {len(found)} cells contradict each other, so nothing was merged:"
        more = [f"and {len(wrong) - NAMED} more."] if len(wrong) > NAMED else []
        advice = "Leave a folder out, remove what is wrong in it, or merge into a folder of its own."
        raise UserError("\n  ".join([what, *wrong[:NAMED], *more, advice]))
    return made


def check_free(target: Path) -> None:
    """UserError where something is in a cell's place that is no cell: what a run leaves that ended before its first answer, and
    an empty folder, may go."""
    for path in (target.parent, target):
        if path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file where results are to go: move it away, or merge into another folder.")
    ours = {CELL, FAILURE, LOCK, *([] if shard.begun(target) else [path.name for path in shard.files(target).values()])}
    with disk(target):
        names = {path.name for path in target.iterdir()} if target.is_dir() else set[str]()
    if any(name not in ours and not (name.startswith(".") and name.endswith(".tmp")) for name in names):
        raise UserError(f"'{target}' holds files that are no results: move them away, or merge into another folder.")


def _decide(plan: Plan) -> None:
    """The best copy alone or, where it lacks answers that others have, all of them joined."""
    copies = plan.copies
    best, lacking = copies[0], 0
    if len(copies) > 1:
        _same_settings(copies)
        answered, together = _same_answers(copies)
        goodness = [copy.goodness(n) for copy, n in zip(copies, answered, strict=True)]
        first = goodness.index(max(goodness))  # of equally good ones the target's
        best, lacking = copies[first], together - answered[first]
        _same_scores([copy for copy, good in zip(copies, goodness, strict=True) if good[:3] == goodness[first][:3]])
        _bare_fit([copy for copy, n in zip(copies, answered, strict=True) if copy.result and not n], best, joined=lacking > 0)
        there = answered[first]
    else:
        there = len(best.answered())
    if gone := 0 if lacking else best.lacking(there):
        _log.warning("%s: done, but %d of its answers are missing on disk: a rerun asks them again", best.store.folder, gone)
    plan.action = JOINED if lacking else KEPT if best is plan.there else COPIED
    plan.copies = [best, *(copy for copy in copies if copy is not best)]


def _same_settings(copies: Sequence[Copy]) -> None:
    first = copies[0]
    for other in copies[1:]:
        a, b = first.store.fingerprint, other.store.fingerprint
        keys = [key for key in {**a, **b} if dumps(a.get(key)) != dumps(b.get(key)) or (key in a) != (key in b)]
        if keys:
            differ = "; ".join(f"{key}: {a.get(key, '(none)')} and {b.get(key, '(none)')}" for key in sorted(keys))
            raise _Contradiction(f"other settings in {first.work_dir} and {other.work_dir} ({differ})")


def _same_answers(copies: Sequence[Copy]) -> tuple[list[int], int]:
    """How many rows each has answered, and all of them together."""
    known: dict[str, tuple[str, str, Path]] = {}
    counts = []
    for copy in copies:
        said, others = copy.said(), dict[Path, list[tuple[str, bool]]]()
        for index, (stamp, prediction) in said.items():
            before = known.setdefault(index, (stamp, prediction, copy.work_dir))
            if before[:2] != (stamp, prediction):
                others.setdefault(before[2], []).append((index, before[0] == stamp))
        for work_dir, rows in others.items():
            what = "answers at the same settings" if any(alike for _, alike in rows) else "pictures (files of another size)"
            named = ", ".join(index for index, _ in rows[:_ROWS]) + (", ..." if len(rows) > _ROWS else "")
            raise _Contradiction(f"other {what} in {work_dir} and {copy.work_dir}: {len(rows)} of {len(said)} rows ({named})")
        counts.append(len(said))
    return counts, len(known)


def _same_scores(copies: Sequence[Copy]) -> None:
    """A score is of its answers and of who judged them."""
    done = [copy for copy in copies if copy.result]
    for other in done[1:]:
        for key in ("primary", "scorer", "judge", "score"):
            a, b = done[0].result.get(key), other.result.get(key)
            if a != b:
                raise _Contradiction(
                    f"the same answers, scored otherwise in {done[0].work_dir} and {other.work_dir} ({key}: {a} and {b})"
                )


def _bare_fit(bare: Sequence[Copy], best: Copy, joined: bool) -> None:
    """Results without the answers that they were made of: another copy takes their place where it says the same."""
    for copy in bare:
        if joined or not best.result:
            raise _Contradiction(
                f"a result without its answers in {copy.work_dir}, answers that are yet to be scored in {best.work_dir}"
            )
        if (copy.rows, copy.failed) != (best.rows, best.failed):
            raise _Contradiction(
                f"results of other rows in {best.work_dir} and {copy.work_dir} "
                f"({best.rows} with {best.failed} failed, and {copy.rows} with {copy.failed}, without answers)"
            )
        _same_scores([best, copy])
