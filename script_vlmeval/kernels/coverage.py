"""Greedy maximum coverage (facility location)."""

from __future__ import annotations

import torch
from torch import Tensor

from .basic import require_picks

_CACHED = 1 << 20  # numbers that stay in a processor's cache, roughly


@torch.no_grad()
def greedy_cover(similarity: Tensor, k: int, *, weight: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
    """(R, k) picks, in order, that greedily cover M rows by N tokens, R times over.

    similarity (R, M, N) says how well a token covers a row. A row is covered as well as by the best pick so far, 0 at the start,
    so negative similarities never count. Each step takes the token with the largest gain in coverage, summed over the rows and
    times weight (R, N, not negative) where given; ties to the lower index. allowed (R, N) bool restricts the candidates as long
    as there are any; the others follow by the same rule, so the picks are always k distinct tokens. Cost is k M N.
    """
    rows, _, n = similarity.shape
    require_picks(k, n)
    if rows == 1 or similarity.device.type != "cpu" or similarity.numel() <= _CACHED:
        return _cover(similarity, k, weight, allowed)
    weights = [None] * rows if weight is None else weight.split(1)
    masks = [None] * rows if allowed is None else allowed.split(1)
    each = zip(similarity.split(1), weights, masks, strict=True)  # one after the other is twice as fast
    return torch.cat([_cover(one, k, w, mask) for one, w, mask in each])


def _cover(similarity: Tensor, k: int, weight: Tensor | None, allowed: Tensor | None) -> Tensor:
    rows, m, n = similarity.shape
    by_token = similarity.float().transpose(1, 2).contiguous()  # (R, N, M): what is summed and what is read lie in one piece
    beyond = torch.empty_like(by_token)
    cover = by_token.new_zeros(rows, 1, m)
    score = by_token.new_empty(rows, n)
    w = None if weight is None else weight.float()
    taken = torch.zeros(rows, n, dtype=torch.bool, device=score.device)
    supply = None if allowed is None else allowed.sum(-1, keepdim=True)
    picks = torch.empty(rows, k, dtype=torch.long, device=score.device)
    for i in range(k):
        torch.sub(by_token, cover, out=beyond)
        torch.sum(beyond.clamp_min_(0), -1, out=score)
        if w is not None:
            score.mul_(w)
        barred = taken if allowed is None or supply is None else taken | (~allowed & (supply > i))
        pick = score.masked_fill_(barred, -1).argmax(-1, keepdim=True)
        picks[:, i : i + 1] = pick
        taken.scatter_(1, pick, True)
        torch.maximum(cover, by_token.gather(1, pick[..., None].expand(-1, -1, m)), out=cover)
    return picks
