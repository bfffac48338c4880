"""Asking a method for its tokens and saying, in plain words, what is malformed in the answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..methods import Method, Reduced, Visual
from .outcome import LawBroken

NORMALISED = "is something normalised over all?"  # where an image alone and one in a batch differ


def ask(method: Method, visual: Visual, k: int) -> Reduced:
    """`method(visual, k)`; where the result is malformed, LawBroken says in what."""
    seen, k_seen = method.guarded(visual, k)
    if k_seen < seen.shape[2]:
        if type(method).reduce is Method.reduce:  # before anything is gathered with them
            _examine_keep(seen, k_seen, method.select(seen, k_seen))
        reduced = method.reduce(seen, k_seen)
        _examine_keep(seen, k_seen, reduced.keep)
        _examine_tokens(seen, k_seen, reduced.tokens)
    return method(visual, k)


def _examine_keep(visual: Visual, k: int, keep: Tensor) -> None:
    """k different, ascending indices below N, any number of -1 at the end."""
    b, g, n = visual.shape
    if tuple(keep.shape) != (b, g, k):
        raise LawBroken(f"asked for k={k} of N={n} tokens, it returned indices of shape {tuple(keep.shape)}, not {(b, g, k)}")
    if keep.dtype != torch.long:
        raise LawBroken(f"its indices are {_short(keep.dtype)}, not int64")
    for index in keep.flatten(0, 1).tolist():
        if complaint := _complaint(index, n):
            raise LawBroken(f"{complaint}: it kept {listed(index)}")


def _examine_tokens(visual: Visual, k: int, tokens: Tensor) -> None:
    """Finite features, as many as asked for, in the tokens' own precision."""
    expected = (*visual.shape[:2], k, visual.tokens.shape[-1])
    if tuple(tokens.shape) != expected:
        raise LawBroken(f"its features have shape {tuple(tokens.shape)}, not {expected}")
    if tokens.dtype != visual.tokens.dtype:
        raise LawBroken(f"tokens went in as {_short(visual.tokens.dtype)} and came back as {_short(tokens.dtype)}")
    if not bool(torch.isfinite(tokens).all()):
        raise LawBroken("the features that it returned hold NaN or infinity, though none went in")


def _complaint(index: Sequence[int], n: int) -> str:
    """What is wrong with the kept indices of one tile; nothing where they are well formed."""
    real = [i for i in index if i >= 0]
    if min(index) < -1:
        return f"index {min(index)} is negative (-1 alone is allowed, for a token without a place)"
    if max(index) >= n:
        return f"index {max(index)} does not exist, as N={n}"
    if len(set(real)) < len(real):
        twice = next(i for i in real if real.count(i) > 1)
        return f"index {twice} is kept {real.count(twice)} times"
    if list(index) != [*sorted(real), *[-1] * (len(index) - len(real))]:
        return "the indices do not ascend (with -1 at the end)" if -1 in index else "the indices do not ascend"
    return ""


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def listed(index: Sequence[int] | Tensor) -> str:
    values = list(index.tolist() if isinstance(index, Tensor) else index)
    return f"{values}" if len(values) <= 12 else f"[{', '.join(map(str, values[:12]))}, ...]"


def differ(ours: Tensor, theirs: Tensor) -> str:
    """The first tile in which two selections differ."""
    b, g = (ours != theirs).any(-1).nonzero()[0].tolist()
    return f"image {b}, tile {g}: {listed(ours[b, g])} and {listed(theirs[b, g])}"
