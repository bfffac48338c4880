"""A record of kept tokens (`kept.py`) as the page draws it: what several records of a sample share is there once."""

from __future__ import annotations

import base64
import binascii
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_log = logging.getLogger(__name__)
_DIGITS = 4  # of a rectangle's ends, shares of a picture of some hundred pixels


@dataclass
class Places:
    """What the records of one sample share, which has so many pictures, the last of them `frames` of videos.

    places: [rows, columns, [[x0, y0, x1, y1] of each tile]]. maps: {"source", "by": configurations, "parts": [[pictures, place,
    relevance as base64 of a byte for each token]]}.
    """

    pictures: int
    frames: int = 0
    places: list[Any] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)

    def place(self, part: Mapping[str, Any]) -> int:
        rows, columns = map(int, part["grid"])
        tiles = [[round(float(end), _DIGITS) for end in tile] for tile in part["tiles"]]
        if rows < 1 or columns < 1 or any(len(tile) != 4 or not all(map(math.isfinite, tile)) for tile in tiles):
            raise ValueError("no grid of tiles")
        value = [rows, columns, tiles]
        if value not in self.places:
            self.places.append(value)
        return self.places.index(value)

    def tokens(self, place: int) -> int:
        rows, columns, tiles = self.places[place]
        return int(rows * columns * len(tiles))

    def map(self, source: str, config: int, parts: list[Any]) -> None:
        for known in self.maps:
            if (known["source"], known["parts"]) == (source, parts):
                known["by"].append(config)
                return
        self.maps.append({"source": source, "by": [config], "parts": parts})


def kept(record: Mapping[str, Any], config: int, places: Places) -> list[Any] | None:
    """[[pictures, place, {stage: bits}, {stage: merged}]] of a configuration's record; None, with a warning, for what is none."""
    try:
        parts, seen = [], []
        slots = _slots(record["pictures"], places.pictures, places.frames)
        for part, shows in zip(record["pictures"], slots, strict=True):
            place = places.place(part)
            size = places.tokens(place)
            stages = {str(int(stage)): _bytes(bits, -(-size // 8)) for stage, bits in part["stages"].items()}
            merged = {str(int(stage)): int(count) for stage, count in (part.get("merged") or {}).items() if count}
            parts.append([shows, place, stages, merged] if merged else [shows, place, stages])
            if part.get("seen") is not None:
                seen.append([shows, place, _bytes(part["seen"], size)])
    except (ValueError, LookupError, TypeError, AttributeError, binascii.Error) as error:
        _log.warning("a record of kept tokens was skipped: %s", error)
        return None
    if seen:
        places.map(str(record.get("relevance") or ""), config, seen)
    return parts


def _slots(parts: Sequence[Mapping[str, Any]], pictures: int, frames: int) -> list[list[int]]:
    """For each part the sample's pictures that show it: stills come first, then the frames of videos.

    A part is of one frame and those up to the next part's (Qwen joins frames in pairs); of a video of which the model saw another
    number of frames than the sample has, the frames at the same time.
    """
    seen: dict[int, list[int]] = {}
    for part in parts:
        if part.get("frame") is not None:
            seen.setdefault(int(part["picture"]), []).append(int(part["frame"]))
    videos = sorted(seen)
    each = frames // len(videos) if videos else 0
    found = []
    for part in parts:
        picture, frame = int(part["picture"]), part.get("frame")
        if frame is None:
            found.append([picture])
            continue
        shown = max(int(part.get("frames") or 0), *seen[picture], 1)
        first = pictures - frames + videos.index(picture) * each
        at = [min((2 * j + 1) * shown // (2 * each), shown - 1) for j in range(each)]  # the frame that the model saw then
        mine = [max((known for known in seen[picture] if known <= then), default=min(seen[picture])) for then in at]
        found.append([first + j for j, known in enumerate(mine) if known == int(frame)])
    return [[slot for slot in slots if 0 <= slot < pictures] for slots in found]


def _bytes(text: str, size: int) -> str:
    """The base64 of exactly that many bytes, as it came."""
    if len(base64.b64decode(text, validate=True)) != size:
        raise ValueError(f"not {size} bytes")
    return text
