"""Methods for clips, whose frames are the tiles of an image here: VidCom2 and EVS."""

from __future__ import annotations

import torch
from torch import Tensor

from script_vlmeval.methods import Visual, get_method

from .inputs import common, normal, unit
from .registry import Show, finding


def _clip(frames: int = 16, n: int = 49, d: int = 64, seed: int = 0) -> Tensor:
    """(frames, n, d): one scene, frame after frame a bit different, and half-way another scene."""
    still = normal(1, n, d, seed=seed) + normal(1, 1, d, seed=seed + 1)
    moving = 0.3 * normal(frames, n, d, seed=seed + 2)
    moving[frames // 2 :] += 0.8 * normal(1, n, d, seed=seed + 3)
    return still + moving


def _gaussians(x: Tensor, centre: Tensor) -> Tensor:
    squared = (x - centre).square().sum(-1)
    return sum((torch.exp(-squared / (2 * a)) for a in (1 / 8, 1 / 4, 1 / 2, 1, 2)), torch.zeros_like(squared))


def _vidcom2(x: Tensor, ratio: float) -> tuple[list[int], Tensor]:
    """The released rule: kept tokens of the clip (F, n, D) counted through, and how many of each frame."""
    frames, n, d = x.shape
    calm = x.flatten(0, 1).var(0).argsort()[: d // 2]
    rows = unit(x[..., calm])
    video, own = _gaussians(rows, rows.mean((0, 1))), _gaussians(rows, rows.mean(1, keepdim=True))
    u = -video.mean(1)
    p = ((u - u.max()) / 0.01).softmax(0)
    counts = ((ratio * (1 + p - p.mean())).clamp_max(1) * n).round().clamp_min(1).long()
    picks = [(video + own)[f].topk(int(counts[f]), largest=False).indices + f * n for f in range(frames)]
    return torch.cat(picks).tolist(), counts


def _kept(method: str, x: Tensor, budget: int) -> list[int]:
    """What ours keeps of the clip, counted through."""
    frames = len(x)
    kept: list[int] = get_method(method)(Visual(x.flatten(0, 1)[None, None], tiles=frames), budget).keep.flatten().tolist()
    return kept


@finding("vidcom2", "Each frame's budget is rounded for itself, so the total is only near the budget; ours is exact.")
def vidcom2_inexact_total(show: Show) -> bool:
    totals, good = {}, True
    for ratio in (0.1, 0.2, 0.25, 0.3):
        x = _clip(seed=4)
        wanted = round(ratio * 16 * 49)
        released, _ = _vidcom2(x, ratio)
        totals[wanted] = len(released)
        good &= len(_kept("vidcom2", x, wanted)) == wanted
    show(f"tokens of 784 by the re-stated release, by budget: {totals}; ours keeps the budget each time: {good}")
    return good and any(k != v for k, v in totals.items())


@finding("vidcom2", "Apart from rounding, our frames' counts and tokens are the released rule's.")
def vidcom2_as_released(show: Show) -> bool:
    from script_vlmeval.methods.vidcom2 import released

    x = _clip(seed=8)
    kept, counts = _vidcom2(x, 0.25)
    ours, mask = released(x.flatten(0, 1)[None], 16, 0.25)
    exact = _kept("vidcom2", x, len(kept))
    apart = (torch.tensor(exact).div(49, rounding_mode="floor").bincount(minlength=16) - counts).abs().max()
    show(f"the release's own counts: {common(mask.flatten().nonzero(), kept)} of {len(kept)} tokens equal")
    show(f"exact counts at that total: {common(exact, kept)} of {len(kept)}, a frame differs by at most {int(apart)}")
    return torch.equal(ours[0], counts) and common(mask.flatten().nonzero(), kept) == len(kept) and int(apart) <= 1


@finding("vidcom2", "Half of the channels, those of larger variance, are not looked at in the release, nor in ours.")
def vidcom2_calm_channels(show: Show) -> bool:
    x = _clip(seed=4)
    x[..., 32:] *= 5
    other = x.clone()
    other[..., 32:] = 5 * normal(16, 49, 32, seed=77) + 3
    released = [_vidcom2(clip, 0.25)[0] for clip in (x, other)]
    ours = [_kept("vidcom2", clip, 196) for clip in (x, other)]
    show(f"32 of 64 channels replaced by noise: {common(*released)} of {len(released[0])} tokens stay in the release")
    show(f"and {common(*ours)} of 196 in ours")
    return common(*released) == len(released[0]) and common(*ours) == 196


def _evs(x: Tensor, q: float) -> list[int]:
    """vLLM's rule: the first frame, then the largest changes against the frame before."""
    frames, n, _ = x.shape
    change = 1 - (unit(x[1:]) * unit(x[:-1])).sum(-1)
    d = torch.cat([torch.full((1, n), 255.0), change]).flatten()
    kept = d.argsort(descending=True, stable=True)[: max(n, int(frames * n * (1 - q)))]
    return sorted(kept.tolist())


@finding(
    "evs", "Above one frame our choice is vLLM's; below, vLLM keeps the whole first frame whatever was asked, ours the budget."
)
def evs_first_frame(show: Show) -> bool:
    x, good = _clip(seed=5), True
    for q in (0.5, 0.75, 0.95):
        budget = int(784 * (1 - q))
        released, ours = _evs(x, q), _kept("evs", x, budget)
        show(f"pruning rate {q}: vLLM's rule keeps {len(released)}, ours {len(ours)}, {common(ours, released)} of them the same")
        good &= len(ours) == budget and common(ours, released) == budget and len(released) == max(49, budget)
    return good


@finding("evs", "Change is against the frame before, not the last one kept: what drifts slowly is never kept again.")
def evs_slow_drift(show: Show) -> bool:
    x = normal(1, 49, 64, seed=1).repeat(32, 1, 1)
    x[:, 1:25] += 0.25 * normal(32, 24, 64, seed=2)  # flickers around what it was
    angle = torch.linspace(0, torch.pi, 32)[:, None]  # token 0 turns into its opposite, slowly
    start, across = unit(normal(64, seed=3)), normal(64, seed=4)
    across = unit(across - (across @ start) * start)
    x[:, 0] = 8 * (angle.cos() * start + angle.sin() * across)
    released, ours = _evs(x, 0.7), _kept("evs", x, len(_evs(x, 0.7)))
    drifted, flickered = sum(i % 49 == 0 for i in released), sum(i % 49 == 1 for i in released)
    final = float(unit(x[-1, 0]) @ unit(x[0, 0]))
    show(f"frames of 32 with a token that turns into its opposite (cosine {final:.0f}): {drifted}; which flickers: {flickered}")
    show(f"ours is the same rule: {ours == released}")
    return drifted == 1 and flickered > 5 and ours == released
