"""What Script's released code computes (01yzzyu/script.github.io, revision 7e5e2f3), pick for pick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .. import kernels
from .base import Method, Visual, require_finite
from .cdpruner import check_relevance, check_sign


@dataclass(frozen=True)
class ScriptCompat(Method):
    """Script as released: greedy by relevance with repeated penalties, its graph without effect.

    The release pads the intersection of the graph's set G and the greedy's set Q (T tokens each) with tokens of Q outside G,
    which always gives Q again: whatever tau, K and gamma are, the graph cannot change the result, so it is not computed here.
    Its greedy subtracts (K_ij / sqrt d_j)^2 for each pick j but never projects earlier picks out, so penalties are counted
    again and again; once no score is positive, updates stop, and the remaining picks are tokens of small relevance.

    The relevance is a raw dot product (norms matter) with half of the question's rows, those of the larger mean; sign as in
    cdpruner. Everything is per tile. Half precision is lifted to float32 before the similarity, where the release keeps it.

    relevance: as in cdpruner. A question of more than 77 ids has several rows, which `clip` cuts otherwise than the release, so
    for long questions `clipcompat` is what gives the release's choices.
    """

    needs = frozenset({"keys", "query"})
    sign: int | None = None
    relevance: Literal["auto", "clip", "clipcompat", "llm"] = "auto"

    def __post_init__(self) -> None:
        check_sign(self.name, self.sign)
        check_relevance(self.name, self.relevance)

    def source(self) -> str:
        return self.relevance

    def order(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        r = raw_relevance(visual, visual.sign if self.sign is None else self.sign, half=True)
        weight = visual.tokens.new_ones(b * g, n, dtype=torch.float32) if r is None else r.flatten(0, 1)
        return kernels.greedy_repeated(visual.tokens.flatten(0, 1), weight, min(k, n)).view(b, g, -1)


def raw_relevance(visual: Visual, sign: int, *, half: bool) -> Tensor | None:
    """(B, G, N) relevance as dot products, min-max normalised per tile with 1e-6 in the denominator, so the least relevant
    token has exactly 0. half: use only the max(1, M // 2) rows of the question with the largest mean over the tile. None, with
    a warning, where there is no question; an image without one is weighed equally everywhere.
    """
    keys, query, mask = visual.keys, visual.query, visual.query_mask
    if not kernels.asked(query, mask):
        return None
    assert keys is not None
    real = torch.ones(query.shape[:2], dtype=torch.bool, device=query.device) if mask is None else mask
    rows = query.float().masked_fill(~real[..., None], 0)
    require_finite(rows, "the question's embeddings")
    require_finite(keys, "the visual tokens' embeddings")
    products = torch.einsum("bgnc,bmc->bgmn", keys.float(), rows)
    used = real[:, None].expand(products.shape[:3])
    if half:
        wanted = (real.sum(1) // 2).clamp_min(1)[:, None, None]
        rank = products.mean(-1).masked_fill(~used, -torch.inf).sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
        used = used & (rank < wanted)
    rho = sign * (products * used[..., None]).sum(2) / used.sum(2, keepdim=True).clamp_min(1)
    low, high = rho.amin(-1, keepdim=True), rho.amax(-1, keepdim=True)
    return torch.where(real.any(1)[:, None, None], (rho - low) / (high - low + 1e-6), torch.ones_like(rho))
