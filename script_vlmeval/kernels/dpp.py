"""Greedy MAP of determinantal point processes, and the greedy that Script's release runs in its place.

One algorithm in three dresses: a loop of numpy calls on a CPU (a tensor library's overhead per call is several times the work
of a step there), one fused launch on a CUDA device (`fused.py`), and plain tensor operations everywhere else. They make the
same picks up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import fused, on_cpu
from .basic import EPS, FLOOR, diagonal, require_picks, unit


def greedy_map(
    features: Tensor, weight: Tensor | None, k: int, *, allowed: Tensor | None = None, forced: Tensor | None = None
) -> Tensor:
    """(R, k) picks, in order, of the greedy MAP of R determinantal point processes with kernels diag(w) S diag(w).

    S is the cosine similarity of the rows of `features` (R, N, D); weight w (R, N), None = 1. Incremental Cholesky (Chen et al.,
    NeurIPS 2018): each step takes the token with the largest residual and needs only its row of the kernel.
    allowed (R, N) bool restricts the candidates, as long as there are any; forced (R, k) int prescribes the first picks, -1 =
    choose from here on.

    Guards where releases fail: norms are at least 1e-12, a residual at or below 1e-5 of the token's own weight counts as 0, and
    when none is left the remaining picks follow descending weight, ties to the lower index. The picks are always k distinct
    tokens, and those of a smaller k are their prefix. Raises UserError for k out of range and, on a CPU, for NaN and infinity; on
    other devices, which are not asked in between, those give picks out of range, which a method's guards refuse.
    """
    require_picks(k, features.shape[1])
    if features.device.type == "cpu":
        return on_cpu.greedy_map(on_cpu.Kernels(features, weight), k, allowed, forced)
    if fused.serves(features):
        return fused.greedy_map(features, weight, k, allowed, forced)
    return _stepwise(unit(features), weight, k, allowed, forced)


def _stepwise(a: Tensor, weight: Tensor | None, k: int, allowed: Tensor | None, forced: Tensor | None) -> Tensor:
    """By tensor operations, rows a (R, N, D) of unit length. Rows of the kernel are made when they are needed."""
    rows, n, _ = a.shape
    w = a.new_ones(rows, n) if weight is None else weight.float()
    scaled = a * w[..., None]
    own = diagonal(w, (a * a).sum(-1) > 0.5)
    left = torch.ones_like(own, dtype=torch.bool)
    free = left if allowed is None else allowed
    residual, floor = own.clone(), FLOOR * own
    basis = a.new_zeros(rows, k, n)
    picks = torch.empty(rows, k, dtype=torch.long, device=a.device)
    each = torch.arange(rows, device=a.device)
    for i in range(k):
        free = free & left
        best, j = residual.masked_fill(~free, -1).max(-1)
        spare = torch.where(free.any(1, keepdim=True), free, left)
        j = torch.where(best > 0, j, own.masked_fill(~spare, -1).argmax(-1))
        if forced is not None:
            j = torch.where(forced[:, i] >= 0, forced[:, i], j)
        picks[:, i] = j
        left[each, j] = False
        at = residual[each, j]
        row = torch.bmm(scaled, scaled[each, j].unsqueeze(-1)).squeeze(-1)
        if i:
            row = torch.baddbmm(row.unsqueeze(1), basis[each, :i, j].unsqueeze(1), basis[:, :i], alpha=-1).squeeze(1)
        step = torch.where(at > floor[each, j], at.clamp_min(EPS).rsqrt(), 0.0)[:, None] * row
        basis[:, i] = step
        residual = residual - step * step
        residual = residual.masked_fill(residual <= floor, 0)
    return picks


def greedy_repeated(features: Tensor, weight: Tensor, k: int) -> Tensor:
    """(R, k) picks, in order, of the greedy in Script's release, for the kernel of `greedy_map`.

    A pick j of positive score lowers every score by (K_ij / (sqrt(d_j) + 1e-6))^2. Earlier picks are not projected out of K_j,
    so what two picks share is subtracted twice, scores fall below zero, and from then on nothing changes: the rest follows the
    frozen scores, ties to the lower index. Raises UserError for k out of range, NaN and infinity.
    """
    require_picks(k, features.shape[1])
    if features.device.type == "cpu":
        return on_cpu.greedy_repeated(on_cpu.Kernels(features, weight), k)
    return _repeated_stepwise(unit(features), weight, k)


def _repeated_stepwise(a: Tensor, weight: Tensor, k: int) -> Tensor:
    """By tensor operations, rows a (R, N, D) of unit length."""
    w = weight.float()
    score = diagonal(w, (a * a).sum(-1) > 0.5)
    free = torch.ones_like(score, dtype=torch.bool)
    picks = torch.empty(len(a), k, dtype=torch.long, device=a.device)
    each = torch.arange(len(a), device=a.device)
    for i in range(k):
        at, j = score.masked_fill(~free, -torch.inf).max(-1)
        picks[:, i] = j
        free[each, j] = False
        row = torch.bmm(a, a[each, j].unsqueeze(-1)).squeeze(-1) * w * w[each, j, None]
        step = row / (at.clamp_min(0).sqrt() + 1e-6)[:, None]
        score = torch.where((at > 0)[:, None], score - step * step, score)
    return picks
