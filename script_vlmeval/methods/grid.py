"""A uniform grid of tokens: a floor that a method must beat, without any signal from the picture."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ._layout import positions
from .base import Method, Visual


@dataclass(frozen=True)
class Grid(Method):
    """Keep the tokens nearest the centres of r x c even cells, the same for every picture.

    r x c = k with proportions nearest the map's, within a factor of 2.5. Where no such pair fits (a prime, say) or the map is
    unknown, the tokens floor((i + 0.5) N / k) in raster order; `_layout.layout` tells which it is.
    """

    def select(self, visual: Visual, k: int) -> Tensor:
        b, g, n = visual.shape
        return positions(visual.grid, n, min(k, n), visual.tokens.device).expand(b, g, -1)
