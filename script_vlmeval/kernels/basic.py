"""Rows of unit length, and relevance to a question."""

from __future__ import annotations

import warnings
from typing import TypeGuard

import torch
from torch import Tensor

from ..doubts import doubt
from ..errors import UserError

EPS = 1e-12  # lower bound of a norm
FLOOR = 1e-5  # a residual below this share of the token's own weight is rounding noise (float32)
_FLAT = 1e-6  # a relevance with a smaller range says nothing
SNAP = 2.0**-20  # about 1e-6, a few times the rounding of a cosine in float32


def snapped(x: Tensor) -> Tensor:
    """x in steps of 2^-20. What differs by rounding alone ties, so that neither copies of a token are told apart by it, nor do
    batch mates, which change the rounding of a matrix product, change a choice."""
    return torch.floor(x / SNAP + 0.5) * SNAP


def unit(x: Tensor) -> Tensor:
    """Rows of unit length in float32; a zero row stays zero. Raises UserError for NaN or inf."""
    x = x.float()
    norm: Tensor = x.norm(dim=-1, keepdim=True)
    said = "NaN or infinity in the features; a selection from them would be arbitrary. Try another --dtype."
    doubt(~torch.isfinite(norm).all(), lambda: UserError(said))
    return torch.div(x, norm.clamp_min(EPS))


def require_picks(k: int, n: int) -> None:
    """UserError for a number of picks that n tokens cannot give."""
    if not 1 <= k <= n:
        raise UserError(f"cannot pick {k} of {n} tokens")


def diagonal(weight: Tensor, real: Tensor) -> Tensor:
    """The diagonal of diag(w) S diag(w): w^2, and 0 where a token is not `real` (of no length). Not taken from a product, whose
    rounding would decide among equal weights."""
    return weight * weight * real


def asked(query: Tensor | None, query_mask: Tensor | None, instead: str = "diversity") -> TypeGuard[Tensor]:
    """Whether any sample has a question. If none has, a warning says what tokens are selected by instead."""
    if query is not None and (query_mask is None or bool(query_mask.any())):
        return True
    warnings.warn(f"no question text to condition on: tokens are selected by {instead} alone", stacklevel=4)
    return False


def relevance(
    keys: Tensor | None, query: Tensor | None, query_mask: Tensor | None = None, *, sign: int = 1, per_tile: bool = False
) -> Tensor | None:
    """(B, G, N) relevance of tokens `keys` (B, G, N, C) to a question `query` (B, M, C), min-max normalised to [0, 1].

    The mean cosine over the question's rows, times `sign`. Minimum and maximum are those of the image (all tiles), or of each
    tile; 1e-6 is added to the numerator only, as CDPruner's release does. A range below 1e-6 gives 1 everywhere (plain
    diversity), where the release divides by zero. None, with a warning, where there is no question.
    """
    query = None if keys is None else query
    if not asked(query, query_mask):
        return None
    assert keys is not None
    rows = unit(query)
    if query_mask is None:
        direction = rows.mean(1)
    else:
        weight = query_mask.to(rows.dtype)
        direction = (rows * weight[..., None]).sum(1) / weight.sum(1, keepdim=True).clamp_min(1)
    rho = sign * torch.einsum("bgnc,bc->bgn", unit(keys), direction)
    dims = (-1,) if per_tile else (-2, -1)
    low, high = rho.amin(dims, keepdim=True), rho.amax(dims, keepdim=True)
    span = high - low
    return torch.where(span < _FLAT, torch.ones_like(rho), (rho - low + 1e-6) / span.clamp_min(_FLAT))
