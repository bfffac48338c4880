"""Where on a picture the tiles of visual tokens lie, by how each family scales, pads, crops and cuts.

Numbers alone: the size of a picture, the model's configuration, the processor's settings. Rectangles are in shares of the
picture's width and height, and reach beyond 0 and 1 where a model pads. The cells of a tile divide it equally.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ..kept import Rect
from .base import Media

Size: TypeAlias = tuple[int, int]  # width, height
WHOLE: Rect = (0.0, 0.0, 1.0, 1.0)


class Shown(Protocol):
    """What a prompt shows, see `inputs.Sample`."""

    @property
    def sizes(self) -> tuple[Size, ...]: ...
    @property
    def videos(self) -> tuple[Any, ...]: ...
    @property
    def frames(self) -> tuple[int, ...]: ...
    @property
    def prompt(self) -> str: ...


class Talk(Protocol):
    """How it is asked, see `backbones.Talk`."""

    @property
    def image(self) -> str: ...
    @property
    def video(self) -> str: ...
    @property
    def square(self) -> bool: ...


@dataclass(frozen=True)
class Look:
    """The pictures and videos of one prompt as they are on disk, in the order in which the model takes those of a kind.

    A picture of the message has a number, pictures before videos.
    """

    pictures: tuple[Size, ...]  # also frames that are shown as pictures
    videos: tuple[Size, ...] = ()  # the size of a frame
    frames: tuple[int, ...] = ()  # how many of each video of the message are shown, in either way
    square: bool = False  # whether pictures were padded to squares
    moving: tuple[bool, ...] = ()  # whether each of both kinds, in the order of the prompt, is a video

    @classmethod
    def of(cls, sample: Shown, talk: Talk) -> Look:
        marks = [re.escape(mark.strip()) for mark in (talk.video, talk.image) if mark.strip()]
        moving = tuple(mark == talk.video.strip() for mark in re.findall("|".join(marks), sample.prompt))
        sizes = tuple(clip.frames[0].size for clip in sample.videos)
        if (moving.count(False), moving.count(True)) != (len(sample.sizes), len(sizes)):  # somebody wrote a placeholder
            moving = (False,) * len(sample.sizes) + (True,) * len(sizes)
        return cls(sample.sizes, sizes, sample.frames, talk.square, moving)

    @property
    def plain(self) -> int:
        """How many pictures of the message are no videos."""
        return len(self.pictures) if self.videos else len(self.pictures) - sum(self.frames)

    def named(self, media: Media, nth: int, among: int) -> tuple[int, int | None, Size]:
        """Which picture of the message the nth of `among` runs of tokens of a kind is of, which frame of it, and its size."""
        if media == "video":
            return self.plain + nth, None, self.videos[nth]
        names: list[tuple[int, int | None, Size]] = [(i, None, size) for i, size in enumerate(self.pictures[: self.plain])]
        sizes = self.videos or [self.pictures[i] for i in self._begin()]
        videos = [
            [(self.plain + v, i, size) for i in range(n)] for v, (n, size) in enumerate(zip(self.frames, sizes, strict=True))
        ]
        if among == len(self.pictures):  # those alone that came as pictures
            return [*names, *(frame for video in videos for frame in video if not self.videos)][nth]
        left, right = iter(names), iter(videos)  # InternVL writes the frames of a video as pictures, where it stands
        return [name for moving in self.moving for name in (next(right) if moving else [next(left)])][nth]

    def _begin(self) -> list[int]:
        """Where among the pictures each video begins that is shown as pictures."""
        return [self.plain + sum(self.frames[:v]) for v in range(len(self.frames))]


@dataclass(frozen=True)
class Cut:
    """A part of one picture, as the language model gets it."""

    size: Size
    media: Media
    tiles: int
    grid: tuple[int, int]
    part: int  # 0, or 1 for the map of its crops behind the overview
    square: bool
    alone: bool  # whether the prompt has no other picture


def rectangles(model: Any, processor: Any, cut: Cut) -> tuple[Rect, ...]:
    """Where each tile lies."""
    place = _FAMILIES.get(model.config.model_type, _stretched)
    return tuple(place(model.config, processor, cut))


def squared(size: Size) -> Rect:
    """A square with the picture in its middle."""
    side = max(size)
    left, top = ((side - length) // 2 for length in size)
    return (-left / size[0], -top / size[1], (side - left) / size[0], (side - top) / size[1])


def cropped(processor: Any, size: Size) -> Rect:
    """What a CLIP-like processor shows: the picture scaled by its shorter edge, or stretched, and its middle cut out."""
    if getattr(processor, "do_pad", False):
        return squared(size)
    if not getattr(processor, "do_center_crop", False):
        return WHOLE
    target, crop = processor.size, processor.crop_size
    shorter = _edge(target, "shortest_edge")
    if not getattr(processor, "do_resize", True):
        scaled = size[0], size[1]
    elif shorter:
        scaled = max(shorter, size[0] * shorter // size[1]), max(shorter, size[1] * shorter // size[0])
    else:
        scaled = _edge(target, "width"), _edge(target, "height")
    shares = [_edge(crop, name) / length for name, length in zip(("width", "height"), scaled, strict=True)]
    low, high = [(1 - s) / 2 for s in shares], [(1 + s) / 2 for s in shares]
    return (low[0], low[1], high[0], high[1])


def _edge(size: Any, name: str) -> int:
    """0 where a size does not say."""
    return int((size.get(name) if isinstance(size, Mapping) else getattr(size, name, None)) or 0)


def _stretched(config: Any, processor: Any, cut: Cut) -> list[Rect]:
    """Every tile, or frame, is the whole picture: Qwen scales both sides to whole patches."""
    return [WHOLE] * cut.tiles


def _clip(config: Any, processor: Any, cut: Cut) -> list[Rect]:
    """One window, in every frame the same."""
    if cut.media == "image" and cut.square:
        return [squared(cut.size)] * cut.tiles
    part = processor.image_processor if cut.media == "image" else processor.video_processor
    return [cropped(part, cut.size)] * cut.tiles


def _crops(config: Any, processor: Any, cut: Cut) -> list[Rect]:
    """LLaVA-NeXT and OneVision: an overview, to whose form the picture is stretched, and crops of it scaled to fit their sheet;
    as tiles of their own behind the overview, or as one map without the padding. Videos are frames."""
    vision = config.vision_config
    tile, patch = vision.image_size, vision.patch_size
    seen = tile // patch * patch / tile  # what is left over at the right and at the bottom is in no patch
    if cut.media == "video":
        return [_covered(cropped(processor.video_processor, cut.size), seen)] * cut.tiles
    several = config.model_type == "llava_onevision" and not cut.alone  # each is padded, and not cut
    overview = _covered(squared(cut.size) if several else WHOLE, seen)
    if cut.tiles == 1 and cut.part == 0:
        return [overview]
    sheet = Sheet.of(cut.size, config.image_grid_pinpoints, tile)
    if cut.part:
        return [sheet.map(tile // patch)]
    rows, columns = sheet.height // tile, sheet.width // tile
    crops = [sheet.share(x * tile, y * tile, (x + seen) * tile, (y + seen) * tile) for y in range(rows) for x in range(columns)]
    return [overview, *crops][: cut.tiles]


def _covered(window: Rect, share: float) -> Rect:
    """The part of a window from its upper left corner."""
    left, top, right, bottom = window
    return (left, top, left + (right - left) * share, top + (bottom - top) * share)


@dataclass(frozen=True)
class Sheet:
    """The pixels that crops are cut from, and the picture in their middle."""

    width: int
    height: int
    picture: Rect  # in pixels of the sheet
    size: Size
    tile: int

    @classmethod
    def of(cls, size: Size, pinpoints: Any, tile: int) -> Sheet:
        """The one of those resolutions that shows most of the picture, as transformers chooses."""
        from transformers.image_processing_utils import select_best_resolution

        height, width = select_best_resolution((size[1], size[0]), [list(p) for p in pinpoints])
        scale = min(width / size[0], height / size[1])
        if width / size[0] < height / size[1]:
            inner = width, min(-int(-size[1] * scale // 1), height)
        else:
            inner = min(-int(-size[0] * scale // 1), width), height
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        return cls(width, height, (left, top, left + inner[0], top + inner[1]), size, tile)

    def share(self, left: float, top: float, right: float, bottom: float) -> Rect:
        """Pixels of the sheet as shares of the picture."""
        x0, y0, x1, y1 = self.picture
        return ((left - x0) / (x1 - x0), (top - y0) / (y1 - y0), (right - x0) / (x1 - x0), (bottom - y0) / (y1 - y0))

    def map(self, side: int) -> Rect:
        """What is left of the map of all crops, `side` patches each, when whole rows or columns of padding are cut off."""
        columns, rows = self.width // self.tile * side, self.height // self.tile * side
        width, height = self.size
        across = down = 0
        if width * rows > height * columns:
            down = (rows - int(round(height * columns / width, 7))) // 2
        else:
            across = (columns - int(round(width * rows / height, 7))) // 2
        cell = self.tile / side
        return self.share(across * cell, down * cell, self.width - across * cell, self.height - down * cell)


def _tiled(config: Any, processor: Any, cut: Cut) -> list[Rect]:
    """InternVL: the picture is stretched over as many columns and rows of tiles as come nearest to its form; behind several tiles
    the whole again."""
    if cut.tiles == 1:
        return [WHOLE]
    n = cut.tiles - 1
    width, height = cut.size
    columns = min((c for c in range(1, n + 1) if n % c == 0), key=lambda c: abs(width / height - c * c / n))
    rows = n // columns
    tiles = [(x / columns, y / rows, (x + 1) / columns, (y + 1) / rows) for y in range(rows) for x in range(columns)]
    return [*tiles, WHOLE]


_FAMILIES: dict[str, Callable[[Any, Any, Cut], list[Rect]]] = {
    "llava": _clip,
    "video_llava": _clip,
    "llava_next": _crops,
    "llava_next_video": _crops,
    "llava_onevision": _crops,
    "internvl": _tiled,
}
