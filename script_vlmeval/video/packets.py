"""What a file's packets say without being decoded: when each frame is shown, where decoding can begin, what is damaged."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from .container import check_length, damaged, opened, promised_seconds, rate_of

# Decoders that show one picture for each packet, once those are set apart that say of themselves that they are not shown.
_ONE_EACH = frozenset({"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg4"})
_HEAD, _VOP = 8, 8  # bytes that are looked at; bytes that a picture of MPEG-4 has at least, if there is something in it
_VP8_SHOWN = 0x10


class Packet(NamedTuple):
    """Times in units of the stream's time base."""

    pts: int | None
    dts: int | None
    duration: int
    key: bool  # decoding can begin here
    shown: bool
    sound: bool  # there is a picture in it


@dataclass(frozen=True)
class Packets:
    """What is known of a file before decoding. rate: frames a second, 0 where unknown.

    times: seconds of every frame, ascending, counted from the first; a guess where packets do not say. duration: seconds.
    order, keys: the packets that are shown, and those where decoding can begin, ascending in the time they are shown; both empty
    where packets cannot be relied on to be the frames.
    """

    rate: float
    times: list[float]
    duration: float = 0.0
    order: tuple[Packet, ...] = ()
    keys: tuple[Packet, ...] = ()


def scan(path: Path) -> Packets:
    """Read all packets and decode none. ValueError where one is damaged or the last ones are missing."""
    with opened(path) as (container, stream):
        kind, found = stream.codec_context.name, []
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise damaged(path)
            if packet.size:
                found.append(_packet(packet, kind))
        rate, base = rate_of(stream), stream.time_base
        order = sorted((p for p in found if p.shown and p.pts is not None), key=lambda p: p.pts or 0)
        start = _seconds(order[0].pts, base) if order else 0.0
        times = [_seconds(p.pts, base) - start for p in order]
        if len(order) < (shown := sum(p.shown for p in found)):
            return Packets(rate, [i / rate if rate else 0.0 for i in range(shown)])
        if kind not in _ONE_EACH or not rate or not _regular(found, order):
            return Packets(rate, times)
        end = max(t + (_seconds(p.duration, base) or 1 / rate) for t, p in zip(times, order, strict=True))
        if not stream.frames or len(order) < stream.frames:
            check_length(path, promised_seconds(stream), start, end, 1 / rate)
    keys = sorted((p for p in found if p.key), key=lambda p: p.pts or 0)
    return Packets(rate, times, end, tuple(order), tuple(keys))


def _packet(packet: Any, kind: str) -> Packet:
    head = bytes(memoryview(packet)[:_HEAD])
    shown = not packet.is_discard and (kind != "vp8" or bool(head[0] & _VP8_SHOWN))
    sound = any(head) and (kind != "mpeg4" or packet.size > _VOP)  # zeros: a download that was given its place and not its bytes
    return Packet(packet.pts, packet.dts, packet.duration or 0, packet.is_keyframe, shown, sound)


def _regular(found: list[Packet], order: list[Packet]) -> bool:
    """Whether each packet is a picture with a time of its own, and the first is one that decoding can begin with."""
    first = found[0] if found else None
    return (
        first is not None
        and first.key
        and bool(order)
        and all(p.sound and p.pts is not None for p in found)
        and len({p.pts for p in order}) == len(order)
        and all(p.pts >= first.pts for p in order)  # type: ignore[operator]
    )


def _seconds(units: int | None, base: Fraction) -> float:
    return (units or 0) * base.numerator / base.denominator  # in floats: there may be 100,000 frames
