"""Released rules that several demonstrations need, re-stated from their mathematics, without any guard."""

from __future__ import annotations

import torch
from torch import Tensor

from .inputs import unit


def weighed(features: Tensor, r: Tensor) -> Tensor:
    """The kernel diag(r) S diag(r)."""
    a = features / features.norm(dim=-1, keepdim=True)
    kernel: Tensor = r[:, None] * (a @ a.T) * r
    return kernel


def cholesky_greedy(kernel: Tensor, t: int) -> list[int]:
    """CDPruner's picks: incremental Cholesky, one step after the other."""
    d, basis, picks = kernel.diagonal().clone(), kernel.new_zeros(t, len(kernel)), list[int]()
    for i in range(t):
        j = int(d.argmax())
        basis[i] = (kernel[j] - basis[:i, j] @ basis[:i]) / d[j].sqrt()
        d = d - basis[i] ** 2
        d[j] = -torch.inf
        picks.append(j)
    return picks


def repeated_penalties(kernel: Tensor, t: int) -> tuple[list[int], int]:
    """The picks of Script's released greedy, and how many of them had a positive score."""
    d, free, picks, positive = kernel.diagonal().clone(), torch.ones(len(kernel), dtype=torch.bool), list[int](), 0
    for _ in range(t):
        j = int(d.masked_fill(~free, -torch.inf).argmax())
        picks.append(j)
        free[j] = False
        if d[j] > 0:
            positive += 1
            d = d - (kernel[j] / (d[j].sqrt() + 1e-6)) ** 2
    return picks, positive


def full_graph(features: Tensor, tau: float = 0.2, least: int = 4, gamma: float = 1.0) -> Tensor:
    """(N,) redundancy in the graph of Script's release: all pairs, self loops included."""
    s = unit(features) @ unit(features).T
    near = s >= tau
    n = near.sum(1)
    score = n * torch.exp(gamma * ((s * near).sum(1) / n.clamp_min(1) - tau))
    return torch.where(n >= least, score, (score + s.mean(1)) / 2)


def max_min(features: Tensor, t: int) -> list[int]:
    """DivPrune's picks; those already chosen stay candidates."""
    a = features / features.norm(dim=-1, keepdim=True)
    distance = 1 - a @ a.T
    picks = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
    while len(picks) < t:
        picks.append(int(distance[picks].amin(0).argmax()))
    return picks
