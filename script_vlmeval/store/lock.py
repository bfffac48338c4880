"""Who works on a cell: a lock that ends with its process, in a file that says who that is."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import resource
import socket
import time
from contextlib import suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from ..errors import UserError
from ..files import disk, dumps

LOCK = ".lock"
PATIENCE = 1.0  # seconds: a command that only looks has the lock for an instant, and the end of a run takes one
_SPARE = 128  # open files that the rest of the process may need beside the locks
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}
_log = logging.getLogger(__name__)


def hold(folder: Path) -> int:
    """An open file that holds the lock of a folder, made where there is none, until it is closed, also by the end of the process.
    UserError: another has it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        fd = opened(folder / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            if not grabbed(fd, folder):
                raise UserError(f"Another run{_who(fd)} is working on '{folder}': wait for it, or use another --work-dir.")
            if _there(fd, folder):
                os.ftruncate(fd, 0)
                since = datetime.now().astimezone().isoformat(timespec="seconds")
                os.pwrite(fd, dumps({"host": socket.gethostname(), "process": os.getpid(), "since": since}) + b"\n", 0)
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # of a file that its last holder removed in between


def leave(folder: Path) -> None:
    """Before the lock goes: removes a folder that holds nothing else, and the one above when that is empty."""
    with suppress(OSError):
        if os.listdir(folder) == [LOCK]:
            (folder / LOCK).unlink()
            folder.rmdir()
            folder.parent.rmdir()


def _there(fd: int, folder: Path) -> bool:
    """Whether a locked file is still the one in the folder."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def held(folder: Path) -> bool:
    """Whether a run works on a cell's folder at this instant. Only looks; False where there are no locks."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            _log.warning("%s: %s", folder / LOCK, error.strerror)
    finally:
        os.close(fd)
    return False


def grabbed(fd: int, folder: Path) -> bool:
    """Takes the lock on an open file of a cell, unless another keeps it. True, with a warning, where there are no locks."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _warn(folder.parents[1])
            return True


def opened(path: Path, flags: int) -> int:
    """`os.open`. A run keeps a file of each of its cells open: before they are too many, as many as the system lets it."""
    with disk(path):
        try:
            fd = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            _allow_more()
            return os.open(path, flags, 0o666)
    if fd + _SPARE > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
        _allow_more()
    return fd


def _allow_more() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _who(fd: int) -> str:
    """The holder, as it wrote itself down; '' where that cannot be read."""
    try:
        said = json.loads(os.pread(fd, 1024, 0))
        since = datetime.fromisoformat(said["since"]).astimezone()
        day = "" if since.date() == datetime.now().date() else f"{since:%Y-%m-%d} "
        return f" (host {said['host']}, process {said['process']}, since {day}{since:%H:%M})"
    except (OSError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError):
        return ""


@cache
def _warn(work_dir: Path) -> None:
    _log.warning("%s: this file system has no locks; take care that only one run uses it", work_dir)
