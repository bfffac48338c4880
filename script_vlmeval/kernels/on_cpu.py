"""Greedy selection on a CPU: a loop of few numpy calls per pick.

Rows of the kernel come from the whole similarity matrix where tokens are narrow. Where they are wide that matrix is the larger
part of the cost, and only the rows of likely picks are made: those of the largest residuals, several at a time, since one
matrix product reads the tokens once for all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UserError
from .basic import EPS, FLOOR

Floats = NDArray[np.float32]
_WIDE = 1 << 19  # numbers in a tile's features from which on rows are made on demand
_BLOCK = 32  # rows made at a time
_LOCKSTEP = 3  # tiles from which on a step for all of them is cheaper than tile by tile


class Kernels:
    """Rows of R kernels diag(w) S diag(w), from features (R, N, D) and weights (R, N), None = 1."""

    def __init__(self, features: Tensor, weight: Tensor | None) -> None:
        x = features.float()
        norm = torch.linalg.vector_norm(x, dim=-1)
        tiles, n = norm.shape
        length = norm.clamp_min(EPS)
        (w,) = _arrays(torch.ones_like(norm) if weight is None else weight)
        self.own: Floats = w * w * (norm >= EPS).numpy()  # not the product's diagonal, whose rounding would decide equal weights
        if not bool(torch.isfinite(norm).all()) or not np.isfinite(self.own).all():
            raise UserError(
                "NaN or infinity in the features or weights; a selection from them would be arbitrary. Try another --dtype."
            )
        self.wide = n * x.shape[2] >= _WIDE
        if self.wide:
            self._x, self._scale = x, w / length.numpy()
            self._made: list[dict[int, Floats]] = [{} for _ in range(tiles)]
        else:
            self._rows: Floats = np.empty((tiles, n, n), np.float32)
            for r, a in enumerate(x / length[..., None]):  # one by one: a product's last bits may depend on its batch
                torch.mm(a, a.T, out=torch.from_numpy(self._rows[r]))
            self._rows *= w[:, :, None]
            self._rows *= w[:, None]

    def whole(self) -> Floats:
        """(R * N, N) all rows, of tokens that are not wide."""
        return self._rows.reshape(-1, self._rows.shape[2])

    def made(self, r: int) -> int:
        """How many rows of kernel r there are."""
        return len(self._made[r]) if self.wide else len(self._rows[r])

    def row(self, r: int, j: int, residual: Floats) -> Floats:
        """Row j of kernel r; the residuals (N,) say which rows are likely to be wanted next."""
        if not self.wide:
            row: Floats = self._rows[r, j]
            return row
        if j not in self._made[r]:
            self._make(r, j, residual)
        return self._made[r][j]

    def _make(self, r: int, j: int, residual: Floats) -> None:
        made, waiting = self._made[r], residual.copy()
        waiting[list(made)] = -np.inf
        waiting[j] = np.inf
        block = np.argpartition(-waiting, min(_BLOCK, len(waiting)) - 1)[:_BLOCK]
        block = np.array([i for i in block.tolist() if i not in made])
        rows = torch.mm(self._x[r], self._x[r, torch.from_numpy(block)].T).numpy().T  # a third faster than the other way round
        made.update(zip(block.tolist(), rows * self._scale[r] * self._scale[r, block, None], strict=True))


def _arrays(*given: Tensor | None) -> list[Any]:
    return [None if x is None else (x.float() if x.is_floating_point() else x).contiguous().numpy() for x in given]


def greedy_map(kernels: Kernels, k: int, allowed: Tensor | None, forced: Tensor | None) -> Tensor:
    """(R, k) picks, as `dpp.greedy_map` defines them: bit for bit the same alone and among other tiles, at any k."""
    free, prescribed = _arrays(allowed, forced)
    residual = kernels.own.copy()
    if free is not None:
        if prescribed is not None:
            tile, turn = (prescribed >= 0).nonzero()
            free = free.copy()
            free[tile, prescribed[tile, turn]] = True
        residual[~free] = -np.inf
    tiles = range(len(residual))
    if len(tiles) < _LOCKSTEP or kernels.wide:
        alone, picks = list(tiles), np.empty((len(tiles), k), np.int64)
    else:
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
            picks, at = _lockstep(kernels, residual.copy(), k, prescribed)
            places = picks + np.arange(len(tiles))[:, None] * residual.shape[1]
            sound = (at > FLOOR * kernels.own.take(places)).all(1)
        alone = np.flatnonzero(~sound).tolist()
    for r in alone:
        picks[r] = _one(kernels, r, residual[r], k, None if prescribed is None else prescribed[r])
    return torch.from_numpy(picks)


def _one(kernels: Kernels, r: int, residual: Floats, k: int, forced: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Picks of one tile. Residuals at or below their floor count as nothing, which matters only to the pick that meets one:
    they never rise again, so everything else goes on as if they were there."""
    own, floor = kernels.own[r], FLOOR * kernels.own[r]
    basis = np.empty((k, len(residual)), np.float32)
    room = np.empty_like(residual)
    picks = np.empty(k, np.int64)
    for i in range(k):
        j = int(residual.argmax())
        if residual[j] <= floor[j]:
            j = _beyond_noise(residual, floor, own, picks[:i])
        if forced is not None and forced[i] >= 0:
            j = int(forced[i])
        picks[i], at, step = j, residual[j], basis[i]
        if at <= floor[j]:
            step[:] = 0
        else:
            row = kernels.row(r, j, residual)
            if i:
                np.dot(basis[:i, j], basis[:i], out=room)
                np.subtract(row, room, out=step)
            else:
                step[:] = row
            step /= np.sqrt(at)
            np.multiply(step, step, out=room)
            residual -= room
        residual[j] = -np.inf
    return picks


