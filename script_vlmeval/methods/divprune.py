"""DivPrune (Alvar et al., CVPR 2025, arXiv 2503.02175): tokens as far from each other as possible."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .. import kernels
from .base import Method, Visual


@dataclass(frozen=True)
class DivPrune(Method):
    """Max-min diversity: each next token is the one farthest from all that were chosen.

    The distance is 1 - cosine of what the language model reads; neither attention nor question has a say. All tiles of an image
    are one set, as in the release. Where a gate is given, a token's distance counts by it, except for the first pick.

    Beyond the release: chosen tokens are masked, where it picks copies of them again (it then returns fewer different tokens,
    some of them twice); a zero token, NaN there, is at distance 1 from all. The release counts the newline tokens of LLaVA-NeXT
    among the candidates; here a budget is one of tokens of the picture.
    """

    joint = True
    gated = True

    def order(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        features = kernels.unit(visual.tokens).flatten(0, 1)
        gate = None if visual.gate is None else visual.gate.flatten(0, 1)
        return kernels.farthest_first(features, min(k, n), gate=gate).view(b, g, -1)
