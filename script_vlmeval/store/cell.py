"""The folder of one configuration on one benchmark, and what its run may do to it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .. import files
from ..errors import UserError
from ..files import disk, dumps, read_json, replacing, write_json
from . import lock, shard
from .seal import Seal

CELL, WORTH, RESULT, FAILURE = "cell.json", "worth.jsonl", "result.json", "failure.json"
_log = logging.getLogger(__name__)


class Line(NamedTuple):
    """Where the record of a row stands, and what tells whether it still counts."""

    answered: bool  # a prediction; else an error
    stamp: str  # as appended, '' where it has none
    file: int  # rank of the process that wrote it
    offset: int  # bytes


class CellStore:
    """The answers and the result of one configuration on one benchmark.

    A run's first process calls `hold()`, `open()` before writing and `close()` (or `with store:`) after; its other processes
    `join()` in place of `hold` and `open`. What only reads needs neither: `result`, `check`, `lines`, `records`, `answers`.
    Whatever the disk refuses is a UserError. `fingerprint` maps names to JSON scalars.
    """

    def __init__(self, work_dir: Path, config: str, benchmark: str, fingerprint: Mapping[str, Any]) -> None:
        for name in (config, benchmark):
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise UserError(f"'{name}' cannot be the name of a results folder.")
        self.folder = Path(work_dir) / config / benchmark
        self.workbook = self.folder / f"{config}_{benchmark}.xlsx"
        self.fingerprint: dict[str, Any] = json.loads(dumps(fingerprint))
        self._seal = Seal(self.fingerprint)
        self._rank = 0
        self._ready = False
        self._lock: int | None = None
        self._file: int | None = None

    # taking it --------------------------------------------------------------------------------------------------------------

    def hold(self) -> None:
        """Creates the folder where there is none, and keeps other runs out. UserError when one is in. Nothing when held."""
        _must(not self._rank, "close")
        if self._lock is None:
            with disk(self.folder):
                self._lock = lock.hold(self.folder)

    def announce(self) -> None:
        """Says what the folder is for, where it does not hold anything yet: so that others see a cell that waits."""
        _must(self._lock is not None, "hold")
        with disk(self.folder):
            if not self._begun() and read_json(self.folder / CELL) != self.fingerprint:
                write_json(self.folder / CELL, self.fingerprint, durable=False)

    def open(self, fresh: bool = False) -> None:
        """Holds the folder and takes up what is there, without the torn line and the shards that a killed run leaves.

        UserError when another run holds it, a process of an earlier one still writes, or it holds results of another
        fingerprint: then nothing is changed. `fresh` discards what is there instead.
        """
        _must(not self._rank, "close")
        if self._ready:
            return
        if not fresh:
            self.check()
        try:
            self.hold()
            with disk(self.folder):
                self._take_up(fresh)
        except BaseException:
            self.close()
            raise
        self._ready = True

    def join(self, rank: int) -> None:
        """For process `rank` > 0 of a run whose first process has opened the folder: this one appends to its own shard only.

        UserError when a process of an earlier run still has that shard, or the folder is another fingerprint's.
        """
        _must(self._lock is None and self._rank in (0, rank), "close")
        if rank < 1:
            raise ValueError(f"join() is for processes that are not the first: {rank}")
        if self._ready:
            return
        self.check()
        self._rank = rank
        try:
            with disk(self.folder / shard.name(rank)):
                self._opened()
        except BaseException:
            self.close()
            raise
        self._ready = True

    def rest(self) -> None:
        """Closes the file of answers until more come, but lets nobody in. (A joined process stays in by its shard: nothing.)"""
        if not self._rank:
            self._drop_file()

    def close(self) -> None:
        """Lets others in; a folder in which nothing was begun goes. Safe to call twice."""
        self._drop_file()
        if self._lock is not None:
            lock.leave(self.folder)
            os.close(self._lock)
        self._lock, self._rank, self._ready = None, 0, False

    def __enter__(self) -> CellStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # reading ----------------------------------------------------------------------------------------------------------------

    def result(self) -> dict[str, Any] | None:
        """The content of result.json when the cell is done with this fingerprint, else None."""
        result = read_json(self.folder / RESULT)
        return None if result is None or self._differences() else result

    def check(self) -> None:
        """UserError when the folder holds results of another fingerprint. Only reads."""
        differences = self._differences()
        if differences:
            what = f"'{self.folder}' holds results made with other settings ({'; '.join(differences)})."
            raise UserError(f"{what} Use --fresh to discard them, or another --work-dir to keep them.")

    def refresh(self) -> None:
        """Makes a file system that several computers share list the folder anew: shards of the others may be a moment old."""
        with disk(self.folder):
            look = self.folder / f".look.{os.getpid()}.tmp"
            look.touch()
            look.unlink()

    def lines(self) -> dict[str, Line]:
        """Row index -> where its record stands: the last one, except that an error never takes the place of a prediction of its
        stamp.

        Memory is that of the result. It holds until shards are merged, by `open` or `finish`.
        """
        found: dict[str, Line] = {}
        skipped = 0
        for rank, path in shard.files(self.folder).items():
            offset = 0
            for line in files.lines(path):
                said = self._seal.glance(line)
                if said is None:
                    skipped += 1
                else:
                    index, answered, stamp = said
                    before = found.get(index)
                    if answered or before is None or not before.answered or before.stamp != stamp:
                        found[index] = Line(answered, sys.intern(stamp), rank, offset)
                offset += len(line)
        if skipped:
            _log.warning("%s: skipped %d unreadable or foreign line(s)", self.folder, skipped)
        return found

    def records(self, lines: Iterable[Line]) -> Iterator[dict[str, Any]]:
        """The records on lines that `lines()` has found, in the order given, one in memory at a time."""
        opened: dict[int, BinaryIO] = {}
        with ExitStack() as stack, disk(self.folder):
            for line in lines:
                if line.file not in opened:
                    opened[line.file] = stack.enter_context(open(self.folder / shard.name(line.file), "rb"))
                opened[line.file].seek(line.offset)
                record = self._seal.record(opened[line.file].readline())
                if record is None:
                    raise UserError(f"'{self.folder}' was changed while it was read: run the same command again.")
                yield record

    def answers(self) -> dict[str, dict[str, Any]]:
        """Row index -> the record that counts, all in memory."""
        return {record["index"]: record for record in self.records(self.lines().values())}

    # writing ----------------------------------------------------------------------------------------------------------------

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records with `index` and either `prediction` or `error`; on disk, all of them, when this returns.

        When the disk refuses, none of them is kept and the earlier ones stay.
        """
        _must(self._ready, "open")
        data = b"".join(map(self._seal.line, records))
        if not data:
            return
        with disk(self.folder / shard.name(self._rank)):
            shard.append(file := self._opened(), data)
            while not os.fstat(file).st_nlink:  # merged by the first process, perhaps before this was there
                self._drop_file()
                shard.append(file := self._opened(), data)

    def reopen(self) -> None:
        """More answers are coming: what result.json or failure.json says is out of date from here on. Any process may say so."""
        _must(self._ready, "open")
        with disk(self.folder):
            for name in (RESULT, WORTH, FAILURE):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any], worth: Iterable[Mapping[str, Any]] | None = None) -> None:
        """Merges all shards and writes worth.jsonl, where there is anything for it, and then result.json, each in one step: from
        here on the cell is done.

        An earlier result goes before the file that it belongs to, so that the two never stem from different scorings. What
        cannot be written leaves both as they were. Numbers that are not finite become null.
        """
        _must(self._ready and not self._rank, "open")
        with disk(self.folder):
            shard.merge(self.folder)
            with replacing(self.folder / RESULT) as temporary:
                temporary.write_bytes(dumps(result, indent=1) + b"\n")
                self._put(worth)
            (self.folder / FAILURE).unlink(missing_ok=True)

    def give_up(self, reason: str) -> None:
        """Writes down why there will be no result."""
        _must(self._lock is not None, "hold")
        when = datetime.now().astimezone().isoformat(timespec="seconds")
        write_json(self.folder / FAILURE, {"reason": reason, "when": when})

    # inside -----------------------------------------------------------------------------------------------------------------

    def _take_up(self, fresh: bool) -> None:
        for leftover in self.folder.glob(".*.tmp"):  # of a run that was killed; the lock says that nobody writes it now
            leftover.unlink()
        shard.check_left(self.folder)
        if fresh:
            _discard(self.folder)
        else:
            self.check()  # again: it may have changed before the lock was ours
        if not self._begun():
            write_json(self.folder / CELL, self.fingerprint)
        shard.cut(self._opened())
        os.fsync(self._opened())
        self._drop_file()  # a run has thousands of cells at once
        shard.merge(self.folder)
        files.sync_folder(self.folder)

    def _opened(self) -> int:
        """The file that this process appends to. A shard is locked as long as it is open."""
        if self._file is not None:
            return self._file
        path = self.folder / shard.name(self._rank)
        there = path.exists()
        file = lock.opened(path, shard.APPEND)
        try:
            if self._rank and not lock.grabbed(file, self.folder):
                raise UserError(shard.busy(path))
            shard.cut(file)
            if not there:
                files.sync_folder(self.folder)
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return file

    def _put(self, worth: Iterable[Mapping[str, Any]] | None) -> None:
        """worth.jsonl, or none; with any change to it an earlier result.json is gone."""
        path, result = self.folder / WORTH, self.folder / RESULT
        if worth is not None:
            with replacing(path) as temporary:
                with open(temporary, "wb") as file:
                    file.writelines(dumps(line) + b"\n" for line in worth)
                result.unlink(missing_ok=True)
        elif path.exists():
            result.unlink(missing_ok=True)
            path.unlink()

    def _drop_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _begun(self) -> bool:
        """Whether there is anything to lose: a run that stopped before its first answer leaves nothing that binds the next."""
        return os.path.exists(self.folder / RESULT) or shard.begun(self.folder)

    def _differences(self) -> list[str]:
        """How the folder's fingerprint differs from ours, one 'key: there -> here' each."""
        if not self._begun():
            return []
        there = read_json(self.folder / CELL)
        if there is None:
            return [f"no readable {CELL}"]
        # As JSON, so that 1, 1.0 and true differ as they do on disk
        triples = [(key, _shown(there, key), _shown(self.fingerprint, key)) for key in sorted({*there, *self.fingerprint})]
        return [f"{key}: {old} -> {new}" for key, old, new in triples if old != new]


def failure(folder: Path) -> str:
    """Why the cell in a folder was given up, '' when it was not. Only looks."""
    return str((read_json(folder / FAILURE) or {}).get("reason") or "")


def _must(may: bool, first: str) -> None:
    if not may:
        raise RuntimeError(f"CellStore.{first}() comes first")


def _shown(fingerprint: Mapping[str, Any], key: str) -> str:
    return dumps(fingerprint[key]).decode() if key in fingerprint else "(none)"


def _discard(folder: Path) -> None:
    """Empties a folder of ours. The result goes first and the fingerprint last: a kill in between leaves a valid folder."""
    names = {path.name for path in folder.iterdir()} - {lock.LOCK}
    if names and not names & {CELL, RESULT, FAILURE} and not shard.files(folder):
        raise UserError(f"'{folder}' holds files that are not results of this program: remove them, or use another --work-dir.")
    for path in sorted((folder / name for name in names), key=lambda path: (path.name == CELL, path.name != RESULT)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