def _beyond_noise(residual: Floats, floor: Floats, own: Floats, picks: NDArray[np.int64]) -> int:
    """The largest residual above its floor; where there is none, the heaviest candidate; where no candidate is left, the
    heaviest token."""
    real = np.where(residual > floor, residual, -np.inf)
    if np.isfinite(best := real.max()) and best > 0:
        return int(real.argmax())
    left = np.where(np.isfinite(residual), own, -np.inf)
    if not np.isfinite(left.max()):
        left = own.copy()
        left[picks] = -np.inf
    return int(left.argmax())


def _lockstep(kernels: Kernels, residual: Floats, k: int, forced: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], Floats]:
    """The same for several tiles at once: bit for bit what each gives alone. Every call writes into what is there already."""
    tiles, n = residual.shape
    offset, rows, scores = np.arange(tiles) * n, kernels.whole(), residual.reshape(-1)
    basis = np.empty((k, tiles, n), np.float32)
    columns, by_tile = basis.reshape(k, -1), basis.transpose(1, 0, 2)
    row, shared, root = np.empty((tiles, n), np.float32), np.empty((tiles, 1, n), np.float32), np.empty((tiles, 1), np.float32)
    picks, at = np.empty((k, tiles), np.int64), np.empty((k, tiles), np.float32)
    for i in range(k):
        residual.argmax(1, out=picks[i])
        if forced is not None:
            np.copyto(picks[i], forced[:, i], where=forced[:, i] >= 0)
        flat = picks[i] + offset
        scores.take(flat, out=at[i], mode="clip")
        rows.take(flat, axis=0, out=row, mode="clip")
        if i:
            np.matmul(columns[:i].take(flat, axis=1, mode="clip").T[:, None], by_tile[:, :i], out=shared)
            np.subtract(row, shared[:, 0], out=row)
        np.sqrt(at[i], out=root[:, 0])
        step = np.divide(row, root, out=basis[i])
        np.multiply(step, step, out=row)
        np.subtract(residual, row, out=residual)
        scores[flat] = -np.inf
    return picks.T.copy(), at.T


def greedy_repeated(kernels: Kernels, k: int) -> Tensor:
    """The greedy of Script's release, tile by tile: (R, k) picks."""
    return torch.from_numpy(np.stack([_repeated(kernels, r, k) for r in range(len(kernels.own))]))


def _repeated(kernels: Kernels, r: int, k: int) -> NDArray[np.int64]:
    score = kernels.own[r].copy()
    room = np.empty_like(score)
    picks = np.empty(k, np.int64)
    for i in range(k):
        j = score.argmax()
        at = score[j]
        if at <= 0:  # nothing changes any more
            picks[i:] = np.argsort(-score, kind="stable")[: k - i]
            break
        picks[i] = j
        np.divide(kernels.row(r, int(j), score), np.sqrt(at) + np.float32(1e-6), out=room)
        np.multiply(room, room, out=room)
        score -= room
        score[j] = -np.inf
    return picks
