"""A file decoded from beginning to end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .container import check_length, closed, damaged, opened, promised_seconds, rate_of, upright

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Pass:
    """What one pass over a file found. times: seconds of all frames, ascending, from the first one."""

    kept: list[tuple[Image, float]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    fps: float = 0.0
    duration: float = 0.0


def decode(path: Path, indices: Sequence[int], *, threads: bool) -> Pass:
    """One pass to the end. In one thread every error is heard of; decoders that work on several frames at once forget those of
    the last ones."""
    wanted, found = frozenset(indices), Pass()
    start = end = 0.0
    with opened(path) as (container, stream):
        stream.thread_type = "AUTO" if threads else "SLICE"
        found.fps = rate_of(stream)
        step = 1 / found.fps if found.fps else 0.0
        for index, frame in enumerate(_frames(container, stream, path)):
            time = index * step if frame.time is None else float(frame.time)
            start = time if index == 0 else start
            end = max(end, time - start + (float(frame.duration * frame.time_base) if frame.duration else step))
            if index in wanted:
                found.kept.append((upright(frame), time - start))
            found.times.append(time - start)
        if not stream.frames or len(found.times) < stream.frames:
            check_length(path, promised_seconds(stream), start, end, step)
    found.duration = end
    found.fps = found.fps or (len(found.times) / end if end else 0.0)
    return found


def _frames(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """The decoded frames in the order they are shown. ValueError where a part of one is missing."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise damaged(path)
        yield from packet.decode()
    if container.format.name == "gif" and not closed(path):
        raise ValueError(f"cannot read video {path}: it is cut off")
