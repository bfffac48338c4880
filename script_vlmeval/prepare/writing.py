"""Writing into a data folder: what the disk refuses is a UserError in the words of that folder."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .. import store
from ..errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turns what the operating system refuses in this block into a UserError about `path`, a place in the data folder."""
    try:
        yield
    except OSError as error:
        raise _refusal(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """`store.replacing`, with refusals as of `disk`: the store speaks of results folders. For blocks that only write."""
    try:
        with store.replacing(path) as temporary:
            yield temporary
    except UserError as error:
        if isinstance(error.__cause__, OSError):
            raise _refusal(path, error.__cause__) from error.__cause__
        raise


def _refusal(path: Path, error: OSError) -> UserError:
    advice = "change its permissions, or set LMUData to another data folder"
    if error.errno in _FULL:
        advice = "free some space and run the same command again (what is finished stays)"
    return UserError(f"Cannot read or write '{error.filename or path}': {error.strerror or error}; {advice}.")
