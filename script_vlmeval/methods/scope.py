"""SCOPE (saliency-coverage oriented pruning, NeurIPS 2025, arXiv 2510.24214): what covers the picture, weighted by saliency.

A set covers a token as well as its most similar member does; greedily, the token with the largest gain in coverage times CLS
attention joins it.
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
class Scope(Method):
    """The tokens that cover their tile best, weighted by CLS attention.

    alpha: exponent of the attention; 0 = coverage alone, and the release's 1.

    Coverage is the cosine in the encoder's output before the projector, per tile. Once everything is covered, or where the
    attention is 0, the lower index follows, as in the release. Its additive variant is not offered.
    """

    needs = frozenset({"saliency", "encoded"})
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(f"'{self.name}' needs a finite alpha of at least 0, not {self.alpha}.")

    def order(self, visual: Visual, k: int) -> Tensor:
        assert visual.encoded is not None
        b, g, n = visual.shape
        features = kernels.unit(visual.encoded).flatten(0, 1)
        similarity = torch.bmm(features, features.transpose(1, 2))
        return kernels.greedy_cover(similarity, min(k, n), weight=self.weight(visual).flatten(0, 1)).view(b, g, -1)

    def weight(self, visual: Visual) -> Tensor:
        """(B, G, N) attention relative to the tile's largest, to the power of alpha: a large alpha does not underflow to 0."""
        assert visual.saliency is not None
        require_finite(visual.saliency, "the CLS attention")
        attention = visual.saliency.float().clamp_min(0)
        weight: Tensor = (attention / attention.amax(-1, keepdim=True).clamp_min(1e-30)) ** self.alpha
        return weight
