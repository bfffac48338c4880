"""VidCom2 (Liu et al., EMNLP 2025, arXiv 2505.14454): more tokens for unusual frames, and the unusual tokens of each.

Unusual is what lies far from the mean of the video and of its frame, by a sum of Gaussians over the channels that vary least.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from .base import Method, Visual

_WIDTHS = (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0)
_TEMPERATURE = 0.01


@dataclass(frozen=True)
class VidCom2(Method):
    """Per-frame budgets by how unusual a frame is, and in each the tokens least like its mean and the video's.

    Frames are the tiles of an image; a single picture is one frame and keeps its least typical tokens.

    Deviations: the release rounds every frame's budget for itself, so that its total is only near the budget. Here it is exact:
    frames get their real-valued budgets by largest remainders, at least 1 and at most all tokens of the frame; what these bounds
    add or take is spread evenly over the others. With fewer tokens than frames, the most unusual frames get one each. `released`
    has the release's own counts. The channel selection and the sum of Gaussians are the release's, not the paper's.
    """

    joint = True
    frames = True

    def select(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        video, own, shares = _seen(visual.tokens.flatten(0, 1), visual.tiles)
        tokens = n // visual.tiles
        wanted = _scales(shares, k / n) * tokens
        kept = smallest(video + own, exact_counts(wanted, shares, k, tokens)).flatten(1)
        return (~kept).int().sort(dim=-1, stable=True).indices[:, :k].view(b, g, k)


def scales(x: Tensor, frames: int, ratio: float) -> Tensor:
    """(B, F) share of its tokens that each frame of x (B, F * n, D) keeps, at a share `ratio` of all."""
    return _scales(_seen(x, frames)[2], ratio)


def released(x: Tensor, frames: int, ratio: float) -> tuple[Tensor, Tensor]:
    """(B, F) tokens per frame as the release counts them, and (B, F, n) bool, which ones."""
    video, own, shares = _seen(x, frames)
    counts = (_scales(shares, ratio) * video.shape[-1]).round().clamp_min(1).long()  # round is half to even
    return counts, smallest(video + own, counts)


def smallest(score: Tensor, counts: Tensor) -> Tensor:
    """(B, F, n) bool: the counts (B, F) smallest scores of each frame, ties to the lower index."""
    coarse = 8 * kernels.snapped(score / 8)  # sums of ten exponentials, which round more coarsely than one cosine
    rank = coarse.sort(dim=-1, stable=True).indices.argsort(dim=-1)
    return rank < counts[..., None]


def exact_counts(wanted: Tensor, shares: Tensor, total: int, most: int) -> Tensor:
    """(B, F) whole numbers of sum `total`, from 1 to `most`, by largest remainders of the `wanted` (B, F) real numbers.

    The j-th token of a frame is worth wanted - j, and the `total` most valuable ones are handed out. That is the method of
    largest remainders, and stays so where bounds leave it more or fewer to hand out. First tokens come before all others, by
    `shares` (B, F), the softmax over frames.
    """
    unit = torch.arange(1, most + 1, device=wanted.device)
    worth = wanted.double()[..., None] - unit
    worth[..., 0] = 2 * most + shares.double()
    given = worth.flatten(1).sort(dim=-1, descending=True, stable=True).indices[:, :total] // most
    return torch.zeros_like(wanted, dtype=torch.long).scatter_add_(1, given, torch.ones_like(given))


def _scales(shares: Tensor, ratio: float) -> Tensor:
    return (ratio * (1 + shares - shares.mean(-1, keepdim=True))).clamp_max(1)


def _seen(x: Tensor, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Closeness of each token to the mean of the video and of its frame, (B, F, n) each, and the frames' softmax (B, F)."""
    x = x.float()
    calm = x.var(1, correction=0).sort(dim=-1, stable=True).indices[:, : max(1, x.shape[-1] // 2)]
    rows = kernels.unit(x.gather(2, calm[:, None].expand(-1, x.shape[1], -1))).unflatten(1, (frames, -1))
    video = _closeness(rows, rows.mean((1, 2), keepdim=True))
    own = _closeness(rows, rows.mean(2, keepdim=True))
    return video, own, (-kernels.snapped(video.mean(-1)) / _TEMPERATURE).softmax(-1)


def _closeness(x: Tensor, centre: Tensor) -> Tensor:
    distance = (x - centre).square().sum(-1)
    return torch.stack([torch.exp(-distance / (2 * a)) for a in _WIDTHS]).sum(0)
