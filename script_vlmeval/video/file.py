"""The chosen frames of a video file."""

from __future__ import annotations

from pathlib import Path

from . import seeking, whole
from .clip import Clip
from .packets import Packets, scan
from .sampling import Wanted


def from_file(path: Path, wanted: Wanted) -> Clip:
    """Decode what is needed, or the whole file where little would be left out or it is the only way; the frames are the same.

    Once where the packets are what their times say, which `scan` reads before; ValueError for a file that is not whole.
    """
    import av

    try:
        packets = scan(path)
        found = seeking.decode(path, packets, wanted.among(packets.times, packets.rate)) or _whole(path, wanted, packets)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read video {path}: {error.strerror or error}") from None
    if not found.times:
        raise ValueError(f"cannot read video {path}: it has no frames")
    if not found.kept:
        raise wanted.missing(path, found.duration)
    pictures, seconds = zip(*found.kept, strict=True)
    return Clip(pictures, seconds, found.fps, found.duration, len(found.times), pictures[0].size)


def _whole(path: Path, wanted: Wanted, packets: Packets) -> whole.Pass:
    """One pass, or a second one for packets without a picture or with other times, or an error that threads did not pass on."""
    times, indices = packets.times, wanted.among(packets.times, packets.rate)
    found = whole.decode(path, indices, threads=True)
    while len(found.times) != len(times) or wanted.among(found.times, found.fps) != indices:
        times, indices = found.times, wanted.among(found.times, found.fps)
        found = whole.decode(path, indices, threads=False)
    return found
