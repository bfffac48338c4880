"""From an official download to a table in VLMEvalKit's format: nothing stands under its final name before it is checked.

Rows go to a temporary file, then all media that they name are looked at, then the file takes its name in one step. A run that
was killed leaves no table, and the next one does not look again at media that were found whole.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..benchmarks.folders import digest
from ..errors import UserError, reason_of
from ..files import disk, read_json, replacing, write_json
from .folder import REFUSED
from .media import damaged
from .recipe import VIDEO, Folder, Prepared, Recipe, Row
from .table import MADE_BY, Written, copy, describe, origin, write

_NAMED = 3  # files named in an error
_ADVICE = "Use --fresh to replace it, or another data folder to keep it."
_MISSING = "Supply them and run the same command again, or use --allow-missing to leave their rows out."
_STRANGE = (KeyError, TypeError, AttributeError, IndexError, ValueError)  # what other contents than the official ones lead to


@dataclass(frozen=True)
class _Job:
    """One call: the recipe, the folders, and what was asked for, by the name that the user said."""

    recipe: Recipe
    source: Path
    data: Path
    quiet: bool
    fresh: bool
    allow_missing: bool
    called: str

    @property
    def table(self) -> Path:
        return self.data / f"{self.recipe.table}.tsv"

    @property
    def list_of_missing(self) -> Path:
        return self.data / f"{self.recipe.table}.missing.txt"

    @property
    def memory(self) -> Path:
        return self.data / f".{self.recipe.table}.checked"


def make(
    recipe: Recipe, source: Path, data: Path, *, quiet: bool, fresh: bool, allow_missing: bool, called: str = ""
) -> Prepared:
    """The table of a recipe from the download in `source`, as `data`/<table>.tsv, with <table>.json beside it.

    UserError for folders that are not there, files that are missing or broken, media that are missing or damaged (unless
    `allow_missing`: their rows are left out), and a table that is already there with another content (unless `fresh`).
    """
    source, data, called = source.expanduser().absolute(), data.expanduser().absolute(), called or recipe.table
    job = _Job(recipe, source, data, quiet, fresh, allow_missing, called)
    _check_folders(job)
    with disk(job.table, REFUSED):
        noted = None if fresh else _already(job)
    folder = Folder(job.source, job.data / "images" / recipe.table, recipe.files, recipe.links, called)
    with _alone(job), _spool(job) as spool:
        with disk(job.table, REFUSED):
            written = write(spool, recipe, _rows(job, folder), called)
        all_rows = digest(spool)
        if noted and noted["sha256_of_all_rows"] != all_rows:
            raise UserError(f"{job.table} was made from {job.source}, which holds other rows now. {_ADVICE}")
        for suffix, text in folder.extras.items():
            with replacing(job.data / f"{recipe.table}{suffix}", REFUSED) as beside:
                beside.write_text(text, encoding="utf-8")
        if noted and not noted["missing"] and all(map(os.path.exists, _media(written))):
            said = f"{job.table} is already there, made from the same files: nothing was changed."
            return Prepared(job.table, noted["rows"], recipe.expected, (), (said, *folder.notes))
        lost = _lost(job, written)
        facts = _finish(job, spool, written, lost, all_rows)
    return Prepared(job.table, facts["rows"], recipe.expected, tuple(sorted(lost)), (*_said(job, facts), *folder.notes))


# -- before --------------------------------------------------------------------------------------------------------------------
def _check_folders(job: _Job) -> None:
    if not job.source.is_dir():
        what = "is a file" if job.source.is_file() else "does not exist"
        raise UserError(
            f"{job.called}: {job.source} {what}. Name the folder of the unpacked download, which holds: {job.recipe.files}."
        )
    if not job.data.is_dir():
        raise UserError(
            f"The data folder {job.data} does not exist. Create it, or set LMUData to the folder that holds the TSV files."
        )
    if not os.access(job.data, os.W_OK):
        raise UserError(f"The data folder {job.data} cannot be written to. Change its permissions, or set LMUData to another.")


def _already(job: _Job) -> dict[str, Any] | None:
    """What was noted of a table that we made from this source. UserError for any other table, and for a note of another's."""
    noted = origin(job.table)
    if job.table.exists() and noted is None:
        raise UserError(f"{job.table} is there already and was not made by this program, or was changed since. {_ADVICE}")
    if noted and noted["source"] != str(job.source):
        raise UserError(f"{job.table} was made from {noted['source']}. {_ADVICE}")
    beside = job.table.with_suffix(".json")
    if noted is None and beside.exists() and (read_json(beside) or {}).get("made_by") != MADE_BY:
        raise UserError(f"{beside} is there already and was not made by this program. {_ADVICE}")
    return noted


