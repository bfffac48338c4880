"""A video file opened: its video stream, and what the file says of itself."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

# What FFmpeg may take a file for. Without the list it also plays plain text, and playlists, which name other files and hosts.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,flv,asf,ogg"
_TAIL = 4096  # bytes of a GIF in which its end is looked for: some writers fill up with zeros
_EARLY = 0.05  # of the duration: beyond it, and beyond two frames, a file that stops before its stated end was cut off


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) of PyAV. ValueError for a file without a video that can be decoded."""
    import av

    with av.open(str(path), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"}) as container:
        stream = container.streams.best("video")  # not the cover picture of a piece of music
        if stream is None:
            raise ValueError(f"cannot read video {path}: it has no video stream")
        if stream.codec_context is None:
            raise ValueError(f"cannot read video {path}: there is no decoder for its video")
        yield container, stream


def rate_of(stream: Any) -> float:
    """Frames a second, 0 where unknown."""
    return float(stream.average_rate or stream.guessed_rate or 0)


def check_length(path: Path, promised: float, start: float, end: float, step: float) -> None:
    """ValueError where the frames end long before the stream says. All in seconds; step: of one frame."""
    if promised - start - end > max(2 * step, _EARLY * promised):
        raise ValueError(f"cannot read video {path}: it ends after {end:.1f} of {promised:.1f} seconds")


def promised_seconds(stream: Any) -> float:
    """Up to when the video stream itself says that it goes on, 0 where it does not. The container's duration is also that of
    its sound."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska's tag
    return sum(float(part) * scale for part, scale in zip(stated.groups(), (3600, 60, 1), strict=True)) if stated else 0.0


def closed(path: Path) -> bool:
    """Whether a GIF has its last byte: it states neither length nor duration, and its decoder accepts half a picture."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, _TAIL), os.SEEK_END)
        return file.read().rstrip(b"\0").endswith(b";")


def damaged(path: Path) -> ValueError:
    return ValueError(f"cannot read video {path}: it is cut off or damaged")


def upright(frame: Any) -> Image:
    """The frame in RGB, turned as the file says, which cameras held upright rely on."""
    picture: Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
