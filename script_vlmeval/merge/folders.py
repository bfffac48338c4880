"""Folders of results into one: the command, and what it tells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .copies import cells
from .pictures import pictures
from .plans import COPIED, JOINED, KEPT, NAMED, Plan, plans
from .writing import recover, write


def command(dirs: Sequence[Path], into: Path) -> int:
    """Merges and tells; the exit status is 0. UserError for what contradicts itself, is being worked on or cannot be written."""
    sources = _sources(dirs, into)
    recover(into)
    made = plans([into, *sources])
    shown = pictures([into, *sources], made)
    write(made, shown, into)
    _tell(made, sum(one.folder != into / one.name for one in shown), into)
    return 0


def _sources(dirs: Sequence[Path], into: Path) -> list[Path]:
    """The folders to read, each once, without the target."""
    if into.exists() and not into.is_dir():
        raise UserError(f"--into '{into}' is a file: name a folder to merge into, which may exist already.")
    for folder in dirs:
        if not folder.is_dir():
            raise UserError(f"There is no folder '{folder}': name the --work-dir of a run.")
        if not any(cells(folder)):
            raise UserError(f"There are no results in '{folder}': name the --work-dir of a run.")
    distinct = {folder.resolve(): folder for folder in reversed(dirs)}
    distinct.pop(into.resolve(), None)
    if not distinct:
        raise UserError("Nothing to merge: name at least one folder of results besides --into.")
    return list(reversed(distinct.values()))


def _tell(made: Sequence[Plan], shown: int, into: Path) -> None:
    counts = Counter(plan.action for plan in made)
    said = ", ".join(f"{counts[action]} {action}" for action in (COPIED, JOINED, KEPT) if counts[action])
    atlas = f"; pictures of {shown} benchmark{'s' * (shown > 1)}" if shown else ""
    print(f"{len(made)} cell{'s' * (len(made) != 1)} in {into}: {said}{atlas}.")
    open_cells = [f"{plan.config}/{plan.benchmark}" for plan in made if not plan.done]
    if open_cells:
        more = f" and {len(open_cells) - NAMED} more" if len(open_cells) > NAMED else ""
        print(f"Not scored yet: {', '.join(open_cells[:NAMED])}{more}. Run them with --work-dir {into} to go on.")
    print(f"Tables: run.py report --work-dir {into}")
