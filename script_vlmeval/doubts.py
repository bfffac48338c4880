"""Doubts about tensors, settled together: to look at a number is to wait until an accelerator has computed it.

A guard that must see a tensor's values says what would be wrong. By itself it looks at once; within `gathered` the doubts wait
for the next time that somebody has to look anyhow, and one transfer brings all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

import torch
from torch import Tensor

Error: TypeAlias = Callable[[], "Exception | None"]  # what to raise; None where a second look finds nothing wrong

_open: ContextVar[list[tuple[Tensor, Error]] | None] = ContextVar("doubts", default=None)


def doubt(wrong: Tensor, error: Error) -> None:
    """Raise where `wrong`, one boolean, is true: now or, within `gathered`, when the doubts are settled."""
    found = _open.get()
    if found is not None:
        found.append((wrong, error))
    elif bool(wrong):
        _raise(error)


def gathering() -> bool:
    """Whether doubts wait: what comes of doubtful values must be harmless until then."""
    return _open.get() is not None


@contextmanager
def gathered() -> Iterator[None]:
    """Doubts within wait for `settle`; those that nobody settled are at the end. Where something else fails, a doubt may say why
    it did, and goes first."""
    token = _open.set([])
    try:
        try:
            yield
        except Exception:
            settle()
            raise
        settle()
    finally:
        _open.reset(token)


def settle(*numbers: Tensor) -> list[int]:
    """These whole numbers, one element each, and the doubts, in one transfer. Raises what the first justified doubt says."""
    found = _open.get() or []
    waiting = found[:]
    found.clear()
    if not numbers and not waiting:
        return []
    where = (numbers or [wrong for wrong, _ in waiting])[-1].device
    told = torch.stack([x.reshape(()).to(where, torch.long) for x in (*numbers, *(wrong for wrong, _ in waiting))]).tolist()
    for yes, (_, error) in zip(told[len(numbers) :], waiting, strict=True):
        if yes:
            _raise(error)
    return list(map(int, told[: len(numbers)]))


def _raise(error: Error) -> None:
    if (found := error()) is not None:
        raise found
