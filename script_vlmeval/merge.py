"""Results of several people or computers in one folder: `run.py merge DIR DIR... --into DIR`. Sources are read, never changed.

A cell that one of them has is copied as it is. Of one that several have, settings and answers must agree: then a complete one is
taken or, where another has answers that it lacks, the answers are joined row by row, and the next run scores what there is.
Everything is compared before anything is written. A cell appears under its name in one step; `.merge` in the target holds what is
on its way, and the next call clears up what a killed one left there.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .cells import Config
from .errors import UserError
from .files import disk, dumps, lines, read_json, sync_folder
from .store import CELL, LOCK, CellStore, held, lock, shard

STAGE, REPLACED = ".merge", "replaced"
ATLAS, SAMPLES = "atlas", "samples.jsonl"
KEPT, COPIED, JOINED = "there before", "copied", "joined"
_NAMED = 20  # contradictions that are told one by one
_ROWS = 5  # likewise of a cell's rows
_BATCH = 1000  # records that are made durable together
_Files = tuple[tuple[str, int, int], ...]


def command(dirs: Sequence[Path], into: Path) -> int:
    """Merges and tells; the exit status is 0. UserError for what contradicts itself, is being worked on or cannot be written."""
    sources = _sources(dirs, into)
    _recover(into)
    plans, pictures = _plans([into, *sources]), _atlases([into, *sources])
    if pictures or any(plan.action != KEPT for plan in plans):
        with _stage(into) as stage:
            for plan in plans:
                _carry_out(plan, into, stage)
            for folder in pictures:
                _copied(folder, stage / ATLAS / folder.name)
                _put(stage, into, Path(ATLAS, folder.name))
    _tell(plans, len(pictures), into)
    return 0


# what there is -----------------------------------------------------------------------------------------------------------


@dataclass
class Copy:
    """A cell's folder in one of the work dirs, and its files as they were when it was looked at."""

    work_dir: Path
    store: CellStore
    files: _Files

    @cached_property
    def result(self) -> dict[str, Any]:
        """Empty where the cell is not done."""
        return self.store.result() or {}

    def said(self) -> dict[str, tuple[str, str]]:
        """Row index -> stamp and prediction, of the rows that have one."""
        wanted = [line for line in self.store.lines().values() if line.answered]
        return {r["index"]: (str(r.get("stamp", "")), r["prediction"]) for r in self.store.records(wanted)}

    def goodness(self, answered: int) -> tuple[int, bool, bool]:
        """What makes one copy better than another: answers, that they are all that its result is of, and a score."""
        whole = bool(self.result) and answered + int(self.result.get("failed", 0)) == self.result.get("n")
        return answered, whole, whole and not self.result.get("unscored")


@dataclass
class Plan:
    """What becomes of a cell. copies: the one that is taken or, where they are joined, goes first; there: the target's."""

    config: str
    benchmark: str
    copies: list[Copy]
    there: Copy | None
    action: str = COPIED

    @property
    def done(self) -> bool:
        return self.action != JOINED and bool(self.copies[0].result)


def _sources(dirs: Sequence[Path], into: Path) -> list[Path]:
    """The folders to read, each once, without the target."""
    if into.exists() and not into.is_dir():
        raise UserError(f"--into '{into}' is a file: name a folder to merge into, which may exist already.")
    for folder in dirs:
        if not folder.is_dir():
            raise UserError(f"There is no folder '{folder}': name the --work-dir of a run.")
        if not any(_cells(folder)):
            raise UserError(f"There are no results in '{folder}': name the --work-dir of a run.")
    distinct = {folder.resolve(): folder for folder in reversed(dirs)}
    distinct.pop(into.resolve(), None)
    if not distinct:
        raise UserError("Nothing to merge: name at least one folder of results besides --into.")
    return list(reversed(distinct.values()))


