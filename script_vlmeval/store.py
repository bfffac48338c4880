"""One cell's folder on disk, safe against crashes: `work_dir/<config>/<benchmark>/`.

`cell.json` says what the folder holds (the fingerprint: everything that could change the score); `predictions.jsonl` grows by
one JSON object per answered row, durable once `append` returns; `result.json` is written last, in one step, and means done.
What a killed run can leave behind is a torn last line, which is cut off; a line that is not ours is skipped, never read as an
answer. A lock keeps two runs out of one folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError

CELL, PREDICTIONS, RESULT, LOCK = "cell.json", "predictions.jsonl", "result.json", ".lock"
ADVICE = "choose another --work-dir, or change its permissions"  # where the disk refuses
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)


class CellStore:
    """The answers and the result of one configuration on one benchmark.

    `open()` before writing, `close()` (or `with store:`) after. `result()` and `answers()` only read and need no `open`.
    Whatever the disk refuses is a UserError. `fingerprint` maps names to JSON scalars.
    """

    def __init__(self, work_dir: Path, config: str, benchmark: str, fingerprint: Mapping[str, Any]) -> None:
        for name in (config, benchmark):
            if not name or name in (".", "..") or "/" in name or "\0" in name:
                raise UserError(f"'{name}' cannot be the name of a results folder.")
        self.folder = Path(work_dir) / config / benchmark
        self.workbook = self.folder / f"{config}_{benchmark}.xlsx"
        self.fingerprint: dict[str, Any] = json.loads(_dumps(fingerprint))
        self._lock: int | None = None
        self._file: int | None = None

    def open(self, fresh: bool = False) -> None:
        """Creates the folder or takes up the one that is there, without the torn line that a killed run leaves.

        UserError when another run holds it, or when it holds results of another fingerprint: then nothing is changed.
        `fresh` discards what is there instead.
        """
        if self._file is not None:
            return
        if not fresh:
            self.check()
        try:
            with disk(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = _lock(self.folder)
                self._take_up(fresh)
        except BaseException:
            self.close()
            raise

    def result(self) -> dict[str, Any] | None:
        """The content of result.json when the cell is done with this fingerprint, else None."""
        result = read_json(self.folder / RESULT)
        return None if result is None or self._differences() else result

    def answers(self) -> dict[str, dict[str, Any]]:
        """Row index -> its record: the last one, except that an error never takes the place of a prediction."""
        found: dict[str, dict[str, Any]] = {}
        skipped = 0
        for line in _lines(self.folder / PREDICTIONS):
            record = _record(line)
            if record is None:
                skipped += 1
            elif "prediction" in record or "prediction" not in found.get(record["index"], {}):
                found[record["index"]] = record
        if skipped:
            _log.warning("%s: skipped %d unreadable or foreign line(s)", self.folder / PREDICTIONS, skipped)
        return found

    def append(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Adds records with `index` and either `prediction` or `error`; on disk, all of them, when this returns.

        When the disk refuses, none of them is kept and the earlier ones stay.
        """
        file = self._opened()
        lines = b"".join(_line(record) for record in records)
        with disk(self.folder / PREDICTIONS):
            size = os.fstat(file).st_size
            try:
                while lines:
                    lines = lines[os.write(file, lines) :]
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, size)
                raise

    def reopen(self) -> None:
        """More answers are coming: what result.json says is out of date from here on."""
        self._opened()
        with disk(self.folder):
            (self.folder / RESULT).unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Writes result.json in one step: from here on the cell is done. Numbers that are not finite become null."""
        self._opened()
        write_json(self.folder / RESULT, result)

    def close(self) -> None:
        """Lets others in. Safe to call twice."""
        for fd in (self._file, self._lock):
            if fd is not None:
                os.close(fd)
        self._file = self._lock = None

    def __enter__(self) -> CellStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _opened(self) -> int:
        if self._file is None:
            raise RuntimeError("CellStore.open() comes first")
        return self._file

    def _take_up(self, fresh: bool) -> None:
        for leftover in self.folder.glob(".*.tmp"):  # of a run that was killed; the lock says that nobody writes it now
            leftover.unlink()
        if fresh:
            _discard(self.folder)
        else:
            self.check()  # again: it may have changed before the lock was ours
        if not self._begun():
            write_json(self.folder / CELL, self.fingerprint)
        self._file = os.open(self.folder / PREDICTIONS, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        _cut_torn_line(self.folder / PREDICTIONS)
        os.fsync(self._file)
        _sync_folder(self.folder)

    def _begun(self) -> bool:
        """Whether there is anything to lose: a run that stopped before its first answer leaves nothing that binds the next."""
        answers = self.folder / PREDICTIONS
        return os.path.exists(self.folder / RESULT) or (os.path.exists(answers) and os.path.getsize(answers) > 0)

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

    def check(self) -> None:
        """UserError when the folder holds results of another fingerprint. Only reads."""
        differences = self._differences()
        if differences:
            what = f"'{self.folder}' holds results made with other settings ({'; '.join(differences)})."
            raise UserError(f"{what} Use --fresh to discard them, or another --work-dir to keep them.")


def digest(mapping: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for a mapping of JSON values, whatever the order of its keys."""
    return hashlib.sha256(_dumps(mapping, sort_keys=True)).hexdigest()[:16]


