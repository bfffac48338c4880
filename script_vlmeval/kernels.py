"""Tensor algorithms that methods share: relevance to a question, greedy MAP of a DPP, the bipartite redundancy graph.

All are batched over leading dimensions, run in float32 whatever the input, and never ask the device for a value inside a loop.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from .errors import UserError

_EPS = 1e-12  # lower bound of a norm
_FLAT = 1e-6  # a relevance with a smaller range says nothing
_FLOOR = 1e-5  # a residual below this share of the token's own weight is rounding noise (float32)


def unit(x: Tensor) -> Tensor:
    """Rows of unit length in float32; a zero row stays zero. Raises UserError for NaN or inf."""
    x = x.float()
    norm: Tensor = x.norm(dim=-1, keepdim=True)
    if not bool(torch.isfinite(norm).all()):
        raise UserError("NaN or infinity in the features; a selection from them would be arbitrary. Try another --dtype.")
    return torch.div(x, norm.clamp_min(_EPS))


def relevance(
    keys: Tensor | None, query: Tensor | None, query_mask: Tensor | None = None, *, sign: int = 1, per_tile: bool = False
) -> Tensor | None:
    """(B, G, N) relevance of tokens `keys` (B, G, N, C) to a question `query` (B, M, C), min-max normalised to [0, 1].

    The mean cosine over the question's rows, times `sign`. Minimum and maximum are those of the image (all tiles), or of each
    tile; 1e-6 is added to the numerator only, as CDPruner's release does. A range below 1e-6 gives 1 everywhere (plain
    diversity), where the release divides by zero. None, with a warning, where there is no question.
    """
    if keys is None or query is None or (query_mask is not None and not bool(query_mask.any())):
        warnings.warn("no question text to condition on: tokens are selected by diversity alone", stacklevel=3)
        return None
    rows = unit(query)
    if query_mask is None:
        direction = rows.mean(1)
    else:
        weight = query_mask.to(rows.dtype)
        direction = (rows * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp_min(1)
    rho = sign * torch.einsum("bgnc,bc->bgn", unit(keys), direction)
    dims = (-1,) if per_tile else (-2, -1)
    low, high = rho.amin(dims, keepdim=True), rho.amax(dims, keepdim=True)
    span = high - low
    return torch.where(span < _FLAT, torch.ones_like(rho), (rho - low + 1e-6) / span.clamp_min(_FLAT))


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


def bipartite_redundancy(features: Tensor, tau: float, gamma: float, *, both: bool = False) -> Tensor:
    """(R, N) redundancy of tokens in the graph between even (source) and odd (destination) raster positions.

    features (R, N, D) of unit rows. A source token with c similarities >= tau to destination tokens, of mean mu, scores
    c / #destinations * exp(gamma (mu - tau)), 0 without such neighbours. Destination tokens score 0 unless `both`.
    """
    similarity = torch.bmm(features[:, 0::2], features[:, 1::2].transpose(1, 2))
    score = features.new_zeros(features.shape[:2])
    score[:, 0::2] = _degree_score(similarity, tau, gamma)
    if both:
        score[:, 1::2] = _degree_score(similarity.transpose(1, 2), tau, gamma)
    return score


def _degree_score(similarity: Tensor, tau: float, gamma: float) -> Tensor:
    near = similarity >= tau
    degree = near.sum(-1)
    mean = similarity.masked_fill(~near, 0).sum(-1) / degree.clamp_min(1)
    score = degree / max(similarity.shape[-1], 1) * torch.exp(gamma * (mean - tau))
    return score.masked_fill(degree == 0, 0)
