"""Pictures with one painted spot, and the token of each tile that shows it, worked out by hand from how families cut pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from family_cases import FRAMES

Spot = tuple[int, int] | None  # row and column in a tile; None where it does not show


@dataclass(frozen=True)
class Painted:
    """A grey picture, or a video of them, and a bright square in it (in its third frame)."""

    case: str
    size: tuple[int, int]  # width, height
    at: tuple[int, int, int]  # left, top, side
    expected: tuple[Spot, ...]  # of each tile, parts of a picture in order
    video: bool = False

    def message(self, saved: Callable[[np.ndarray, str], str], spot: bool) -> list[dict[str, str]]:
        grey = np.full((self.size[1], self.size[0], 3), 100, dtype=np.uint8)
        bright = grey.copy()
        left, top, side = self.at
        bright[top : top + side, left : left + side] = (250, 20, 220)
        name = f"{self.case} {'video' if self.video else 'image'} {self.size} {spot}"
        if not self.video:
            return [{"type": "image", "value": saved(bright if spot else grey, name)}, {"type": "text", "value": "what?"}]
        files = [saved(bright if spot and i == 2 else grey, f"{name}/{i}") for i in range(FRAMES)]
        return [{"type": "video", "value": str(Path(files[0]).parent)}, {"type": "text", "value": "what?"}]


PAINTED = {
    "llava": Painted("llava", (56, 56), (14, 28, 14), ((2, 1),)),
    # overview, then four crops: the third of these has rows 4 to 7, columns 0 to 3 of the map
    "llava_next paper": Painted("llava_next paper", (112, 112), (28, 70, 14), ((2, 1), None, None, (1, 2), None)),
    # scaled to the width of two crops, 14 pixels of padding above and below, which is cut off as a row of patches each
    "llava_next hf": Painted("llava_next hf", (112, 84), (28, 42, 14), ((2, 1), (3, 2))),
    "llava_next hf, last row": Painted("llava_next hf", (112, 84), (84, 70, 14), ((3, 3), (5, 6))),
    "llava_next_video": Painted("llava_next_video", (112, 84), (28, 42, 14), ((2, 1), (3, 2))),
    # two crops beside each other; of 72 pixels the last two are in no patch
    "llava_onevision": Painted("llava_onevision", (144, 72), (86, 42, 14), ((3, 3), (3, 6))),
    # 6 x 6 crops, their map of 30 x 30 patches halved
    "llava_onevision, scaled map": Painted("llava_onevision", (432, 432), (288, 172, 28), ((2, 3), (6, 10))),
    "video_llava": Painted("video_llava", (56, 56), (14, 28, 14), ((2, 1),)),
    "qwen2_vl": Painted("qwen2_vl", (112, 84), (56, 28, 28), ((1, 2),)),
    "qwen2_5_vl": Painted("qwen2_5_vl", (112, 84), (56, 28, 28), ((1, 2),)),
    "qwen3_vl": Painted("qwen3_vl", (128, 96), (64, 32, 32), ((1, 2),)),
    # four tiles of 2 x 2 tokens, then the thumbnail
    "internvl": Painted("internvl", (112, 112), (28, 56, 28), (None, None, (0, 1), None, (1, 0))),
    "llava_next_video video": Painted("llava_next_video", (56, 56), (14, 28, 14), (None, None, (1, 0), None), video=True),
    # 5 x 5 patches to 3 x 3: the last column takes two thirds of patch 4
    "llava_onevision video": Painted("llava_onevision", (72, 72), (56, 28, 14), (None, None, (1, 2), None), video=True),
    "video_llava video": Painted("video_llava", (56, 56), (14, 28, 14), (None, None, (2, 1), None), video=True),
    # frames in pairs
    "qwen2_vl video": Painted("qwen2_vl", (112, 84), (56, 28, 28), (None, (1, 2)), video=True),
    "qwen2_5_vl video": Painted("qwen2_5_vl", (112, 84), (56, 28, 28), (None, (1, 2)), video=True),
    "qwen3_vl video": Painted("qwen3_vl", (128, 96), (64, 32, 32), (None, (1, 2)), video=True),
    "internvl video": Painted("internvl", (56, 56), (0, 28, 28), (None, None, (1, 0), None), video=True),
}
