"""Redundancy of tokens in a similarity graph."""

from __future__ import annotations

import torch
from torch import Tensor


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


def _edges(similarity: Tensor, tau: float) -> tuple[Tensor, Tensor]:
    """Number and mean of the similarities >= tau in each row; mean 0 where there are none."""
    near = similarity >= tau
    degree = near.sum(-1)
    return degree, similarity.masked_fill(~near, 0).sum(-1) / degree.clamp_min(1)


def _degree_score(similarity: Tensor, tau: float, gamma: float) -> Tensor:
    degree, mean = _edges(similarity, tau)
    score = degree / max(similarity.shape[-1], 1) * torch.exp(gamma * (mean - tau))
    return score.masked_fill(degree == 0, 0)


def full_redundancy(features: Tensor, tau: float, gamma: float, least: int) -> Tensor:
    """(R, N) redundancy of tokens in the graph of all pairs, each token also paired with itself.

    features (R, N, D) of unit rows. With c similarities >= tau, of mean mu, a token has A = c exp(gamma (mu - tau)); its score is
    A, or the mean of A and its mean similarity to all where c < least.
    """
    similarity = torch.bmm(features, features.transpose(1, 2))
    degree, mean = _edges(similarity, tau)
    score = degree * torch.exp(gamma * (mean - tau))
    return torch.where(degree >= least, score, (score + similarity.mean(-1)) / 2)
