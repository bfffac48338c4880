"""PyramidDrop (Xing et al., CVPR 2025, arXiv 2410.17247): fewer visual tokens the deeper the layer.

At a few depths of the language model the tokens that the last prompt token attends to most in the layer ahead stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from torch import Tensor

from ..errors import UserError
from ._layers import Stages, parsed, stages
from .base import Method, Visual, require_finite

_PAPER = 0.5
_STEPS = 2**53  # of the ratio that a budget is solved for


@dataclass(frozen=True)
class PyramidDrop(Method):
    """Tokens that the last prompt token attends to most, by a ratio fewer at each of several depths.

    ratio: after the s-th stage floor(N ratio^s) of the N visual tokens stay, at least 1; it stands in the place of a budget, so
        giving both is an error. Without either it is the paper's 0.5: 288, 144 and 72 of 576, a mean of 270 over 32 layers.
    layers: the stages, at the entry of these layers, as "8,16,24"; None = at 1/4, 1/2 and 3/4 of the depth, rounded down.

    A budget is the mean number of visual tokens over all layers, never more: the ratio is the largest that stays within it.
    Below 145 of 576 tokens in 32 layers the first stage must come before layer 8.

    The score is what the release computes: the attention of the stage's own layer, with its input norm and projections, after
    the softmax over all tokens in float32, averaged over the heads. Deviations: tokens keep their positions, which the release
    numbers anew after each stage; all images of a sample are one set, where it knows one image; prompts may be padded on either
    side, where it refuses padding on the left, and are never cut to 2048 tokens. How the paper's other budgets were reached is
    not in the release.
    """

    needs = frozenset({"ahead"})
    union = True
    ratio: float | None = None
    layers: str | int | None = None

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UserError(f"'{self.name}' needs a ratio above 0 and below 1, not {self.ratio}.")
        if self.layers is not None:
            parsed(self.layers, self.name)

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        if budget is not None and self.ratio is not None:
            raise UserError(
                f"'{self.name}' was given a budget ({budget}) and a ratio ({self.ratio}), which decide the same: leave out the "
                "ratio, which is for use without a budget (the paper's 0.5 is the budget 46.875pct at the usual layers of 32)."
            )
        if budget is not None and budget >= n_visual:
            return {}
        usual = (n_layers // 4, n_layers // 2, 3 * n_layers // 4)
        where = stages(self.layers, usual, n_layers, n_visual, self.name)
        if budget is not None:
            return dict(_solved(where, budget))
        ratio = Fraction(str(_PAPER if self.ratio is None else self.ratio))  # as written: 0.7 twice is 0.49
        return where.plan(pyramid(where, ratio))

    def score(self, visual: Visual) -> Tensor:
        assert visual.ahead is not None
        require_finite(visual.ahead, "the attention of the last prompt token")
        return visual.ahead.float()


def pyramid(where: Stages, ratio: Fraction) -> tuple[int, ...]:
    """Tokens that stay after each stage."""
    return tuple(max(1, int(where.n * ratio**s)) for s in range(1, len(where.at) + 1))


@lru_cache(256)
def _solved(where: Stages, budget: int) -> tuple[tuple[int, int], ...]:
    """The plan of a budget, as pairs: every prefill asks for it."""
    kept = where.largest(lambda i: pyramid(where, Fraction(i, _STEPS)), _STEPS, budget)
    return tuple(where.plan(kept).items())
