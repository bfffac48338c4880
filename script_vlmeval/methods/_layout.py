"""Evenly spread positions on a map of tokens: r x c cells where k factors well, else every (n / k)-th token."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

_WORST = Fraction(5, 2)  # cells' rows by columns may differ from the map's by this factor


def layout(grid: tuple[int, int] | None, k: int) -> tuple[int, int] | None:
    """Rows and columns, r * c = k, nearest to the map's proportions; fewer rows where two are equally near.

    None, which means a stride in raster order, where the map is unknown or no pair fits into it within a factor of 2.5.
    """
    if grid is None:
        return None
    height, width = grid
    pairs = [(r, k // r) for r in range(1, min(height, k) + 1) if k % r == 0 and k // r <= width]
    ranked = sorted((_distortion(r * width, c * height), r, c) for r, c in pairs)
    return ranked[0][1:] if ranked and ranked[0][0] <= _WORST else None


def _distortion(a: int, b: int) -> Fraction:
    return Fraction(max(a, b), min(a, b))


def map_of(grid: tuple[int, int] | None, n: int) -> tuple[int, int] | None:
    """The map, where it is one of these n tokens: survivors of an earlier stage have none."""
    return grid if grid is not None and grid[0] * grid[1] == n else None


def positions(grid: tuple[int, int] | None, n: int, k: int, device: torch.device | None = None) -> Tensor:
    """(k,) ascending raster positions of the tokens nearest the centres of `layout`'s cells."""
    grid = map_of(grid, n)
    cells = layout(grid, k)
    if grid is None or cells is None:
        return middles(n, k, device)
    rows, columns = (middles(size, parts, device) for size, parts in zip(grid, cells, strict=True))
    return (rows[:, None] * grid[1] + columns).flatten()


def middles(n: int, k: int, device: torch.device | None = None) -> Tensor:
    """(k,) positions floor((i + 0.5) n / k) below n, in whole numbers."""
    return (2 * torch.arange(k, device=device) + 1) * n // (2 * k)
