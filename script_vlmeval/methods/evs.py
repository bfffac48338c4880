"""EVS (Efficient Video Sampling, in vLLM; Bagrov et al., arXiv 2510.14624): tokens that changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from .base import Method, Visual

_FIRST = 255.0  # above every distance: the first frame has nothing before it


@dataclass(frozen=True)
class EVS(Method):
    """The first frame, and then what differs most from the same place one frame earlier.

    The distance is 1 - cosine of the same cell in the frame before, whether or not that one is kept. Frames are the tiles of an
    image; ties keep the earlier token.

    The rule is vLLM's, on what the language model reads; the paper compares pixels. vLLM never keeps less than one full frame;
    here a budget below that keeps the first tokens of the first frame, since all of them tie. So does every budget of a single
    picture, which has nothing to be compared with. Distances are in steps of 2^-20, so that a static clip keeps its earliest
    tokens, not those with the largest rounding.
    """

    joint = True
    frames = True

    def score(self, visual: Visual) -> Tensor:
        b, g, n = visual.shape
        frames = kernels.unit(visual.tokens).view(b, g, visual.tiles, n // visual.tiles, -1)
        change = 1 - (frames[:, :, 1:] * frames[:, :, :-1]).sum(-1)
        first = torch.full_like(frames[:, :, :1, :, 0], _FIRST)
        return torch.cat([first, kernels.snapped(change)], 2).flatten(2)
