"""Frames of a video: which ones, when each is shown, and an error for a file that is not whole."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Sampler = Literal["ends", "inner"]

# What FFmpeg may take a file for. Without the list it also plays plain text, and playlists, which name other files and hosts.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm,gif,mpeg,mpegts,flv,asf,ogg"
_PICTURES = frozenset({".jpg", ".jpeg", ".png"})
_EARLY = 0.05  # of the duration: beyond it, and beyond two frames, a file that stops before its stated end was cut off
_GIF_END = b";"


@dataclass(frozen=True)
class Clip:
    """The frames that a model is shown, in order, and what is known of the file.

    frames: RGB, turned upright. seconds: when each is shown, counted from the file's first frame.
    fps, duration (seconds), total (frames) and size (width, height) are of the file, `total` as counted, not as stated in a
    header. A folder of pictures has one frame a second, since nothing says otherwise.
    """

    frames: tuple[Image, ...]
    seconds: tuple[float, ...]
    fps: float
    duration: float
    total: int
    size: tuple[int, int]


def read(path: str | Path, frames: int, sampler: Sampler = "ends") -> Clip:
    """The chosen frames of a video file (mp4, mov, avi, mkv, webm, gif and the like) or of a folder of jpg and png pictures.

    A file is decoded once, from its beginning, and only the chosen frames are held; twice where its header has the wrong number
    of frames. ValueError, naming the file, for one that is missing, has no picture in it, or is damaged or cut off: nothing is
    made up for what is not there. UserError for a number of frames or a sampler that cannot be.
    """
    _check(frames, sampler)
    path = Path(path)
    if path.is_dir():
        return _from_folder(path, frames, sampler)
    if not path.is_file():
        raise ValueError(f"cannot read video {path}: there is no such file")
    return _from_file(path, frames, sampler)


def chosen(total: int, frames: int, sampler: Sampler = "ends") -> list[int]:
    """Ascending indices of the frames to show, all different; a file with no more frames than wanted shows each of them once,
    where LLaVA and VLMEvalKit would repeat some.

    ends: evenly from the first to the last frame, as LLaVA's loaders do. inner: evenly without the ends, VLMEvalKit's rule.
    """
    import numpy as np

    _check(frames, sampler)
    if total <= frames:
        return list(range(total))
    if sampler == "ends":
        evenly: list[int] = np.linspace(0, total - 1, frames).astype(int).tolist()
        return evenly
    step = total / (frames + 1)  # rounded before it is multiplied: another order moves a frame now and then
    return [int(i * step) for i in range(1, frames + 1)]


def _check(frames: int, sampler: str) -> None:
    if frames < 1:
        raise UserError(f"A video cannot be shown in {frames} frames: ask for 1 or more.")
    if sampler not in ("ends", "inner"):
        raise UserError(f"Frames are sampled by 'ends' or 'inner', not {sampler!r}.")


# -- files ---------------------------------------------------------------------------------------------------------------------
@dataclass
class _Pass:
    """What one pass over a file found."""

    kept: list[tuple[Image, float]]
    total: int = 0
    fps: float = 0.0
    duration: float = 0.0


def _from_file(path: Path, frames: int, sampler: Sampler) -> Clip:
    import av

    try:
        expected = stated = _stated(path)
        found = _decode(path, chosen(expected, frames, sampler), stated, threads=True)
        while found.total != expected:  # a wrong header, packets without a picture, or an error that threads did not pass on
            expected = found.total
            found = _decode(path, chosen(expected, frames, sampler), stated, threads=False)
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"cannot read video {path}: {error.strerror or error}") from None
    if not found.kept:
        raise ValueError(f"cannot read video {path}: it has no frames")
    pictures, seconds = zip(*found.kept, strict=True)
    return Clip(pictures, seconds, found.fps, found.duration, found.total, pictures[0].size)


def _open(path: Path) -> Any:
    import av

    return av.open(str(path), options={"format_whitelist": _FORMATS, "protocol_whitelist": "file"})


def _stream(container: Any, path: Path) -> Any:
    stream = container.streams.best("video")  # not the cover picture of a piece of music
    if stream is None:
        raise ValueError(f"cannot read video {path}: it has no video stream")
    if stream.codec_context is None:
        raise ValueError(f"cannot read video {path}: there is no decoder for its video")
    return stream


def _stated(path: Path) -> int:
    """The number of frames by the header, or else of packets, which takes reading the file but not decoding it."""
    with _open(path) as container:
        stream = _stream(container, path)
        return int(stream.frames) or sum(1 for packet in container.demux(stream) if packet.size)


def _decode(path: Path, indices: Sequence[int], stated: int, *, threads: bool) -> _Pass:
    """One pass to the end, since only there it is known that the file is whole. In one thread every error is heard of; decoders
    that work on several frames at once forget those of the last ones."""
    wanted, found = frozenset(indices), _Pass([])
    start = end = 0.0
    with _open(path) as container:
        stream = _stream(container, path)
        stream.thread_type = "AUTO" if threads else "SLICE"
        found.fps = float(stream.average_rate or stream.guessed_rate or 0)
        step = 1 / found.fps if found.fps else 0.0
        for index, frame in enumerate(_frames(container, stream, path)):
            time = index * step if frame.time is None else float(frame.time)
            start = time if index == 0 else start
            end = max(end, time - start + (float(frame.duration * frame.time_base) if frame.duration else step))
            if index in wanted:
                found.kept.append((_upright(frame), time - start))
            found.total = index + 1
        promised = _promised_seconds(stream)
        if (not stream.frames or found.total < stated) and promised - start - end > max(2 * step, _EARLY * promised):
            raise ValueError(f"cannot read video {path}: it ends after {end:.1f} of {promised:.1f} seconds")
    found.duration = end
    found.fps = found.fps or (found.total / end if end else 0.0)
    return found


def _frames(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    """The decoded frames in the order they are shown. ValueError where a part of one is missing."""
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError(f"cannot read video {path}: it is cut off or damaged")
        yield from packet.decode()
    if container.format.name == "gif" and not _closed(path):
        raise ValueError(f"cannot read video {path}: it is cut off")


def _closed(path: Path) -> bool:
    """Whether a GIF has its last byte: it states neither length nor duration, and its decoder accepts half a picture."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, 4096), 2)
        return file.read().rstrip(b"\0").endswith(_GIF_END)


