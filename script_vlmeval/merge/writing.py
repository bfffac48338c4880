"""Whole folders into the target: made ready beside it, and put under their names in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from ..files import disk, sync_folder
from ..store import LOCK, CellStore, lock
from .copies import looked
from .pictures import Pictures
from .plans import COPIED, KEPT, Plan, check_free

STAGE, REPLACED = ".merge", "replaced"
_BATCH = 1000  # records that are made durable together


def write(plans: Sequence[Plan], shown: Sequence[Pictures], into: Path) -> None:
    """All that is new in the target. UserError for what changes meanwhile, and for what the disk refuses."""
    if not shown and all(plan.action == KEPT for plan in plans):
        return
    with _stage(into) as stage:
        for plan in plans:
            _carry_out(plan, into, stage)
        for atlas in shown:
            if atlas.folder == into / atlas.name:
                atlas.sign(atlas.folder)
                continue
            _copied(atlas.folder, stage / atlas.name)
            atlas.sign(stage / atlas.name)
            _put(stage, into, atlas.name)


def recover(into: Path) -> None:
    """Clears up after a killed merge."""
    if (into / STAGE).is_dir():
        with _stage(into):
            pass


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


def _carry_out(plan: Plan, into: Path, stage: Path) -> None:
    if plan.action == KEPT:
        return
    if plan.action == COPIED:
        _copied(plan.copies[0].store.folder, stage / plan.name)
    else:
        _joined(plan, stage)
    for copy in plan.copies:
        if looked(copy.store.folder) != copy.files:
            raise UserError(f"'{copy.store.folder}' was changed while it was read: run the same command again.")
    target = into / plan.name
    if not target.exists():
        _put(stage, into, plan.name)
        return
    fd = lock.hold(target)  # nobody may begin to answer in what is about to go
    try:
        if plan.there is None:
            check_free(target)
        elif looked(target) != plan.there.files:
            raise UserError(f"'{target}' was changed meanwhile: run the same command again.")
        _put(stage, into, plan.name)
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
    shutil.rmtree(stage / plan.name, ignore_errors=True)
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
