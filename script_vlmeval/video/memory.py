"""The last clips, so that a video that several questions in a row are about is read, hashed and decoded once."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..recent import Recent
from .clip import Clip
from .reading import read
from .sampling import Sampler

_CLIPS: Recent[Clip] = Recent(4)  # they may be large
_DIGESTS: Recent[bytes] = Recent(64)
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Remembered:
    """A clip, and the SHA-256 of all bytes of its file, or of those of its folder's files one after the other."""

    clip: Clip
    digest: bytes


def remembered(path: str | Path, frames: int | None, sampler: Sampler = "ends", **how: Any) -> Remembered:
    """As `read`, by the same names, with the digest; from memory where the file has kept its size and its time of change."""
    named = str(path)
    try:
        stamp = _stamp(named)
    except FileNotFoundError:
        raise ValueError(f"cannot read video {named}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"cannot read video {named}: {error.strerror or error}") from None
    chosen = (named, stamp, frames, sampler, tuple(sorted(how.items())))
    clip = _CLIPS.get(chosen, lambda: read(named, frames, sampler, **how))
    return Remembered(clip, _DIGESTS.get((named, stamp), lambda: _digest(named)))


def _stamp(path: str) -> tuple[Any, ...]:
    """What changes when the file, or a file of the folder, does."""
    return os.path.realpath(path), tuple((f.name, (found := f.stat()).st_size, found.st_mtime_ns) for f in _files(path))


def _files(path: str) -> list[Path]:
    source = Path(path)
    return sorted(f for f in source.iterdir() if f.is_file()) if source.is_dir() else [source]


def _digest(path: str) -> bytes:
    found = hashlib.sha256()
    for file in _files(path):
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                found.update(block)
    return found.digest()
