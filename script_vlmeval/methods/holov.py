"""HoloV (NeurIPS 2025, arXiv 2510.02912): the most attended tokens of every part of the picture.

The raster sequence is cut into runs; a run's share of the budget follows from the attention it receives and how much its tokens'
similarities vary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual, require_finite


@dataclass(frozen=True)
class HoloV(Method):
    """The most attended tokens of each run of the raster, by quotas; one selection over all tiles.

    crops: number of runs; where the tokens do not divide evenly, the first runs have one more.
    variance, scale: weight of the variance of similarities beside the attention, and a factor on the attention. As a run's
        variances are scaled to its mean attention, they all but cancel: quotas follow the attention, in the release too.

    What a quota has beyond its run's size goes to the runs that are not full, by the same shares; the release fills up with zero
    vectors. The tokens stay in ascending order (release: by attention within a run). Tiles follow one another as they come,
    whereas the release merges the grid's rows across tiles first, so its runs are other ones there.
    """

    needs = frozenset({"saliency"})
    joint = True
    crops: int = 16
    variance: float = 0.09
    scale: float = 1000.0

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise UserError(f"'{self.name}' needs at least 1 of crops, not {self.crops}.")
        if not (math.isfinite(self.variance) and self.variance >= 0):
            raise UserError(f"'{self.name}' needs a finite variance of at least 0, not {self.variance}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise UserError(f"'{self.name}' needs a finite scale above 0, not {self.scale}.")

    def select(self, visual: Visual, k: int) -> Tensor:
        assert visual.saliency is not None
        require_finite(visual.saliency, "the CLS attention")
        b, g, n = visual.shape
        k = min(k, n)
        runs = min(self.crops, n)
        run = torch.arange(runs, device=visual.tokens.device)
        sizes = n // runs + (run < n % runs).long()
        slot = torch.arange(-(-n // runs), device=run.device)
        real = slot < sizes[:, None]  # (P, n'): runs of unequal size side by side
        at = (sizes.cumsum(0)[:, None] - sizes[:, None] + slot).clamp_max(n - 1)
        attention = visual.saliency.float().flatten(0, 1)[:, at] * real
        features = kernels.unit(visual.tokens).flatten(0, 1)[:, at] * real[..., None]
        quota = quotas(self.run_scores(attention, features, sizes, real), sizes, k)
        ranked = attention.masked_fill(~real, -math.inf).sort(dim=-1, descending=True, stable=True).indices
        rank = torch.empty_like(ranked).scatter_(-1, ranked, slot.expand_as(ranked))
        chosen = torch.zeros(b * g, n, dtype=torch.int, device=run.device)
        chosen.scatter_add_(1, at.flatten().expand(b * g, -1), ((rank < quota[..., None]) & real).int().flatten(1))
        return chosen.sort(dim=-1, descending=True, stable=True).indices[:, :k].view(b, g, k)

    def run_scores(self, attention: Tensor, features: Tensor, sizes: Tensor, real: Tensor) -> Tensor:
        """(R, P) of attention (R, P, n') and unit features (R, P, n', D), both 0 where not `real` (P, n')."""
        count, others = sizes[:, None].float(), (sizes[:, None] - 1).clamp_min(1).float()
        similarity = torch.matmul(features, features.transpose(-1, -2))
        similarity.diagonal(dim1=-2, dim2=-1).zero_()
        mean = similarity.sum(-1) / others
        spread = (similarity - mean[..., None]).square().mul(real[:, None]).sum(-1) / others * real
        scaled = self.scale * attention
        factor = scaled.abs().sum(-1, keepdim=True) / (spread.sum(-1, keepdim=True) + 1e-6 * count)
        score = (scaled + self.variance * spread * factor).sum(-1) / sizes
        return torch.where(sizes > 1, score, attention.sum(-1))  # the release does not scale the attention of a lone token


def quotas(score: Tensor, sizes: Tensor, total: int) -> Tensor:
    """(R, P) how many of `total` fall to each run by its score (R, P, not negative): never more than its size, `total` in all.

    A round deals what is needed by score, rounded down; the units left go one each to the largest shares. It fills at least one
    run or is the last, so the number of rounds is known.
    """
    share = weight = score / (score.sum(-1, keepdim=True) + 1e-6)
    quota = torch.zeros_like(score, dtype=torch.long)
    place = torch.arange(score.shape[-1], device=score.device).expand_as(quota)
    for _ in range(score.shape[-1] + 1):
        needed = total - quota.sum(-1, keepdim=True)
        more = (share * needed).floor().long()
        ranked = share.masked_fill(quota >= sizes, -1).sort(dim=-1, descending=True, stable=True).indices
        rank = torch.empty_like(ranked).scatter_(-1, ranked, place)
        quota = torch.minimum(quota + more + (rank < needed - more.sum(-1, keepdim=True)), sizes)
        unfilled = (quota < sizes).float()
        weight = weight * unfilled
        left = weight.sum(-1, keepdim=True)
        even = unfilled / unfilled.sum(-1, keepdim=True).clamp_min(1)
        share = torch.where(left > 0, weight / left.clamp_min(1e-30), even)
    return quota