@contextmanager
def _alone(job: _Job) -> Iterator[None]:
    """Keeps a second run out, by a lock on the memory of checked media, which goes when nothing in it will be needed."""
    with disk(job.memory, REFUSED), job.memory.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another run is preparing {job.called} in {job.data}: wait for it.") from None
        except OSError:
            pass  # a file system without locks
        for leftover in [*job.data.glob(f".{job.table.name}.*.tmp"), *(job.data / "images" / job.recipe.table).glob(".*.tmp")]:
            leftover.unlink(missing_ok=True)  # of a run that was killed
        try:
            yield
            job.memory.unlink(missing_ok=True)
        finally:
            if job.memory.exists() and not job.memory.stat().st_size:
                job.memory.unlink()


@contextmanager
def _spool(job: _Job) -> Iterator[Path]:
    """A file for the rows, which nobody takes for the table and which goes in any case."""
    path = job.table.with_name(f".{job.table.name}.rows.tmp")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


# -- rows and media ------------------------------------------------------------------------------------------------------------
def _rows(job: _Job, folder: Folder) -> Iterator[Row]:
    """The recipe's rows, at least one, behind a bar that begins with the first: reading the files may take a while."""
    rows = _official(job, folder)
    first = next(rows, None)
    if first is None:
        raise UserError(f"{job.called}: the files in {job.source} hold no row. Expected there: {job.recipe.files}.")
    with tqdm(total=folder.total, unit="row", desc=job.called, disable=True if job.quiet else None) as bar:
        for row in chain([first], rows):
            yield row
            bar.update()


def _official(job: _Job, folder: Folder) -> Iterator[Row]:
    """The recipe's rows. What files of another content lead to becomes a UserError."""
    rows = job.recipe.rows(folder)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            break
        except OSError as error:
            raise UserError(f"{error.filename or job.source} cannot be read: {error.strerror or error}.") from error
        except _STRANGE as error:
            what = f"{type(error).__name__} {reason_of(error)}"
            raise UserError(f"{job.called}: the files in {job.source} do not hold what the official ones do ({what}).") from error
        yield row
    folder.complete()


def _media(written: Written) -> Iterator[str]:
    return (path for paths in written.media.values() for path in paths)


def _lost(job: _Job, written: Written) -> dict[str, str]:
    """path -> what is wrong with it. The list goes to a file; UserError unless rows may be left out, or where none would stay."""
    with disk(job.memory, REFUSED):
        lost = damaged(_media(written), job.recipe.media, job.memory, called=job.called, quiet=job.quiet)
    if not lost:
        job.list_of_missing.unlink(missing_ok=True)
        return lost
    with replacing(job.list_of_missing, REFUSED) as temporary:
        temporary.write_text("".join(f"{path}\t{reason}\n" for path, reason in sorted(lost.items())), encoding="utf-8")
    kept = sum(lost.keys().isdisjoint(paths) for paths in written.media.values())
    if not job.allow_missing or not kept:
        raise UserError(f"{job.called}: {_few(job, written, lost)}. {_MISSING if kept else 'No row would be left.'}")
    return lost


def _few(job: _Job, written: Written, lost: Mapping[str, str]) -> str:
    shown = ", ".join(f"{os.path.relpath(path, job.source)} ({lost[path].split(':')[0]})" for path in sorted(lost)[:_NAMED])
    noun = "videos" if job.recipe.media == VIDEO else "pictures"
    total = len(set(_media(written)))
    return f"{len(lost)} of {total} {noun} are missing or damaged, such as {shown} (full list: {job.list_of_missing})"


# -- after ---------------------------------------------------------------------------------------------------------------------
def _finish(job: _Job, spool: Path, written: Written, lost: dict[str, str], all_rows: str) -> dict[str, Any]:
    """Puts everything under its final name, the table last: one without its note would pass for the user's own."""
    with replacing(job.table, REFUSED) as temporary:
        if lost:
            copy(spool, temporary, lambda index: lost.keys().isdisjoint(written.media[index]))
        else:
            os.replace(spool, temporary)
        facts = describe(job.recipe, job.source, written, all_rows=all_rows, table=digest(temporary), lost=lost)
        write_json(job.table.with_suffix(".json"), facts, REFUSED)
    return facts


def _said(job: _Job, facts: Mapping[str, Any]) -> Iterator[str]:
    """What the user is to know of the number of rows."""
    rows, expected, skipped = facts["rows"], job.recipe.expected, len(facts["skipped"])
    if expected and rows + skipped not in expected:
        published = " or ".join(f"{number:,}" for number in expected)
        yield f"The files hold {rows + skipped:,} rows, {published} are published: figures of other rows do not compare."
    if skipped:
        lost = len(facts["missing"])
        yield f"{skipped:,} rows were left out: {lost:,} media are missing or damaged (list: {job.list_of_missing})."
