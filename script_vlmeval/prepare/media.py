"""Pictures and videos that rows name: each file is looked at once, several at a time, and a run that was cut off goes on.

What was found whole is remembered in an append-only file as path, size and time of change; a damaged file is looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from .. import video
from ..errors import reason_of
from .endings import ends
from .recipe import VIDEO

_THREADS = 8
_BATCH = 64  # files between two writes of the memory


def damaged(paths: Iterable[str], kind: str, memory: Path, *, called: str, quiet: bool = False) -> dict[str, str]:
    """path -> what is wrong with it, of all paths, each looked at once. `kind` is the recipe's column of media, `called` heads
    the bar."""
    look: Callable[[Path], str] = wrong_video if kind == VIDEO else wrong_picture
    distinct = list(dict.fromkeys(paths))
    known = _remembered(memory)
    wrong: dict[str, str] = {}
    name = "video" if kind == VIDEO else "picture"
    bar = tqdm(total=len(distinct), unit=name, desc=f"{called}: checking {name}s", disable=True if quiet else None)
    with bar, memory.open("ab") as log, ThreadPoolExecutor(_THREADS) as pool:
        for batch in _batches(distinct, _BATCH):
            states = {path: _state(Path(path)) for path in batch}
            fresh = [path for path in batch if states[path] is None or known.get(path) != states[path]]
            reasons = dict(zip(fresh, pool.map(lambda path: look(Path(path)), fresh), strict=True))
            wrong |= {path: reason for path, reason in reasons.items() if reason}
            _remember(log, [(path, states[path]) for path, reason in reasons.items() if not reason])
            bar.update(len(batch))
    return wrong


def wrong_picture(path: Path) -> str:
    """Why a picture cannot be used, "" where it can: absent, no picture, or cut off. One without its format's end mark is
    decoded, since some writers leave it out."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if ends(path) is not True:
                picture.load()
    except FileNotFoundError:
        return "missing"
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"damaged: {reason_of(error)}".replace(f" {str(path)!r}", "")
    return ""


def wrong_video(path: Path) -> str:
    """Why a video file, or a folder of frames, cannot be used, "" where it can. Of a file, the first frame is decoded."""
    import av

    if path.is_dir():
        return _wrong_frames(path)
    try:
        if ends(path) is False:
            return "damaged: cut off"
        with video.opened(path) as (container, stream):
            return "" if next(container.decode(stream), None) is not None else "damaged: no frame in it"
    except FileNotFoundError:
        return "missing"
    except (av.FFmpegError, OSError, ValueError) as error:
        return f"damaged: {getattr(error, 'strerror', None) or reason_of(error).removeprefix(f'cannot read video {path}: ')}"


def _wrong_frames(folder: Path) -> str:
    frames = video.pictures_in(folder)
    if not frames:
        return "missing: no jpg or png in the folder"
    return next((f"{path.name} {reason}" for path in frames if (reason := wrong_picture(path))), "")


def _state(path: Path) -> tuple[int, int] | None:
    """Size and time of change. Of a folder, its number of entries in place of the size."""
    try:
        stat = path.stat()
        return (sum(1 for _ in path.iterdir()) if path.is_dir() else stat.st_size), stat.st_mtime_ns
    except OSError:
        return None


def _remembered(memory: Path) -> dict[str, tuple[int, int]]:
    """What an earlier run found whole; torn and foreign lines are passed over."""
    found: dict[str, tuple[int, int]] = {}
    for line in memory.read_bytes().splitlines() if memory.is_file() else ():
        try:
            path, size, changed = json.loads(line)
            found[path] = (size, changed)
        except (ValueError, TypeError):
            continue
    return found


def _remember(log: BinaryIO, seen: Sequence[tuple[str, Any]]) -> None:
    log.write(b"".join(json.dumps([path, *state]).encode() + b"\n" for path, state in seen if state))
    log.flush()


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