def _cells(work_dir: Path) -> Iterator[tuple[str, str, Path]]:
    """Configuration, benchmark and folder of each cell."""
    with disk(work_dir):
        folders = sorted(path for path in work_dir.glob("*/*/") if not path.name.startswith("."))
    for folder in folders:
        if _is_config(folder.parent.name) and ((folder / CELL).exists() or shard.files(folder)):
            yield folder.parent.name, folder.name, folder


def _is_config(name: str) -> bool:
    try:
        Config.parse(name)
    except UserError:
        return False
    return True


def _looked(folder: Path) -> _Files:
    """What changes when a file of a cell does."""
    with disk(folder):
        stats = [(path.name, path.stat()) for path in folder.iterdir() if path.is_file() and path.name != LOCK]
    return tuple(sorted((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats))


def _copy(work_dir: Path, config: str, benchmark: str, folder: Path) -> Copy | None:
    """None where nothing was answered yet. UserError where a run is at work, or nothing says what the answers belong to."""
    if held(folder):
        raise UserError(f"A run is working on '{folder}': merge when it has ended.")
    found, settings = _looked(folder), read_json(folder / CELL)
    if not shard.begun(folder):
        return None
    if settings is None:
        raise UserError(f"'{folder}' has no readable {CELL}, so nothing says what its answers belong to: remove the folder.")
    return Copy(work_dir, CellStore(work_dir, config, benchmark, settings), found)


# comparing ---------------------------------------------------------------------------------------------------------------


class _Contradiction(Exception):
    """Copies of one cell that cannot both be right."""


def _plans(work_dirs: Sequence[Path]) -> list[Plan]:
    """For every cell; the first work dir is the target. UserError naming all that contradict each other."""
    found: dict[tuple[str, str], list[Copy]] = {}
    for work_dir in work_dirs:
        for config, benchmark, folder in _cells(work_dir):
            if copy := _copy(work_dir, config, benchmark, folder):
                found.setdefault((config, benchmark), []).append(copy)
    plans, wrong = [], []
    for (config, benchmark), copies in sorted(found.items()):
        plan = Plan(config, benchmark, copies, next((copy for copy in copies if copy.work_dir == work_dirs[0]), None))
        try:
            _decide(plan)
            plans.append(plan)
        except _Contradiction as error:
            wrong.append(f"{config}/{benchmark}: {error}")
    if wrong:
        what = f"{len(wrong)} of {len(found)} cells contradict each other, so nothing was merged:"
        more = [f"and {len(wrong) - _NAMED} more."] if len(wrong) > _NAMED else []
        advice = "Leave a folder out, remove what is wrong in it, or merge into a folder of its own."
        raise UserError("\n  ".join([what, *wrong[:_NAMED], *more, advice]))
    return plans


def _decide(plan: Plan) -> None:
    """The best copy alone or, where it lacks answers that others have, all of them joined."""
    copies = plan.copies
    best, lacking = copies[0], 0
    if len(copies) > 1:
        _same_settings(copies)
        answered, together = _same_answers(copies)
        goodness = [copy.goodness(n) for copy, n in zip(copies, answered, strict=True)]
        first = goodness.index(max(goodness))  # of equally good ones the target's
        _same_scores([copy for copy, good in zip(copies, goodness, strict=True) if good == goodness[first]])
        best, lacking = copies[first], together - answered[first]
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


def _atlases(work_dirs: Sequence[Path]) -> list[Path]:
    """Pictures that the target lacks, or has of fewer rows: of each benchmark the folder with the most."""
    best: dict[str, tuple[int, Path]] = {}
    for work_dir in work_dirs:
        with disk(work_dir):
            folders = sorted(path for path in (work_dir / ATLAS).glob("*/") if not path.name.startswith("."))
        for folder in folders:
            rows = sum(1 for _ in lines(folder / SAMPLES))
            if rows > best.get(folder.name, (0, folder))[0]:
                best[folder.name] = rows, folder
    return [folder for _, folder in best.values() if folder.parents[1] != work_dirs[0]]


# writing -----------------------------------------------------------------------------------------------------------------


@contextmanager
def _stage(into: Path) -> Iterator[Path]:
    """A folder in the target for what is not whole yet, which one merge at a time has. At the end it goes, and what was taken
    away and not replaced comes back: also what an earlier merge, killed in between, has left."""
    stage = into / STAGE
    with disk(into):
        fd = lock.hold(stage)
        try:
            _restore(stage, into)
            yield stage
        finally:
            _restore(stage, into)
            shutil.rmtree(stage, ignore_errors=True)
            os.close(fd)


def _restore(stage: Path, into: Path) -> None:
    for folder in sorted((stage / REPLACED).glob("*/*/")):
        target = into / folder.relative_to(stage / REPLACED)
        if not target.exists():
            folder.rename(target)


def _recover(into: Path) -> None:
    """Clears up after a killed merge."""
    if (into / STAGE).is_dir():
        with _stage(into):
            pass


def _carry_out(plan: Plan, into: Path, stage: Path) -> None:
    if plan.action == KEPT:
        return
    name = Path(plan.config, plan.benchmark)
    if plan.action == COPIED:
        _copied(plan.copies[0].store.folder, stage / name)
    else:
        _joined(plan, stage)
    for copy in plan.copies:
        if _looked(copy.store.folder) != copy.files:
            raise UserError(f"'{copy.store.folder}' was changed while it was read: run the same command again.")
    if plan.there is None:
        _put(stage, into, name)
        return
    fd = lock.hold(into / name)  # nobody may begin to answer in what is about to go
    try:
        if _looked(into / name) != plan.there.files:
            raise UserError(f"'{into / name}' was changed meanwhile: run the same command again.")
        _put(stage, into, name)
    finally:
        os.close(fd)


def _copied(source: Path, made: Path) -> None:
    """All files, on disk; no lock, and nothing that was only being written."""
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(source, made, ignore=shutil.ignore_patterns(LOCK, ".*.tmp"))
    for path in made.rglob("*"):
        sync_folder(path)  # a file likewise


def _joined(plan: Plan, stage: Path) -> None:
    """Every row's record from the first copy that has its prediction or, where none has, its error."""
    shutil.rmtree(stage / plan.config / plan.benchmark, ignore_errors=True)
    made = CellStore(stage, plan.config, plan.benchmark, plan.copies[0].store.fingerprint)
    done = set[str]()
    with made:
        made.open()
        for answered in (True, False):
            for copy in plan.copies:
                found = copy.store.lines()
                wanted = [index for index, line in found.items() if line.answered == answered and index not in done]
                for i in range(0, len(wanted), _BATCH):
                    made.append(list(copy.store.records(found[index] for index in wanted[i : i + _BATCH])))
                done.update(wanted)
    (made.folder / LOCK).unlink()


def _put(stage: Path, into: Path, name: Path) -> None:
    """A whole folder under its name in the target; what was there goes, or comes back where this is cut off."""
    target, aside = into / name, stage / REPLACED / name
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        aside.parent.mkdir(parents=True, exist_ok=True)
        target.rename(aside)
    (stage / name).rename(target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


# words -------------------------------------------------------------------------------------------------------------------


def _tell(plans: Sequence[Plan], pictures: int, into: Path) -> None:
    counts = Counter(plan.action for plan in plans)
    said = ", ".join(f"{counts[action]} {action}" for action in (COPIED, JOINED, KEPT) if counts[action])
    atlas = f"; pictures of {pictures} benchmark{'s' * (pictures > 1)}" if pictures else ""
    print(f"{len(plans)} cell{'s' * (len(plans) != 1)} in {into}: {said}{atlas}.")
    open_cells = [f"{plan.config}/{plan.benchmark}" for plan in plans if not plan.done]
    if open_cells:
        more = f" and {len(open_cells) - _NAMED} more" if len(open_cells) > _NAMED else ""
        print(f"Not scored yet: {', '.join(open_cells[:_NAMED])}{more}. Run them with --work-dir {into} to go on.")
    print(f"Tables: run.py report --work-dir {into}")
