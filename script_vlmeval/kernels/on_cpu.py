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
        if not bool(torch.isfinite(norm).all()):
            raise UserError("NaN or infinity in the features; a selection from them would be arbitrary. Try another --dtype.")
        tiles, n = norm.shape
        length = norm.clamp_min(EPS)
        (w,) = _arrays(torch.ones_like(norm) if weight is None else weight)
        self.wide = n * x.shape[2] >= _WIDE
        self._rows: Floats = np.empty((tiles, n, n), np.float32)  # pages that are never written take no memory
        if self.wide:
            self._x, self._scale = x, w / length.numpy()
            self._made = np.zeros((tiles, n), bool)
        else:
            for r, a in enumerate(x / length[..., None]):  # one by one: a product's last bits may depend on its batch
                torch.mm(a, a.T, out=torch.from_numpy(self._rows[r]))
            self._rows *= w[:, :, None]
            self._rows *= w[:, None]
        self.own: Floats = w * w * (norm >= EPS).numpy()  # not the product's diagonal, whose rounding would decide equal weights

    def whole(self) -> Floats:
        """(R * N, N) all rows."""
        return self._rows.reshape(-1, self._rows.shape[2])

    def row(self, r: int, j: int, residual: Floats) -> Floats:
        """Row j of kernel r; the residuals (N,) say which rows are likely to be wanted next."""
        if self.wide and not self._made[r, j]:
            self._make(r, j, residual)
        row: Floats = self._rows[r, j]
        return row

    def _make(self, r: int, j: int, residual: Floats) -> None:
        waiting = np.where(self._made[r], -np.inf, residual)
        waiting[j] = np.inf
        block = np.argpartition(-waiting, min(_BLOCK, len(waiting)) - 1)[:_BLOCK]
        block = block[~self._made[r, block]]
        made = torch.mm(self._x[r], self._x[r, torch.from_numpy(block)].T).numpy().T  # a third faster than the other way round
        self._rows[r, block] = made * self._scale[r] * self._scale[r, block, None]
        self._made[r, block] = True


def _arrays(*given: Tensor | None) -> list[Any]:
    return [None if x is None else (x.float() if x.is_floating_point() else x).contiguous().numpy() for x in given]


def greedy_map(kernels: Kernels, k: int, allowed: Tensor | None, forced: Tensor | None) -> tuple[Tensor, Tensor]:
    """Picks (R, k) and, per tile, whether every pick's residual was above rounding noise; where not, its picks mean nothing."""
    free, prescribed = _arrays(allowed, forced)
    residual = kernels.own.copy()
    if free is not None:
        residual[~free] = -np.inf
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        if len(residual) < _LOCKSTEP or kernels.wide:
            done = [_one(kernels, r, d, k, None if prescribed is None else prescribed[r]) for r, d in enumerate(residual)]
            picks, at = np.stack([p for p, _ in done]), np.stack([a for _, a in done])
        else:
            picks, at = _lockstep(kernels, residual, k, prescribed)
        places = picks + np.arange(len(picks))[:, None] * residual.shape[1]
        sound = (at > FLOOR * kernels.own.take(places)).all(1)
    return torch.from_numpy(picks), torch.from_numpy(sound)


def _one(
    kernels: Kernels, r: int, residual: Floats, k: int, forced: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], Floats]:
    """Picks and their residuals of one tile, without guards."""
    basis = np.empty((k, len(residual)), np.float32)
    room = np.empty_like(residual)
    picks, at = np.empty(k, np.int64), np.empty(k, np.float32)
    for i in range(k):
        j = int(residual.argmax() if forced is None or forced[i] < 0 else forced[i])
        picks[i], at[i] = j, residual[j]
        row = kernels.row(r, j, residual)
        step = basis[i]
        if i:
            np.dot(basis[:i, j], basis[:i], out=room)
            np.subtract(row, room, out=step)
        else:
            step[:] = row
        step /= np.sqrt(at[i])
        np.multiply(step, step, out=room)
        residual -= room
        residual[j] = -np.inf
    return picks, at


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
