"""VisPruner (Zhang et al., ICCV 2025, arXiv 2412.01818): some tokens for their CLS attention, the others for being different.

What attention does not choose is thinned in rounds: the list is dealt alternately into two sides, and the members of the first
that have a close relative in the second go.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import kernels
from ..errors import UserError
from .base import Method, Visual, require_finite

_PER_ROUND = 8


@dataclass(frozen=True)
class VisPruner(Method):
    """The most attended tokens, and of the rest the ones least alike.

    important_ratio: share of the budget that goes by CLS attention alone, rounded down.

    Each round's order decides the next round's two sides, so the diverse part is chaotic: the same released code, given synthetic
    features in float16 and in float32, had 0.56 (k = 64) and 0.68 (k = 192) of all kept tokens in common; attended tokens agreed,
    diverse ones were nearly unrelated. The first side has one member more where the number is odd, and a round never
    empties it unless two tokens are left for one place; the release fails in both cases.
    """

    needs = frozenset({"saliency", "encoded"})
    important_ratio: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.important_ratio <= 1:
            raise UserError(f"'{self.name}' needs an important_ratio from 0 to 1, not {self.important_ratio}.")

    def select(self, visual: Visual, k: int) -> Tensor:
        assert visual.encoded is not None
        b, g, n = visual.shape
        k = min(k, n)
        important = int(k * self.important_ratio)
        by_attention = attention_order(visual).flatten(0, 1)
        similarity = cosines(visual.encoded)
        rest = by_attention[:, important:]
        if k == important:
            rest = rest[:, :0]
        while (surplus := rest.shape[1] - (k - important)) > 0:
            rest = thin(similarity, rest, surplus)
        return torch.cat([by_attention[:, :important], rest], 1).sort(-1).values.view(b, g, k)


def attention_order(visual: Visual) -> Tensor:
    """(B, G, N) indices by descending CLS attention, ties to the lower index."""
    assert visual.saliency is not None
    require_finite(visual.saliency, "the CLS attention")
    return visual.saliency.float().sort(dim=-1, descending=True, stable=True).indices


def cosines(encoded: Tensor) -> Tensor:
    """(B * G, N, N), one tile at a time: a batched product may round by the size of the batch, which the rounds amplify."""
    return torch.stack([x @ x.T for x in kernels.unit(encoded).flatten(0, 1)])


def thin(similarity: Tensor, rest: Tensor, surplus: int) -> Tensor:
    """(R, L - q) what one round leaves of `rest` (R, L), q = at most 8 of the surplus.

    The first side in order of descending similarity to the second, without its q first, then the second side as it was.
    """
    first, second = rest[:, 0::2], rest[:, 1::2]
    each = torch.arange(len(rest), device=rest.device)[:, None, None]
    nearest = similarity[each, first[:, :, None], second[:, None, :]].amax(-1)
    dropped = min(_PER_ROUND, surplus, max(first.shape[1] - 1, 1))
    order = nearest.sort(dim=-1, descending=True, stable=True).indices[:, dropped:]
    return torch.cat([first.gather(1, order), second], 1)
