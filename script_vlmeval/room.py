"""Memory between batches and between models."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)
_ALL, _STEP = 2**31 - 1, 1 << 28  # bytes


def let_go() -> None:
    """Give back the memory of what is no longer held, such as a batch that failed or a model."""
    gc.collect()  # an error's frames hold tensors, and each other
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def settled() -> Iterator[None]:
    """What is there now, hundreds of thousands of objects of imported packages, stays as long as this context: the garbage
    collector need not walk through it each time. What a caller settled before stays so."""
    before = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        if not before:
            gc.unfreeze()


def keep() -> bool:
    """Let a process that computes on a CPU keep the memory that it has had; whether the C library understood (glibc does).

    Left to itself glibc hands each block of more than 32 MB back to the system and asks for it again at the next operation, page
    by page, all of them zeroed: of a prefill of 32 prompts every activation. Costs nothing but that memory once needed stays.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all([mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, _ALL), mallopt(_TOP_PAD, _STEP)])
