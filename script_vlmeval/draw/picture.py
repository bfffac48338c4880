"""Kept tokens over a picture: what was dropped is grey and pale, what was kept is clear; and the relevance to the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..kept import Kept, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Pixels: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
View: TypeAlias = tuple[int, int | None]  # picture of the message, and which frame of it
_GRID, _MAP = "#0072B2", "viridis"
_PALE, _PAPER = 0.22, 246.0  # how much of a dropped token's picture is left, on almost white
_DEEP = 0.62  # the same of what is dropped at the last stage, where there are several
_ALIKE = 1.5  # how many times the smallest cell one is that counts as equally fine
_LUMA = np.array([0.299, 0.587, 0.114])


def strength(
    size: tuple[int, int], parts: Sequence[Picture], stages: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(height, width) how much of a picture is left by its finest tiles, and by the coarser ones, an overview: 1 where it was
    kept, less the earlier it was dropped. What lies in no tile, the model did not see: as what is dropped first."""
    fine, coarse = np.full(size, _PALE), np.full(size, _PALE)
    levels = np.linspace(_PALE, _DEEP, len(stages)) if len(stages) > 1 else np.full(len(stages), _PALE)
    least = min((_cell(part, tile) for part in parts for tile in part.tiles), default=0.0)
    for part in parts:
        lasting = np.ones(part.shape)
        for stage, level in reversed(list(zip(stages, levels, strict=True))):
            if stage in part.stages:
                lasting = np.where(part.stages[stage], lasting, level)
        for tile, values in zip(part.tiles, lasting, strict=True):
            _lay(fine if _cell(part, tile) <= _ALIKE * least else coarse, tile, values)
    return fine, coarse


def dimmed(pixels: Pixels, fine: NDArray[np.float64], coarse: NDArray[np.float64]) -> Pixels:
    """A picture with what was dropped in grey, the paler the less is left of it; in pale colours what an overview alone kept."""
    left, seen = np.maximum(fine, np.minimum(coarse, _DEEP))[..., None], (coarse >= 1)[..., None]
    grey = np.where(seen, pixels, (pixels @ _LUMA)[..., None])
    pale = left * grey + (1 - left) * _PAPER
    found: Pixels = np.where(left >= 1, pixels, pale).round().astype(np.uint8)
    return found


def relevance(size: tuple[int, int], parts: Sequence[Picture]) -> NDArray[np.float64]:
    """(height, width) from 0 to 1, NaN where no token is; of several grids the finest."""
    found = np.full(size, np.nan)
    tiles = [
        (part, tile, seen) for part in parts if part.seen is not None for tile, seen in zip(part.tiles, part.seen, strict=True)
    ]
    for _, tile, seen in sorted(tiles, key=lambda t: -_cell(t[0], t[1])):
        _lay(found, tile, seen / 255)
    return found


def _lay(canvas: NDArray[np.float64], tile: Sequence[float], values: NDArray[Any]) -> None:
    """A tile's cells (rows, columns) onto the pixels (height, width) whose middles lie in them."""
    height, width = canvas.shape
    left, top, right, bottom = tile
    cells = []
    for n, low, high, length in ((len(values), top, bottom, height), (len(values[0]), left, right, width)):
        middles = (np.arange(length) + 0.5) / length
        cells.append(np.floor((middles - low) / (high - low) * n).astype(int))
    inside = [(cell >= 0) & (cell < n) for cell, n in zip(cells, values.shape, strict=True)]
    where = np.ix_(inside[0], inside[1])
    canvas[where] = values[np.ix_(cells[0][inside[0]], cells[1][inside[1]])]


def _cell(part: Picture, tile: Sequence[float]) -> float:
    """How much of the picture's area one token covers."""
    left, top, right, bottom = tile
    return (right - left) * (bottom - top) / (part.grid[0] * part.grid[1])


def of_view(kept: Kept | None, view: View) -> list[Picture]:
    """The parts of a record that lie on a view; of frames that were joined, those of the first stand for all."""
    parts = [part for part in kept.pictures if part.picture == view[0]] if kept else []
    if view[1] is None or not parts:
        return parts
    at = max((part.frame for part in parts if part.frame is not None and part.frame <= view[1]), default=None)
    return [part for part in parts if part.frame == at]


# -- drawing -----------------------------------------------------------------------------------------------------------------
def visualize_relevance(axis: Axes, pixels: Pixels, parts: Sequence[Picture]) -> Any:
    """A heat map over a grey picture. What is returned is what a colour bar needs."""
    grey = (pixels @ _LUMA).round()
    axis.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    heat = relevance(pixels.shape[:2], parts)
    return axis.imshow(np.ma.masked_invalid(heat), cmap=_MAP, vmin=0, vmax=1, alpha=0.62, interpolation="nearest")


def visualize_kept(axis: Axes, pixels: Pixels, parts: Sequence[Picture], stages: Sequence[int]) -> None:
    """The picture with its dropped tokens dimmed, a line around what is kept, and the cells of the finest grid."""
    if not parts:
        axis.imshow(pixels, interpolation="nearest")
        return
    fine, coarse = strength(pixels.shape[:2], parts, stages)
    axis.imshow(dimmed(pixels, fine, coarse), interpolation="nearest")
    if fine.min() < 1 <= fine.max():  # white on white would not be told apart
        axis.contour(fine >= 1, levels=[0.5], colors=_GRID, linewidths=0.6)
    _cells(axis, pixels.shape[:2], parts)


def _cells(axis: Axes, size: tuple[int, int], parts: Sequence[Picture]) -> None:
    """Thin lines between the cells of the finest tiles."""
    height, width = size
    least = min(_cell(part, tile) for part in parts for tile in part.tiles)
    thin: Any = {"color": _GRID, "linewidth": 0.25, "alpha": 0.35}
    finest = [(p.grid, tile) for p in parts for tile in p.tiles if _cell(p, tile) <= _ALIKE * least]
    for (rows, columns), (left, top, right, bottom) in finest:
        xs = (left + (right - left) * np.arange(columns + 1) / columns) * width - 0.5
        ys = (top + (bottom - top) * np.arange(rows + 1) / rows) * height - 0.5
        (x0, x1), (y0, y1) = np.clip(xs[[0, -1]], -0.5, width - 0.5), np.clip(ys[[0, -1]], -0.5, height - 0.5)
        axis.vlines(xs[(xs > -0.5) & (xs < width - 0.5)], y0, y1, **thin)
        axis.hlines(ys[(ys > -0.5) & (ys < height - 0.5)], x0, x1, **thin)