@contextmanager
def disk(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turns what the operating system refuses in this block into a UserError about `path`; `advice` is what would help."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some space and run the same command again (what is finished stays)"
        raise UserError(f"Cannot read or write '{error.filename or path}': {error.strerror or error}; {advice}.") from error


@contextmanager
def replacing(path: Path, advice: str = ADVICE) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place, durably, when the block ends well and else goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk(path, advice):
        try:
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_json(path: Path, value: Mapping[str, Any], advice: str = ADVICE) -> None:
    """Replaces `path` by `value` as JSON, in one step."""
    with replacing(path, advice) as temporary:
        temporary.write_bytes(_dumps(value, indent=1) + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None when there is no such file or, with a warning, when it holds something else."""
    try:
        value = json.loads(path.read_bytes())
        if isinstance(value, dict):
            return value
        _log.warning("%s: not a JSON object", path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s: not readable as JSON (%s)", path, error)
    return None


def _line(record: Mapping[str, Any]) -> bytes:
    """A record as a line. ValueError for one that could not be read back."""
    line = _dumps(record) + b"\n"
    if _record(line) is None:
        raise ValueError(f"a record is an index with either a prediction or an error, all texts: {record!r}")
    return line


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None when it is not one of ours."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("index"), str):
        return None
    said = [record[key] for key in ("prediction", "error") if key in record]
    return record if len(said) == 1 and isinstance(said[0], str) else None


def _lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file; a newline byte is the only terminator, whatever other line breaks texts contain."""
    try:
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"Cannot read '{path}': {error.strerror or error}.") from error


def _cut_torn_line(path: Path) -> None:
    """Cuts a file behind its last newline: what follows was never acknowledged."""
    whole = sum(len(line) for line in _lines(path))
    if whole < path.stat().st_size:
        os.truncate(path, whole)


def _dumps(value: Any, **options: Any) -> bytes:
    """JSON in UTF-8, or with escapes for what UTF-8 cannot hold: half a surrogate pair."""
    try:
        return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, **options).encode()
    except UnicodeEncodeError:
        return json.dumps(_plain(value), allow_nan=False, **options).encode()


def _plain(value: Any) -> Any:
    """With numbers that JSON lacks as null, and the scalars of array libraries as numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float | None) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _shown(fingerprint: Mapping[str, Any], key: str) -> str:
    return _dumps(fingerprint[key]).decode() if key in fingerprint else "(none)"


def _lock(folder: Path) -> int:
    """An open file that holds the folder's lock until it is closed, also by the end of the process."""
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UserError(f"Another run is working on '{folder}': wait for it, or use another --work-dir.") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(fd)
            raise
        _log.warning("%s: this file system has no locks; take care that only one run uses it", folder)
    return fd


def _discard(folder: Path) -> None:
    """Empties a folder of ours. The result goes first and the fingerprint last: a kill in between leaves a valid folder."""
    names = {path.name for path in folder.iterdir()} - {LOCK}
    if names and not names & {CELL, PREDICTIONS, RESULT}:
        raise UserError(f"'{folder}' holds files that are not results of this program: remove them, or use another --work-dir.")
    for path in sorted((folder / name for name in names), key=lambda path: (path.name == CELL, path.name != RESULT)):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
