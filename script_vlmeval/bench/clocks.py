"""Moments on a device. On a GPU they are events in its queue, so that taking one stalls nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch

Moment: TypeAlias = Any  # seconds of a CPU, or an event of a GPU


class Clock:
    """The clock of one device. Differences can be read after `settle`, the only call that waits."""

    def __init__(self, device: str) -> None:
        self.gpu = device != "cpu"

    def now(self) -> Moment:
        """Where the device's queue is when all that was asked of it so far is done."""
        if not self.gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        """Wait until the device has nothing left to do."""
        if self.gpu:
            torch.cuda.synchronize()

    def ms(self, begin: Moment, end: Moment) -> float:
        """Milliseconds between two moments."""
        return float(begin.elapsed_time(end)) if self.gpu else 1e3 * (end - begin)

    def forget_peak(self) -> None:
        """From now on `peak` counts anew."""
        if self.gpu:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> int | None:
        """The most bytes that tensors held at a time; None on a CPU, which does not count them."""
        return torch.cuda.max_memory_allocated() if self.gpu else None

    def held(self) -> int | None:
        """Bytes that tensors hold now; None on a CPU."""
        return torch.cuda.memory_allocated() if self.gpu else None


class Spans:
    """Stretches of time under names, which may happen several times."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self._found = clock, dict[str, list[tuple[Moment, Moment]]]()

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        begin = self.clock.now()
        yield
        self._found.setdefault(name, []).append((begin, self.clock.now()))

    def ms(self, name: str) -> float:
        """All stretches of that name together, once the clock is settled."""
        return sum(self.clock.ms(*span) for span in self._found.get(name, ()))