def _promised_seconds(stream: Any) -> float:
    """Up to when the video stream itself says that it goes on, 0 where it does not. The container's duration is also that of
    its sound."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    stated = re.fullmatch(r"(\d+):(\d+):([\d.]+)", stream.metadata.get("DURATION", ""))  # Matroska's tag
    return sum(float(part) * scale for part, scale in zip(stated.groups(), (3600, 60, 1), strict=True)) if stated else 0.0


def _upright(frame: Any) -> Image:
    """The frame in RGB, turned as the file says, which cameras held upright rely on."""
    picture: Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


# -- folders -------------------------------------------------------------------------------------------------------------------
def _from_folder(folder: Path, frames: int, sampler: Sampler) -> Clip:
    """Only the chosen pictures are opened."""
    files = sorted((f for f in folder.iterdir() if f.suffix.lower() in _PICTURES and not f.name.startswith(".")), key=_natural)
    if not files:
        raise ValueError(f"cannot read video {folder}: there is no jpg or png in this folder")
    indices = chosen(len(files), frames, sampler)
    pictures = tuple(_picture(files[i]) for i in indices)
    return Clip(pictures, tuple(map(float, indices)), 1.0, float(len(files)), len(files), pictures[0].size)


def _natural(file: Path) -> tuple[list[tuple[int, int, str]], str]:
    """A key by which frame 10 comes after frame 9."""
    parts = re.findall(r"(\d+)|(\D+)", file.name)
    return [(0, int(number), "") if number else (1, 0, text) for number, text in parts], file.name


def _picture(file: Path) -> Image:
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise ValueError(f"cannot read picture {file}: {error}") from None
