"""A long file decoded around the chosen frames only.

Before each frame the decoder is put to the keyframe before it. What it then shows must be, frame by frame and from that keyframe
on, what the packets announce: at the same times, for as long, none missing, none damaged, none turned differently. Otherwise the
file is not one of those where that works, which is no error: it is decoded whole.

The first frames, the last one and those behind the widest gaps in time are always looked at, since that is where a file and its
packets come apart: what is lost without a trace in the packets leaves a gap, and frames behind it that cannot be made.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import pairwise
from pathlib import Path
from typing import Any

from .container import opened, upright
from .packets import Packet, Packets
from .whole import Pass

_SHORT = 300  # frames: a file of no more is decoded whole; chosen, not measured
_NEAR = 16  # frames: over so few the decoder goes on instead of being put to a keyframe anew; chosen, not measured
_FIRST = 16  # frames from the beginning that are compared in any case
_GAPS = 8  # so many of the widest gaps are looked behind
_WIDE = 1.5  # frames: no gap is narrower


@dataclass(frozen=True)
class _Run:
    """Frames that are decoded one after the other, from a keyframe on: from the one shown first to the last one wanted."""

    key: Packet
    first: int
    last: int


class _Unlike(Exception):
    """What was decoded is not what the packets announce."""


def decode(path: Path, packets: Packets, indices: Sequence[int]) -> Pass | None:
    """The chosen frames, and what the packets say of the others. None where the file has to be decoded whole, or may as well be:
    where it is short, or more than half of it would be decoded anyway."""
    import av

    runs = _runs(packets, indices)
    if not runs or 2 * sum(run.last - run.first + 1 for run in runs) > len(packets.order):
        return None
    wanted, found = frozenset(indices), Pass([], packets.times, packets.rate, packets.duration)
    turned: int | None = None
    try:
        with opened(path) as (container, stream):
            stream.thread_type = "AUTO"
            for run in runs:
                for index, frame in _frames(container, stream, run, packets.order):
                    turned = frame.rotation if turned is None else turned
                    if frame.rotation != turned:  # as the file's first packet alone may say
                        return None
                    if index in wanted:
                        found.kept.append((upright(frame), packets.times[index]))
    except (av.FFmpegError, OSError, _Unlike):
        return None
    return found


def _runs(packets: Packets, indices: Sequence[int]) -> list[_Run]:
    """What to decode, in ascending order; nothing for a file that is short or cannot be relied on."""
    order, runs = packets.order, list[_Run]()
    if len(order) <= _SHORT:
        return []
    shown, keys = [p.pts or 0 for p in order], [p.pts or 0 for p in packets.keys]
    for index in sorted({0, _FIRST, *indices, *_behind_gaps(packets), len(order) - 1}):
        key = packets.keys[bisect_right(keys, shown[index]) - 1]
        first = bisect_left(shown, key.pts or 0)
        if runs and first - runs[-1].last <= _NEAR:
            runs[-1] = _Run(runs[-1].key, runs[-1].first, index)
        else:
            runs.append(_Run(key, first, index))
    return runs


def _behind_gaps(packets: Packets) -> list[int]:
    """Frames before which others may have been lost. Variable frame rates make such gaps too, hence only some."""
    waits = [(later - time, i) for i, (time, later) in enumerate(pairwise(packets.times), 1)]
    return [i for wait, i in nlargest(_GAPS, waits) if wait * packets.rate > _WIDE]


def _frames(container: Any, stream: Any, run: _Run, order: Sequence[Packet]) -> Iterator[tuple[int, Any]]:
    """(index, frame) of a run. _Unlike where a frame is not the one that its packet announces.

    Frames that are stored behind the keyframe and shown before it are made from what lies before it: decoders leave them out.
    """
    index = run.first
    for packet in _from(container, stream, run):
        for frame in packet.decode():
            due = order[index]
            if (frame.pts, frame.duration or 0) != (due.pts, due.duration) or frame.is_corrupt:
                raise _Unlike
            yield index, frame
            if index == run.last:
                return
            index += 1
    raise _Unlike


def _from(container: Any, stream: Any, run: _Run) -> Iterator[Any]:
    """The packets from a run's keyframe on, ending with the empty one that makes a decoder give what it holds back; none where
    the keyframe is not found again. Formats go back to somewhere before it."""
    key = run.key
    if run.first:  # a file that was just opened stands at its beginning, where not every format can go back to
        container.seek(min(t for t in (key.pts, key.dts) if t is not None), stream=stream)
    reached = False
    for packet in container.demux(stream):
        reached = reached or (packet.is_keyframe and packet.pts == key.pts)
        if reached and packet.is_corrupt:
            raise _Unlike
        if reached:
            yield packet
