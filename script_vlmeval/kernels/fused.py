"""Greedy selection as one Triton launch: one program per tile, the loop over picks inside, nothing asked of the host.

The similarity of all pairs is one matrix product before it (tensor cores where the features are in half precision, whose
products are exact in float32); the launch reads one row of it per pick. Residual, weights and what is still free stay in
registers; the Cholesky rows go to global memory and come back through the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..doubts import doubt
from ..errors import UserError
from .basic import EPS, FLOOR, SNAP, diagonal, snapped

try:
    import triton
    import triton.language as tl
except ImportError:  # not every build of PyTorch brings it
    triton = None

LARGEST = 16_384  # tokens per tile that one program holds
_SPAN = 8  # Cholesky rows read at a time
_AT_ONCE = 1 << 29  # similarities in memory: 2 GB


def serves(features: Tensor) -> bool:
    """Whether the launch can be used for features (R, N, D): on a CUDA device, with Triton, and tiles that fit a program."""
    return triton is not None and features.is_cuda and features.shape[1] <= LARGEST


def similarity(features: Tensor) -> Tensor:
    """(R, N, N) products of the rows of features (R, N, D), in float32. Those of half-precision rows are exact products."""
    exact = "dtype" in torch.ops.aten.bmm.overloads()  # since torch 2.8 a product of halves may be float32
    if exact and features.is_cuda and features.dtype in (torch.float16, torch.bfloat16):
        return torch.bmm(features, features.transpose(1, 2), out_dtype=torch.float32)
    x = features.float()
    return torch.bmm(x, x.transpose(1, 2))


def greedy_map(features: Tensor, weight: Tensor | None, k: int, allowed: Tensor | None, forced: Tensor | None) -> Tensor:
    """(R, k) picks, as `dpp.greedy_map` defines them. UserError for NaN or infinity."""
    if (parts := _parts(features)) > 1:
        each = [(None,) * parts if x is None else x.chunk(parts) for x in (weight, allowed, forced)]
        return torch.cat([greedy_map(x, w, k, a, f) for x, w, a, f in zip(features.chunk(parts), *each, strict=True)])
    products = similarity(features)
    length = products.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    w = torch.ones_like(length) if weight is None else weight.float()
    scale, own = (w / length.clamp_min(EPS)).contiguous(), diagonal(w, length >= EPS).contiguous()
    rows, n = scale.shape
    picks = torch.empty(rows, k, dtype=torch.long, device=scale.device)
    basis = scale.new_empty(rows, k, n)
    free = None if allowed is None else allowed.to(torch.int8).contiguous()
    given = None if forced is None else forced.long().contiguous()
    _launch(_map_kernel, rows, n, (products, scale, own, free, given, basis, picks, n, k))
    return _sound(picks, length, w)


def _parts(features: Tensor) -> int:
    """Into how many parts the tiles are split, so that their similarities fit into memory."""
    rows, n, _ = features.shape
    return len(torch.empty(rows, device="meta").chunk(-(-rows * n * n // _AT_ONCE)))


def _sound(picks: Tensor, *given: Tensor) -> Tensor:
    """The picks. UserError where something is not finite; where doubts are gathered, harmless picks until they are settled."""
    finite = torch.stack([torch.isfinite(x).all(1) for x in given]).all(0)
    said = "NaN or infinity in the features or weights; a selection from them would be arbitrary. Try another --dtype."
    doubt(~finite.all(), lambda: UserError(said))
    return picks.masked_fill(~finite[:, None], 0)


def farthest_first(features: Tensor, k: int, gate: Tensor | None) -> Tensor:
    """(R, k) picks, as `maxmin.farthest_first` defines them. UserError for NaN or infinity."""
    if (parts := _parts(features)) > 1:
        gates = [None] * parts if gate is None else gate.chunk(parts)
        return torch.cat([farthest_first(x, k, g) for x, g in zip(features.chunk(parts), gates, strict=True)])
    cosine = similarity(features)
    length = cosine.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    scale = 1 / length.clamp_min(EPS)
    cosine *= scale[:, :, None]
    cosine *= scale[:, None]
    cosine.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    first = snapped(1 - cosine.amax(-1)).argmax(-1)
    rows, n = scale.shape
    picks = torch.empty(rows, k, dtype=torch.long, device=scale.device)
    _launch(_maxmin_kernel, rows, n, (cosine, None if gate is None else gate.float().contiguous(), first, picks, n, k))
    return _sound(picks, length)


def _launch(kernel: Any, rows: int, n: int, arguments: tuple[Any, ...]) -> None:
    block = triton.next_power_of_2(n)
    constants = (
        {"BLOCK": block, "SPAN": _SPAN, "LEAST": FLOOR, "TINY": EPS} if kernel is _map_kernel else {"BLOCK": block, "STEP": SNAP}
    )
    kernel[(rows,)](*arguments, **constants, num_warps=min(16, max(4, block // 128)))


# The kernels' parameters have no types that a type checker knows, and constants are capitals by Triton's custom.
# ruff: noqa: ANN001, ANN202
if triton is not None:

    @triton.jit  # type: ignore[untyped-decorator]
    def _map_kernel(  # type: ignore[no-untyped-def]
        products,
        scale,
        diagonal,
        allowed,
        forced,
        basis,
        picks,
        n,
        k,
        BLOCK: tl.constexpr,
        SPAN: tl.constexpr,
        LEAST: tl.constexpr,
        TINY: tl.constexpr,
    ):
        tile = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        real = at < n
        products += tile * n * n
        basis += tile * k * n
        w = tl.load(scale + tile * n + at, mask=real, other=0.0)
        own = tl.load(diagonal + tile * n + at, mask=real, other=0.0)
        left = real
        free = real
        if allowed is not None:
            free = free & (tl.load(allowed + tile * n + at, mask=real, other=0) != 0)
        residual = own
        for i in range(k):
            waiting = tl.where(free, residual, -1.0)
            j = tl.argmax(waiting, axis=0, tie_break_left=True)
            spare = tl.where(tl.max(free.to(tl.int32), axis=0) > 0, free, left)
            spent = tl.argmax(tl.where(spare, own, -1.0), axis=0, tie_break_left=True)
            j = tl.where(tl.max(waiting, axis=0) > 0, j, spent)
            if forced is not None:
                given = tl.load(forced + tile * k + i).to(tl.int32)
                j = tl.where(given >= 0, given, j)
            j = tl.minimum(j, n - 1)  # among NaN alone the padding wins
            tl.store(picks + tile * k + i, j.to(tl.int64))
            here = at == j
            left = left & (at != j)
            free = free & left
            now = tl.sum(tl.where(here, residual, 0.0), axis=0)
            noise = LEAST * tl.sum(tl.where(here, own, 0.0), axis=0)
            mine = tl.sum(tl.where(here, w, 0.0), axis=0)
            row = tl.load(products + j * n + at, mask=real, other=0.0) * w * mine
            for start in range(0, i, SPAN):
                s = start + tl.arange(0, SPAN)
                part = tl.load(basis + s[:, None] * n + at[None, :], mask=(s < i)[:, None] & real[None, :], other=0.0)
                share = tl.load(basis + s * n + j, mask=s < i, other=0.0)
                row -= tl.sum(part * share[:, None], axis=0)
            step = tl.where(now > noise, tl.rsqrt(tl.maximum(now, TINY)), 0.0) * row
            tl.store(basis + i * n + at, step, mask=real)
            tl.debug_barrier()  # the next pick reads what other threads have written
            residual -= step * step
            residual = tl.where(residual <= LEAST * own, 0.0, residual)

    @triton.jit  # type: ignore[untyped-decorator]
    def _maxmin_kernel(cosine, gate, first, picks, n, k, BLOCK: tl.constexpr, STEP: tl.constexpr):  # type: ignore[no-untyped-def]
        tile = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, BLOCK)
        real = at < n
        cosine += tile * n * n
        free = real
        nearest = tl.full((BLOCK,), float("inf"), tl.float32)
        j = tl.load(first + tile).to(tl.int32)
        for i in range(k):
            tl.store(picks + tile * k + i, j.to(tl.int64))
            free = free & (at != j)
            distance = 1.0 - tl.load(cosine + j * n + at, mask=free, other=0.0)
            nearest = tl.minimum(nearest, tl.floor(distance / STEP + 0.5) * STEP)
            score = nearest
            if gate is not None:
                score = nearest * tl.load(gate + tile * n + at, mask=real, other=0.0)
            j = tl.argmax(tl.where(free, score, float("-inf")), axis=0, tie_break_left=True)
            j = tl.minimum(j, n - 1)
