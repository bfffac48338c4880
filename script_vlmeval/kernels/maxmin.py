"""Farthest-first traversal: the next pick is the token whose nearest pick is farthest away."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError
from . import fused
from .basic import snapped

_BLOCK = 256  # rows of similarities at a time; not adapted to the batch, or batch mates would change the rounding


def farthest_first(features: Tensor, k: int, *, gate: Tensor | None = None) -> Tensor:
    """(R, k) picks, in order, of max-min selection by the distance 1 - a b of unit rows a, b of features (R, N, D).

    The first pick is the token that is farthest from its nearest other token; each next one has the largest distance to its
    nearest pick, multiplied by its gate (R, N) where one is given. Ties go to the lower index, and picks are always k distinct
    tokens. A step makes one row of distances and updates a running minimum: k N D operations, and no N x N matrix is kept.
    Distances are `snapped`, so copies of one token are at distance 0; zero rows are at distance 1 from every token.
    """
    rows, n, _ = features.shape
    if not 1 <= k <= n:
        raise UserError(f"cannot pick {k} of {n} tokens")
    if fused.serves(features):
        return fused.farthest_first(features, k, gate)
    features = features.float()
    free = torch.ones(rows, n, dtype=torch.bool, device=features.device)
    nearest = features.new_full((rows, n), torch.inf)
    picks = torch.empty(rows, k, dtype=torch.long, device=features.device)
    each = torch.arange(rows, device=features.device)
    j = _distance(_nearest_similarity(features)).argmax(-1)
    for i in range(k):
        if i:
            score = nearest if gate is None else nearest * gate.float()
            j = score.masked_fill(~free, -1).argmax(-1)
        picks[:, i] = j
        free[each, j] = False
        row = torch.bmm(features, features[each, j].unsqueeze(-1)).squeeze(-1)
        nearest = torch.minimum(nearest, _distance(row))
    return picks


def _distance(similarity: Tensor) -> Tensor:
    return snapped(1 - similarity)


def _nearest_similarity(features: Tensor) -> Tensor:
    """(R, N) largest similarity to another row; -inf where there is none."""
    largest = []
    for start in range(0, features.shape[1], _BLOCK):
        similarity = torch.bmm(features[:, start : start + _BLOCK], features.transpose(1, 2))
        similarity.diagonal(start, 1, 2).fill_(-torch.inf)
        largest.append(similarity.amax(-1))
    return torch.cat(largest, 1)
