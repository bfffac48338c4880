"""A video read: the door to files and folders."""

from __future__ import annotations

import math
from pathlib import Path

from ..errors import UserError
from .clip import Clip
from .file import from_file
from .folder import from_folder
from .sampling import Sampler, Wanted, check


def read(
    path: str | Path,
    frames: int | None,
    sampler: Sampler = "ends",
    *,
    fps: float | None = None,
    start: float | None = None,
    end: float | None = None,
    folder_fps: float = 1.0,
) -> Clip:
    """The chosen frames of a video file (mp4, mov, avi, mkv, webm, gif and the like) or of a folder of jpg and png pictures.

    start, end: seconds from the first frame; only frames from `start` to `end`, both included, are chosen among. An end behind
    the file's is the file's. fps: so many frames a second, and `frames`, where it is neither None nor 0, is the most that are
    shown: a longer span shows that many by the sampler. folder_fps: pictures a second of a folder.

    All of a file's packets are read. A long file is decoded around the chosen frames, a short one from beginning to end
    (`file.from_file`); the frames are the same, and only they are held. ValueError, naming the file, for one that is missing,
    has no picture in it or in the span, or is damaged or cut off: nothing is made up for what is not there. Damage inside
    packets that are never decoded is not seen. UserError for a number of frames, a rate or a sampler that cannot be.
    """
    for rate in (fps, folder_fps):
        if rate is not None and not 0 < rate < math.inf:
            raise UserError(f"Frames cannot be taken at {rate:g} a second: ask for a number above 0.")
    check(1 if fps and not frames else frames, sampler)
    wanted, path = Wanted(frames or 0, sampler, fps, start, end), Path(path)
    if path.is_dir():
        return from_folder(path, wanted, folder_fps)
    if not path.is_file():
        raise ValueError(f"cannot read video {path}: there is no such file")
    return from_file(path, wanted)
