"""What reading a video gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Clip:
    """The frames that a model is shown, in order, and what is known of the file.

    frames: RGB, turned upright. They may be shared with other samples, so nobody writes into them. seconds: when each is shown,
    counted from the file's first frame. fps, duration (seconds), total (frames) and size (width, height) are of the file, also
    where a span of it was asked for; `total` as counted, not as stated in a header. A folder of pictures has one frame a second
    where nothing says otherwise.
    """

    frames: tuple[Image, ...]
    seconds: tuple[float, ...]
    fps: float
    duration: float
    total: int
    size: tuple[int, int]
