"""Which visual tokens of a sample were kept, and where on its pictures they lie: a record small enough to stand beside an answer.

Bits are packed eight to a byte, the most significant first, and written in base64, so that a page can read them without help.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rect: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom, in shares of a picture's width and height
Mask: TypeAlias = NDArray[np.bool_]
_DIGITS = 5  # of a rectangle: a hundredth of a pixel in a picture of a thousand


@dataclass(frozen=True, eq=False)
class Picture:
    """Tiles of one grid over one picture, or over one frame of a video. What is in no stage was never dropped.

    A picture that is shown as an overview and a map of its crops, each with a grid of its own, is there twice.
    """

    picture: int  # of the message, pictures before videos
    grid: tuple[int, int]  # rows, columns of a tile
    tiles: tuple[Rect, ...]  # where each lies; beyond 0 and 1 where the model pads
    stages: Mapping[int, Mask] = field(default_factory=dict)  # (tiles, rows, columns): kept from that stage on
    merged: Mapping[int, int] = field(default_factory=dict)  # stage -> tokens that stand for no single place
    seen: NDArray[np.uint8] | None = None  # (tiles, rows, columns) relevance to the question, from 0 to 255 over the picture
    frame: int | None = None  # of a video, counted from 0 among those that were shown
    frames: int | None = None  # how many were shown

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.tiles), *self.grid)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        whose = {"frame": self.frame, "frames": self.frames} if self.frame is not None else {}
        found: dict[str, Any] = {"picture": self.picture, **whose, "grid": list(self.grid)}
        found["tiles"] = [[round(x, _DIGITS) + 0.0 for x in tile] for tile in self.tiles]  # no -0.0
        found["stages"] = {str(stage): _text(np.packbits(mask).tobytes()) for stage, mask in sorted(self.stages.items())}
        found["merged"] = {str(stage): n for stage, n in sorted(self.merged.items()) if n}
        return found if self.seen is None else {**found, "seen": _text(self.seen.tobytes())}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Picture:
        rows, columns = map(int, record["grid"])
        tiles = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in record["tiles"])
        shape = (len(tiles), rows, columns)
        size = len(tiles) * rows * columns
        stages = {int(stage): _mask(text, size).reshape(shape) for stage, text in record["stages"].items()}
        seen = None if record.get("seen") is None else np.frombuffer(_bytes(record["seen"]), np.uint8).reshape(shape)
        merged = {int(stage): int(n) for stage, n in record.get("merged", {}).items()}
        frame, frames = (None if record.get(name) is None else int(record[name]) for name in ("frame", "frames"))
        return cls(int(record["picture"]), (rows, columns), tiles, stages, merged, seen, frame, frames)


@dataclass(frozen=True, eq=False)
class Kept:
    """All pictures of a sample. relevance: where the question's side came from, `none` where the method asks for none."""

    pictures: tuple[Picture, ...]
    relevance: str = "none"

    @property
    def stages(self) -> list[int]:
        """Those at which something was dropped: 0 before the language model, i at the entry of its layer i."""
        return sorted({stage for picture in self.pictures for stage in picture.stages})

    def record(self) -> dict[str, Any]:
        """As JSON, see `of`."""
        return {"pictures": [picture.record() for picture in self.pictures], "relevance": self.relevance}

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Kept:
        """From what `record` gave. ValueError for anything else."""
        try:
            return cls(tuple(map(Picture.of, record["pictures"])), str(record.get("relevance", "none")))
        except (ArithmeticError, KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no record of kept tokens: {error}") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(error) from None


def _mask(text: str, size: int) -> Mask:
    """So many bits; ValueError where there are fewer or more bytes than they take."""
    data = np.frombuffer(_bytes(text), np.uint8)
    if len(data) != -(-size // 8):
        raise ValueError(f"{len(data)} bytes for {size} bits")
    return np.unpackbits(data, count=size).astype(bool)
