"""Files in general: replaced in one step, JSON that can be read back, and what the disk refuses in words."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from .errors import UserError

ADVICE = "choose another --work-dir, or change its permissions"  # where the disk refuses
_AS_THEY_ARE = frozenset((str, int, bool, type(None)))
_log = logging.getLogger(__name__)


@contextmanager
def disk(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turns what the operating system refuses in this block into a UserError about `path`; `advice` is what would help."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "free some space and run the same command again (what is finished stays)"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            advice = "allow more open files (ulimit -n), or run fewer configurations or benchmarks at a time"
        raise UserError(f"Cannot read or write '{error.filename or path}': {error.strerror or error}; {advice}.") from error


@contextmanager
def replacing(path: Path, advice: str = ADVICE, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place when the block ends well and else goes.

    durable: it is on disk when this ends; without, a power failure may bring the old one back or leave an empty one.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk(path, advice):
        try:
            yield temporary
            if durable:
                with open(temporary, "rb") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        if durable:
            sync_folder(path.parent)


def write_json(path: Path, value: Mapping[str, Any], advice: str = ADVICE, durable: bool = True) -> None:
    """Replaces `path` by `value` as JSON, in one step."""
    with replacing(path, advice, durable) as temporary:
        temporary.write_bytes(dumps(value, indent=1) + b"\n")


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


def lines(path: Path) -> Iterator[bytes]:
    """The complete lines of a file, one in memory at a time; none where there is no file.

    A newline byte is the only terminator, whatever other line breaks texts contain.
    """
    try:
        with open(path, "rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(f"Cannot read '{path}': {error.strerror or error}.") from error


def sync_folder(folder: Path) -> None:
    """Names made, replaced or removed in a folder are on disk when this returns."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def digest(mapping: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that stand for a mapping of JSON values, whatever the order of its keys."""
    return hashlib.sha256(dumps(mapping, sort_keys=True)).hexdigest()[:16]


def dumps(value: Any, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """JSON in UTF-8, or with escapes for what UTF-8 cannot hold: half a surrogate pair. Numbers that JSON lacks become null."""
    plain = _plain(value)
    try:
        return _encoder(False, indent, sort_keys).encode(plain).encode()
    except UnicodeEncodeError:
        return _encoder(True, indent, sort_keys).encode(plain).encode()


@cache
def _encoder(escapes: bool, indent: int | None, sort_keys: bool) -> json.JSONEncoder:
    return json.JSONEncoder(ensure_ascii=escapes, allow_nan=False, indent=indent, sort_keys=sort_keys)


def _plain(value: Any) -> Any:
    """With numbers that JSON lacks as null, and the scalars of array libraries as numbers."""
    if type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, dict | Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, str | int | float) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
