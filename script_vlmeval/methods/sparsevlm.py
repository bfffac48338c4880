"""SparseVLM (Zhang et al., ICML 2025, arXiv 2410.04417): words of the prompt rate the visual tokens, and the best of what is
dropped is recycled into a few merged tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import kernels
from ..errors import UserError
from ._layers import Stages, parsed, stages
from .base import Method, Reduced, Visual, require_finite, take

_SHAPE = (300, 200, 110)  # kept at the stages, of 576
_PUBLISHED = {192: _SHAPE, 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)}
_OF = 576
_STEPS = 2**40  # of the factor on the shape that a budget is solved for
_AFTER = (3, 7, 16)  # of 32 layers


@dataclass(frozen=True)
class SparseVLM(Method):
    """Tokens that the prompt's most visual words attend to, and merged ones from the dropped, at three depths.

    The raters are the text tokens after the image that visual tokens turn to more than to the average one: softmax of the raw
    products over the text, averaged over the visual tokens, all as the language model was given them. A token's score is the
    mean attention that the raters pay it in the layer before. Of the d dropped tokens the floor(0.3 d) + 1 of the highest score
    are grouped by density peaks, floor(x / 10) + 1 groups of x tokens; the mean of each group follows the kept tokens.
    recycle: False = nothing is merged, the dropped tokens are gone.
    layers: the three stages, at the entry of these layers; None = "3,7,16" from 32 layers on, in proportion below.
    published: the budget is nominal: 192, 128, 96 or 64 of 576 keep 300/200/110, 303/110/36, 238/48/26 or 66/30/17 and merged
        tokens beside them. The true means over 32 layers are 206.5, 145.4, 114.1 and 82.3.

    Otherwise a budget is the mean number of visual tokens over all layers, merged ones included, never more: 300/200/110 kept,
    times the largest factor that stays within it. A stage's number k is split into kept and merged tokens so that the formulas
    hold, with the more kept ones where two splits do; where k is too small for any, one token is kept beside k - 1 groups.

    Deviations from the release (version 1.0): no random noise on the densities, equal ones rank by the lower index, so that the
    result is the same each time; densities are compared by their logarithms, which cannot underflow; tokens keep their places,
    where it numbers them anew; a batch may have many samples, and all images of one are one set. Where no text token is above
    the average (there is one alone), all are raters, and without any the first tokens stay; its scores are NaN there. Version
    2.0 is not offered: it corrects the attention by what positions alone would give and picks heads; averages do not tell.
    """

    needs = frozenset({"text", "text_attention", "given"})
    union = True
    recycle: bool = True
    layers: str | int | None = None
    published: bool = False

    def __post_init__(self) -> None:
        if self.layers is None:
            return
        if len(at := parsed(self.layers, self.name)) != len(_AFTER):
            raise UserError(f"'{self.name}' has three stages, such as layers='3,7,16', not {len(at)}.")
        if self.published:
            raise UserError(f"'{self.name}' has its published budgets at its published layers: leave out published or layers.")

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        if budget is None:
            return super().plan(budget, n_visual, n_layers)
        if budget >= n_visual and not self.published:
            return {}
        usual = tuple(stage * min(n_layers, 32) // 32 for stage in _AFTER)
        where = stages(self.layers, usual, n_layers, n_visual, self.name)
        if not self.published:
            return dict(_solved(where, budget, self.recycle))
        if n_visual != _OF or budget not in _PUBLISHED:
            raise UserError(
                f"'{self.name}' has published budgets of {', '.join(map(str, _PUBLISHED))} for {_OF} visual tokens, not of "
                f"{budget} for {n_visual}: leave out published=true for any other."
            )
        return where.plan(totals(n_visual, _PUBLISHED[budget], self.recycle))

    def reduce(self, visual: Visual, k: int) -> Reduced:
        b, g, n = visual.shape
        ranked = self.ratings(visual).sort(dim=-1, descending=True, stable=True).indices
        kept, groups = split(n, k) if self.recycle else (k, 0)
        placed = take(visual, ranked[..., :kept].sort(-1).values)
        if groups == 0:
            return placed
        recycled = take(visual, ranked[..., kept : kept + _recycled(n - kept)].sort(-1).values)
        merged = density_peaks(recycled.tokens.flatten(0, 1).float(), groups).unflatten(0, (b, g)).to(visual.tokens.dtype)
        require_finite(merged, "the merged tokens")
        keep = torch.cat([placed.keep, placed.keep.new_full((b, g, groups), -1)], 2)
        return Reduced(keep, torch.cat([placed.tokens, merged], 2))

    def ratings(self, visual: Visual) -> Tensor:
        """(B, G, N) float32: the mean attention of the raters."""
        assert visual.text_attention is not None
        attention = torch.where(_real(visual)[:, None, None], visual.text_attention.float(), 0)
        require_finite(attention, "the attention of the text")
        raters = self.raters(visual)[:, None, None]
        return torch.where(raters, attention, 0).sum(-1) / raters.sum(-1).clamp_min(1)

    def raters(self, visual: Visual) -> Tensor:
        """(B, M) bool: the text tokens that rate."""
        assert visual.text is not None
        assert visual.given is not None
        if visual.text_given is None:
            raise UserError(f"'{self.name}' needs 'text_given' beside 'given', which this model does not give.")
        real = _real(visual)
        if not kernels.asked(visual.text, real, "their order"):
            return real
        text = torch.where(real[..., None], visual.text_given.float(), 0)
        given = visual.given.flatten(1, 2).float()
        require_finite(given, "the visual tokens as given")
        require_finite(text, "the text as given")
        require_finite(torch.where(real[..., None], visual.text, 0), "the text")
        product = torch.matmul(given, text.transpose(1, 2))
        require_finite(product, "the products of visual tokens and text")
        share = product.masked_fill(~real[:, None], -torch.inf).softmax(-1).mean(1)
        above = real & (kernels.snapped(share * real.sum(-1, keepdim=True)) > 1)  # shares add up to 1
        return torch.where(above.any(-1, keepdim=True), above, real)


def _real(visual: Visual) -> Tensor:
    """(B, M) bool: the text tokens that are not padding."""
    assert visual.text is not None
    return torch.ones_like(visual.text[..., 0], dtype=torch.bool) if visual.text_mask is None else visual.text_mask


def _recycled(dropped: int) -> int:
    """How many of the dropped tokens are merged."""
    return min(dropped, 3 * dropped // 10 + 1)


def _groups(dropped: int) -> int:
    """Into how many."""
    return _recycled(dropped) // 10 + 1


@lru_cache(256)
def split(n: int, k: int) -> tuple[int, int]:
    """Kept and merged tokens, k in all, of n > k."""
    kept = next((m for m in range(k - 1, 0, -1) if m + _groups(n - m) <= k), 1)  # the sum rises by 0 or 1 with m
    return kept, k - kept


def totals(n: int, kept: Sequence[int], recycle: bool) -> tuple[int, ...]:
    """Tokens after each stage, merged ones included, when so many of n are kept; all where a stage would spare none."""
    found = []
    for m in kept:
        n = min(n, m + _groups(n - m) if recycle and m < n else m)
        found.append(n)
    return tuple(found)


@lru_cache(256)
def _solved(where: Stages, budget: int, recycle: bool) -> tuple[tuple[int, int], ...]:
    """The plan of a budget, as pairs: every prefill asks for it."""

    def kept(i: int) -> tuple[int, ...]:
        return totals(where.n, [max(1, m * where.n * i // (_OF * _STEPS)) for m in _SHAPE], recycle)

    return tuple(where.plan(where.largest(kept, _OF // min(_SHAPE) * _STEPS + _STEPS, budget)).items())


def density_peaks(x: Tensor, groups: int) -> Tensor:
    """(R, c, D) means of c groups of rows x (R, n, D), float32, n >= c.

    A row is the denser the smaller its mean squared distance (over D) to the c rows nearest to it, itself among them. Centres
    are the rows with the largest density times distance to the nearest denser row (for the densest: the largest distance of
    all); the others join the nearest centre. Ties to the lower index, and to the better centre.
    """
    n, d = x.shape[1:]
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") / d**0.5
    require_finite(distance, "the distances between dropped tokens")
    spread = kernels.snapped(distance.topk(groups, largest=False).values.square().mean(-1))  # -log of the density
    index = torch.arange(n, device=x.device)
    tied = (spread[:, None] == spread[..., None]) & (index < index[:, None])
    denser = (spread[:, None] < spread[..., None]) | tied
    farthest = distance.amax((1, 2))[:, None, None]
    apart = torch.where(denser, distance, farthest).amin(-1)
    rank = kernels.snapped(apart.log() - spread).sort(dim=-1, descending=True, stable=True).indices
    centres = rank[:, :groups]
    joined = distance.gather(1, centres[..., None].expand(-1, -1, n)).argmin(1)
    joined = joined.scatter(1, centres, torch.arange(groups, device=x.device).expand_as(centres))
    member = F.one_hot(joined, groups).transpose(1, 2).float()
    return torch.bmm(member, x) / member.sum(-1, keepdim=True)
