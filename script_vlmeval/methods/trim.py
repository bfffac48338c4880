"""TRIM (Song et al., COLING 2025, arXiv 2409.10994): tokens by their CLIP product with the question, and the mean of the rest."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ._layout import positions
from .base import Method, Reduced, Visual, require_finite, take
from .cdpruner import check_sign


@dataclass(frozen=True)
class TRIM(Method):
    """The tokens whose raw product with the question ranks highest, and one token for the mean of all others.

    A budget of k is k - 1 tokens and, at the end, the projected mean of the dropped ones' encoder features; k = 1 is the mean of
    all. The release adds that token to its budget and refuses k = 1.
    sign: +1 keeps the largest products, -1 the smallest (the release), None follows the space that the model offers. The paper
        speaks of the cosine; its release normalises neither side, and so is it here.

    The release compares with the whole prompt, cut at 77 ids; here it is the question, as for the other methods.
    Beyond the release: several question rows count by their mean; a sample without a question keeps an even grid of tokens and
    the mean of the others. Ranking skips the release's softmax, which changes no order but makes ties where it underflows.
    `outliers` is the release's automatic budget, but per image; the release takes its quartiles over all images of a batch.
    """

    needs = frozenset({"keys", "query", "encoded", "project"})
    sign: int | None = None

    def __post_init__(self) -> None:
        check_sign(self.name, self.sign)

    def reduce(self, visual: Visual, k: int) -> Reduced:
        assert visual.encoded is not None
        assert visual.project is not None
        require_finite(visual.encoded, "the encoder's features")
        order = self._ranking(visual, k - 1)
        kept = take(visual, order[..., : k - 1].sort(-1).values)
        dropped = order[..., k - 1 :, None].expand(-1, -1, -1, visual.encoded.shape[-1])
        mean = visual.encoded.gather(2, dropped).float().mean(2, keepdim=True)
        merged = visual.project(mean.to(visual.encoded.dtype)).to(visual.tokens.dtype)
        require_finite(merged, "the projected mean of the dropped tokens")
        keep = torch.cat([kept.keep, torch.full_like(order[..., :1], -1)], 2)
        return Reduced(keep, torch.cat([kept.tokens, merged], 2))

    def outliers(self, visual: Visual) -> Tensor:
        """(B,) share of tokens whose softmax p over their tile is above Q3 + 1.5 (Q3 - Q1) of all p of the image, in float64.

        The release's automatic budget keeps floor(N * share) tokens besides the mean. 0 where there is no question.
        """
        p = self._relevance(visual)[0].softmax(-1).flatten(1)
        low, high = torch.quantile(p, torch.tensor([0.25, 0.75], device=p.device), dim=1, keepdim=True)
        share: Tensor = (p > high + 1.5 * (high - low)).double().mean(1)
        return share

    def _ranking(self, visual: Visual, spread: int) -> Tensor:
        """(B, G, N) indices, best first; without a question, an even grid of `spread` tokens comes first."""
        relevance, asked = self._relevance(visual)
        if not bool(asked.all()):
            warnings.warn("no question text to rank by: an even grid of tokens is kept, and the mean of the others", stacklevel=3)
        n = visual.shape[2]
        even = torch.zeros(n, device=relevance.device)
        if spread:
            even[positions(visual.grid, n, spread, even.device)] = 1
        return torch.where(asked[:, None, None], relevance, even).sort(dim=-1, descending=True, stable=True).indices

    def _relevance(self, visual: Visual) -> tuple[Tensor, Tensor]:
        """(B, G, N) signed raw products of tokens and question, 0 without a question, and (B,) whether there is one."""
        if visual.keys is not None:
            require_finite(visual.keys, "the tokens' keys")
        if visual.keys is None or visual.query is None:
            nothing = torch.zeros(visual.shape, device=visual.tokens.device)
            return nothing, nothing[:, 0, 0] > 0
        query, keys = visual.query.float(), visual.keys.float()
        real = torch.ones_like(query[..., 0], dtype=torch.bool) if visual.query_mask is None else visual.query_mask
        require_finite(query, "the question")
        direction = query.masked_fill(~real[..., None], 0).sum(1) / real.sum(1, keepdim=True).clamp_min(1)
        sign = visual.sign if self.sign is None else self.sign
        product: Tensor = (keys * direction[:, None, None]).sum(-1)  # sums alike in every batch, as matrix products need not
        return sign * product, real.any(1)
