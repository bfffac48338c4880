"""MMTok (ICLR 2026, arXiv 2508.18264): tokens that cover both the question's words and the picture.

Greedy maximum coverage over two softmax maps: how well a visual token stands for a word of the question in the language model's
embedding space, and for another visual token in the encoder's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual

_MOST = 1e6  # a weight beyond says the same, until it leaves float32


@dataclass(frozen=True)
class MMTok(Method):
    """The tokens that best cover the question's content words and their tile.

    alpha: weight of covering the tile beside covering the words.
    t_vv, t_tv: temperatures of the softmax over visual tokens, of tokens and of words. The release has t_tv = 0.02 on LLaVA and
        0.01 on Qwen2.5-VL.

    Padding around the picture is chosen only when nothing else is left (the release then repeats token 0), in every model that
    says where it is; the release does so for LLaVA-1.5 alone. A sample without a question covers its tile alone.
    """

    needs = frozenset({"keys", "query", "encoded"})
    alpha: float = 0.5
    t_vv: float = 0.2
    t_tv: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= _MOST:
            raise UserError(f"'{self.name}' needs alpha from 0 to {_MOST:g}, not {self.alpha}.")
        for name, value in (("t_vv", self.t_vv), ("t_tv", self.t_tv)):
            if not (math.isfinite(value) and value > 0):
                raise UserError(f"'{self.name}' needs a finite {name} above 0, not {value}.")

    def source(self) -> str:
        return "words"

    def order(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        rows = self.coverage(visual).flatten(0, 1)
        shown = None if visual.shown is None else visual.shown.flatten(0, 1)
        return kernels.greedy_cover(rows, min(k, n), allowed=shown).view(b, g, -1)

    def coverage(self, visual: Visual) -> Tensor:
        """(B, G, M + N, N) how well each visual token stands for each word and each visual token of its tile."""
        assert visual.keys is not None
        assert visual.encoded is not None
        encoded = kernels.unit(visual.encoded)
        tile = (encoded @ encoded.transpose(-1, -2)).div(self.t_vv).softmax(-1) / visual.shape[2]
        query, asked = visual.query, visual.query_mask
        if not kernels.asked(query, asked, "coverage"):
            return tile
        if asked is None:
            asked = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device)
        words = kernels.unit(query.masked_fill(~asked[..., None], 0))
        likeness = torch.einsum("bmc,bgnc->bgmn", words, kernels.unit(visual.keys))
        per_word = asked / asked.sum(-1, keepdim=True).clamp_min(1)  # words that are padding count 0
        cover = likeness.div(self.t_tv).softmax(-1) * per_word[:, None, :, None]
        alpha = torch.where(asked.any(-1), self.alpha, 1.0)[:, None, None, None]  # unasked, the tile is all there is to cover
        return torch.cat([cover, alpha * tile], 2)
