"""Average pooling of the map of tokens: a floor that keeps something of every token."""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d

from ._layout import layout, map_of, positions
from .base import Method, Reduced, Visual


@dataclass(frozen=True)
class Pool(Method):
    """The mean of what the language model would read, over r x c even cells of the map.

    Cell i of r covers the rows floor(i H / r) to ceil((i + 1) H / r) - 1, so neighbours overlap where r does not divide H. A cell
    stands at the token nearest its centre. r x c as in `grid`; without a fitting pair, k even runs in raster order.
    """

    changes = True

    def reduce(self, visual: Visual, k: int) -> Reduced:
        b, g, n = visual.shape
        keep = positions(visual.grid, n, k, visual.tokens.device).expand(b, g, -1)
        channels = visual.tokens.float().flatten(0, 1).transpose(1, 2)  # (B * G, D, N)
        grid = map_of(visual.grid, n)
        cells = layout(grid, k)
        if grid is None or cells is None:
            pooled = adaptive_avg_pool1d(channels, k)
        else:
            pooled = adaptive_avg_pool2d(channels.unflatten(2, grid), cells).flatten(2)
        return Reduced(keep, pooled.transpose(1, 2).unflatten(0, (b, g)).to(visual.tokens.dtype))
