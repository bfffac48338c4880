"""Farthest-first traversal: the next pick is the token whose nearest pick is farthest away."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from . import fused
from .basic import require_picks, snapped

_WHOLE = 4096  # tokens of a tile up to which all distances are kept
_BLOCK = 256  # rows of similarities at a time; not adapted to the batch, or batch mates would change the rounding


def farthest_first(features: Tensor, k: int, *, gate: Tensor | None = None) -> Tensor:
    """(R, k) picks, in order, of max-min selection by the distance 1 - a b of unit rows a, b of features (R, N, D).

    The first pick is the token that is farthest from its nearest other token; each next one has the largest distance to its
    nearest pick, multiplied by its gate (R, N) where one is given. Ties go to the lower index, and picks are always k distinct
    tokens. A step reads one row of distances and updates a running minimum. All N x N distances, which the first pick looks at
    anyway, are kept only for tiles of up to 4,096 tokens.
    Distances are `snapped`, so copies of one token are at distance 0; zero rows are at distance 1 from every token.
    """
    rows, n, _ = features.shape
    require_picks(k, n)
    if fused.serves(features):
        return fused.farthest_first(features, k, gate)
    features = features.float()
    if features.device.type == "cpu":
        gates = [None] * rows if gate is None else gate.float()
        return torch.stack([_one(a, k, g) for a, g in zip(features, gates, strict=True)])
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


def _one(a: Tensor, k: int, gate: Tensor | None) -> Tensor:
    """(k,) picks of one tile a (N, D) on a CPU, in a loop of few numpy calls; never together with other tiles, whose number
    could change the last bits of a product."""
    n = len(a)
    distances = _distance(torch.mm(a, a.T)) if n <= _WHOLE else None
    if distances is None:
        apart = _distance(_nearest_similarity(a[None])[0])
    else:
        apart = distances.clone().fill_diagonal_(torch.inf).amin(-1)
    weight = None if gate is None else gate.numpy()
    nearest, score = np.full(n, np.inf, np.float32), np.empty(n, np.float32)
    picks = np.empty(k, np.int64)
    picks[0] = j = int(apart.argmax())
    for i in range(1, k):
        row = distances[j] if distances is not None else _distance(torch.mv(a, a[j]))
        np.minimum(nearest, row.numpy(), out=nearest)
        np.copyto(score, nearest) if weight is None else np.multiply(nearest, weight, out=score)
        score[picks[:i]] = -1
        picks[i] = j = int(score.argmax())
    return torch.from_numpy(picks)


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
