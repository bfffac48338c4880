"""Greedy MAP of a determinantal point process."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import UserError

_EPS = 1e-12
_FLOOR = 1e-5  # a residual below this share of the token's own weight is rounding noise (float32)


def greedy_map(
    features: Tensor, weight: Tensor | None, k: int, *, allowed: Tensor | None = None, forced: Tensor | None = None
) -> Tensor:
    """(R, k) picks, in order, of the greedy MAP of R determinantal point processes with kernels diag(w) A A^T diag(w).

    Incremental Cholesky (Chen et al., NeurIPS 2018): each step takes the token with the largest residual and makes only its
    kernel row, so cost is k N D and no N x N matrix exists. features A (R, N, D) of unit rows; weight w (R, N), None = 1.
    allowed (R, N) bool restricts the candidates; forced (R, k) int prescribes picks, -1 = choose.

    Guards where releases fail: a residual at or below 1e-5 of the token's own weight counts as 0, and when none is left the
    remaining picks follow descending weight, ties to the lower index. The picks are always k distinct tokens.
    """
    rows, n, _ = features.shape
    if not 1 <= k <= n:
        raise UserError(f"cannot pick {k} of {n} tokens")
    w = features.new_ones(rows, n) if weight is None else weight
    scaled = features * w[..., None]
    own = (scaled * scaled).sum(-1)  # the kernel's diagonal
    free = torch.ones_like(own, dtype=torch.bool) if allowed is None else allowed.clone()
    residual, floor = own.clone(), _FLOOR * own
    basis = features.new_zeros(rows, k, n)
    picks = torch.empty(rows, k, dtype=torch.long, device=features.device)
    each = torch.arange(rows, device=features.device)
    for i in range(k):
        best, j = residual.masked_fill(~free, -1).max(-1)
        j = torch.where(best > 0, j, own.masked_fill(~free, -1).argmax(-1))
        if forced is not None:
            j = torch.where(forced[:, i] >= 0, forced[:, i], j)
        picks[:, i] = j
        free[each, j] = False
        at = residual[each, j]
        row = torch.bmm(scaled, scaled[each, j].unsqueeze(-1)).squeeze(-1)
        if i:
            row = torch.baddbmm(row.unsqueeze(1), basis[each, :i, j].unsqueeze(1), basis[:, :i], alpha=-1).squeeze(1)
        step = torch.where(at > floor[each, j], at.clamp_min(_EPS).rsqrt(), 0.0)[:, None] * row
        basis[:, i] = step
        residual = residual - step * step
        residual = residual.masked_fill(residual <= floor, 0)
    return picks
