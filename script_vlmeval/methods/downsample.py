"""A smaller picture: the floor that also saves the encoder's time."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import UserError
from ._layout import layout, map_of, middles, positions
from .base import Method, Reduced, Visual, require_finite


@dataclass(frozen=True)
class Downsample(Method):
    """Shrink the picture before the encoder, so that it yields only as many tokens.

    The encoder reads r x c patches, r x c = k as in `grid`, and its tokens stand at the grid's positions. Where k has no fitting
    pair, it reads the next larger number that has one, and k of its tokens are kept at an even stride: the count stays exact, at
    the price of a few tokens that were encoded in vain. Qwen's own rule, the largest picture with at most k tokens, would keep
    fewer than k and is not used.
    """

    changes = True
    needs = frozenset({"resized"})

    def reduce(self, visual: Visual, k: int) -> Reduced:
        assert visual.resized is not None
        b, g, n = visual.shape
        rows, columns = self.size(visual, k)
        small = visual.resized(rows, columns)
        self._check(small, (b, g, rows * columns, visual.tokens.shape[-1]))
        chosen = middles(rows * columns, k, small.device)
        keep = positions(visual.grid, n, rows * columns, visual.tokens.device)[chosen.to(visual.tokens.device)]
        return Reduced(keep.expand(b, g, -1), small[:, :, chosen].to(visual.tokens))

    def size(self, visual: Visual, k: int) -> tuple[int, int]:
        """Rows and columns to encode: the smallest r x c of at least k that the map has a fitting pair for, at most the map's."""
        grid = map_of(visual.grid, visual.shape[2])
        if grid is None:
            raise UserError(f"'{self.name}' needs the 'grid' of the tokens: without it, the smaller picture has no proportions.")
        return next(cells for size in range(k, visual.shape[2] + 1) if (cells := layout(grid, size)) is not None)

    def _check(self, small: Tensor, expected: tuple[int, int, int, int]) -> None:
        if tuple(small.shape) != expected:
            raise UserError(f"'{self.name}' was given {tuple(small.shape)} tokens of the smaller picture, not {expected}.")
        require_finite(small, "the tokens of the smaller picture")
