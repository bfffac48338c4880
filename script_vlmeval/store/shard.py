"""Files of lines in a cell's folder, one for each process of a run: appended to, cut where torn, merged into the first."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from ..errors import UserError
from ..files import disk, lines, sync_folder
from .lock import grabbed, opened

PREDICTIONS = "predictions.jsonl"  # of a run's first process
APPEND = os.O_RDWR | os.O_CREAT | os.O_APPEND
_NAME = re.compile(r"predictions(?:-([1-9][0-9]{0,8}))?\.jsonl")
_BLOCK = 1 << 20  # bytes
_PREDICTION = b', "prediction": "'  # nowhere else on a line: in a text its marks would be escaped


def name(rank: int) -> str:
    return f"predictions-{rank}.jsonl" if rank else PREDICTIONS


def files(folder: Path) -> dict[int, Path]:
    """Rank -> its file of those that are there, in the order in which they are read."""
    with disk(folder):
        try:
            names = os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
    found = ((int(match[1] or 0), folder / match[0]) for match in map(_NAME.fullmatch, names) if match)
    return dict(sorted(found))


def written(folder: Path) -> int:
    """How many complete lines with a prediction a cell's folder holds, whosever they are. Only looks."""
    with disk(folder):
        return sum(_PREDICTION in line for path in files(folder).values() for line in lines(path))


def begun(folder: Path) -> bool:
    """Whether there is a byte in any of them."""
    for path in files(folder).values():
        with disk(path), suppress(FileNotFoundError):  # merged in between
            if path.stat().st_size:
                return True
    return False


def append(fd: int, data: bytes) -> None:
    """Adds complete lines to a file, on disk when this returns; when that fails, what was there stays alone."""
    size = cut(fd)
    try:
        _write(fd, data)
        os.fsync(fd)
    except BaseException:
        os.ftruncate(fd, size)
        raise


def cut(fd: int) -> int:
    """Cuts a file behind its last newline, and returns that size: what follows was never acknowledged."""
    size = os.fstat(fd).st_size
    if not size or os.pread(fd, 1, size - 1) == b"\n":
        return size
    whole = _whole(fd, size)
    os.ftruncate(fd, whole)
    return whole


def merge(folder: Path) -> None:
    """Moves the lines of all other files to the first one. Killed at any point, no line is lost; some may be there twice.

    Processes that have their file open may go on: one that finds its file gone writes what it has just written once more.
    """
    others = {rank: path for rank, path in files(folder).items() if rank}
    if not others:
        return
    target = opened(folder / PREDICTIONS, APPEND)
    try:
        sync_folder(folder)  # before others go, the first file's name must be there to stay
        for path in others.values():
            source = opened(path, os.O_RDONLY)
            try:
                end = _copy(source, target, 0)
                os.unlink(path)
                _copy(source, target, end)  # lines written between the two
            finally:
                os.close(source)
    finally:
        os.close(target)


def check_left(folder: Path) -> None:
    """UserError when a process that an earlier run has left behind is still there to write."""
    for path in files(folder).values():
        fd = opened(path, os.O_RDWR)
        try:
            if not grabbed(fd, folder):
                raise UserError(busy(path))
        finally:
            os.close(fd)


def busy(path: Path) -> str:
    return f"A process of an earlier run still has '{path}': end it, or wait until it ends, and run the same command again."


def _copy(source: int, target: int, start: int) -> int:
    """Appends a file's complete lines from `start` on to another, durably. Returns where they end."""
    end = _whole(source, os.fstat(source).st_size)
    if end <= start:
        return start
    size = cut(target)
    try:
        for at in range(start, end, _BLOCK):
            _write(target, os.pread(source, min(_BLOCK, end - at), at))
        os.fsync(target)
    except BaseException:
        os.ftruncate(target, size)
        raise
    return end


def _whole(fd: int, size: int) -> int:
    """Where the last complete line of a file of that size ends, looked for from behind."""
    end = size
    while end > 0:
        start = max(0, end - _BLOCK)
        at = os.pread(fd, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
