"""What a judge has answered before, in one SQLite file that several processes may share.

A key is a digest of everything that was asked, so the file holds replies but no questions. An answer is on disk before it is
used: a killed run loses what was in flight and nothing else.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from ..errors import UserError

NAME = "judge.sqlite"
_WAIT = 60.0  # seconds that a process waits for another's write
_TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL, at TEXT NOT NULL, model TEXT NOT NULL)"
_log = logging.getLogger(__name__)


class Cache:
    """Key -> reply; safe for threads and processes. Without a folder it lives in memory.

    A file that is not a sound database is set aside as `*.broken`, with a warning. A folder that cannot be used is a UserError,
    before anything is asked. A disk that refuses a write later costs a warning, once, and what is answered from there on is not
    kept: the run at hand still has it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._lock = threading.Lock()
        self._writes = True
        self._file = None if folder is None else folder / NAME
        self._base = _connect(":memory:") if self._file is None else _opened(self._file)

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._base.close()

    @property
    def keeps(self) -> bool:
        """Whether answers outlive this process."""
        return self._file is not None and self._writes

    def get(self, key: str) -> str | None:
        """The reply to a question, or None. What cannot be read counts as not answered."""
        with self._lock, suppress(sqlite3.Error):
            row = self._base.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
            return row[0] if row and isinstance(row[0], str) else None
        return None

    def put(self, key: str, text: str, model: str) -> str:
        """Keeps a reply and what the server says answered it. Returns the reply that now stands there: where two processes asked
        the same, the first answer counts for both."""
        at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        with self._lock:
            if not self._writes:
                return text
            try:
                self._base.execute("BEGIN IMMEDIATE")
                self._base.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (key, text, at, model))
                row = self._base.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
                self._base.execute("COMMIT")
            except sqlite3.Error as error:
                self._stop_writing(error)
                return text
        return str(row[0])

    def _stop_writing(self, error: sqlite3.Error) -> None:
        self._writes = False
        with suppress(sqlite3.Error):
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
        _log.warning(
            "%s: cannot be written (%s); the judge's answers from here on are not kept for another run", self._file, error
        )


def _opened(file: Path) -> sqlite3.Connection:
    """A sound database with the table in it: the one that is there, else a new one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file.parent):
            try:
                return _sound(file)
            except sqlite3.OperationalError:  # refused by the system, which says nothing about the content
                raise
            except sqlite3.DatabaseError as error:
                aside = _set_aside(file)
                _log.warning("%s: not a sound database (%s); set aside as %s", file, error, aside.name)
                return _sound(file)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = "name another folder for the judge's answers, or change its permissions"
        raise UserError(f"Cannot keep a judge's answers in '{file}': {reason}; {advice}.") from error


def _sound(file: Path) -> sqlite3.Connection:
    """DatabaseError when the content is damaged, its subclass OperationalError when it cannot be opened."""
    base = _connect(str(file))
    try:
        (found,) = base.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(str(found).splitlines()[-1])
    except BaseException:
        base.close()
        raise
    return base


def _connect(name: str) -> sqlite3.Connection:
    base = sqlite3.connect(name, timeout=_WAIT, isolation_level=None, check_same_thread=False)
    try:
        base.execute(_TABLE)
        if [column[1] for column in base.execute("PRAGMA table_info(answers)")] != ["key", "text", "at", "model"]:
            raise sqlite3.DatabaseError("its table is another program's")
    except BaseException:
        base.close()
        raise
    return base


def _set_aside(file: Path) -> Path:
    """Renames a database, and its journal with it: the next one of that name must not be rolled back by it."""
    names = (file.with_name(f"{file.name}{nth}.broken") for nth in ("", *(f".{n}" for n in range(2, 10_000))))
    aside = next(name for name in names if not name.exists())
    os.replace(file, aside)
    for kind in ("-journal", "-wal", "-shm"):
        with suppress(FileNotFoundError):
            os.replace(f"{file}{kind}", f"{aside}{kind}")
    return aside


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps others from opening a cache here, so that no new file is taken for the damaged one. Not every file system can."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
