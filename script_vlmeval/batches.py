"""Which rows are asked together: chunks for processes, batches of near-equal length, and as many samples as memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

LARGEST = 256  # samples in a batch whose size is found by trying
_FIRST = 8  # where trying begins
_ON_CPU = 32
_FILL = 0.85  # of the memory at hand may be planned with; the rest is for what blocks of memory do not fit together
_BATCHES, _ROWS = 8, 512  # at most so many in a chunk: enough to sort by, few enough to lose when a process is killed
_ROUNDS = 8  # chunks for each process, so that the slowest is at most an eighth behind
_FEW = 64  # rows of a chunk that keep a GPU busy


def chunks(lengths: Sequence[float], size: int, about: Sequence[Hashable] = ()) -> list[NDArray[np.intp]]:
    """Positions of all rows, longest first and otherwise in their order, in pieces of `size`.

    about: what each is about, such as a picture: rows about the same stand together, where their longest stands.

    A batch that does not fit into memory is met at once, and the last pieces of several processes are short ones. Every process
    that asks gets the same list.
    """
    first: dict[Hashable, int] = {}
    group = np.asarray([first.setdefault(one, len(first)) for one in about or range(len(lengths))], dtype=np.intp)
    length = np.asarray(lengths, dtype=np.float64)
    longest = np.zeros(len(first))
    np.maximum.at(longest, group, length)
    order = np.lexsort((-length, group, -longest[group]))
    return [order[start : start + size] for start in range(0, len(order), size)]


def chunk_size(rows: int, batch: int, processes: int, auto: bool) -> int:
    """How many rows are dealt to a process at a time: whole batches.

    As many as are worth sorting by the true size of their pictures, as few as leave each process several chunks: at the end
    none waits long for another. auto: `batch` is the largest that may be reached, and a chunk may be smaller where processes
    would go without.
    """
    most = max(1, min(_BATCHES, _ROWS // batch))
    if processes == 1:
        return batch * most
    share = rows // (_ROUNDS * processes)
    if auto and share < batch:
        return max(1, share, min(_FEW, batch, math.ceil(rows / processes)))
    return batch * max(1, min(most, share // batch))


def cuts(costs: Sequence[float], most: Callable[[], int], ratio: float = 2.0) -> Iterator[list[int]]:
    """Positions by cost, dearest first, in batches, each as large as `most` allows when it is asked for. In none is the dearest
    above `ratio` times the cheapest: more than half of the cheapest row would be padding."""
    order = sorted(range(len(costs)), key=lambda at: -costs[at])  # stable
    start = 0
    while start < len(order):
        near = order[start : start + max(1, most())]
        end = next((i for i, at in enumerate(near) if costs[near[0]] > ratio * costs[at]), len(near))
        yield near[:end]
        start += end


class Meter:
    """Memory of the GPUs that hold a model, in bytes, one number for each. It reads counters and waits for nothing."""

    def __init__(self, devices: Sequence[int]) -> None:
        self.devices = devices

    @classmethod
    def of(cls, device: str) -> Meter | None:
        """device: cpu, cuda, cuda:1, or `all`. None where it is no GPU."""
        kind, _, number = device.partition(":")
        if kind == "all":
            devices = range(_gpus().device_count())
            return cls(devices) if devices else None
        if kind != "cuda":
            return None
        return cls([int(number) if number else _gpus().current_device()])

    def reset(self) -> tuple[int, ...]:
        """Forget the peak. What is taken now."""
        for device in self.devices:
            _gpus().reset_peak_memory_stats(device)
        return tuple(_gpus().memory_allocated(device) for device in self.devices)

    def peak(self) -> tuple[int, ...]:
        """The most that was taken since the last reset."""
        return tuple(_gpus().max_memory_allocated(device) for device in self.devices)

    def total(self) -> tuple[int, ...]:
        """What this process may take in all: what it has, also unused, and what nobody has."""
        return tuple(_gpus().mem_get_info(device)[0] + _gpus().memory_reserved(device) for device in self.devices)


class Sizer:
    """How many samples go into a batch: `now`. Made once the model is loaded, since memory is counted from there.

    A size that is found by trying begins at 8 on a GPU and doubles after a full batch, while the memory of twice as many is
    there, up to 256. Memory is taken to grow with the size in proportion, which holds as long as later batches are no longer
    than earlier ones. On a CPU it is 32 and stays: more brings nothing there.
    """

    def __init__(self, now: int, most: int, meter: Meter | None = None) -> None:
        self.now, self.most, self.meter = now, most, meter
        self._base = meter.reset() if meter else ()

    @classmethod
    def of(cls, wanted: str | int, meter: Meter | None) -> Sizer:
        """wanted: `auto` or a number; meter: None on a CPU. UserError for anything else."""
        if wanted == "auto":
            return cls(_FIRST, LARGEST, meter) if meter else cls(_ON_CPU, _ON_CPU)
        if not isinstance(wanted, int) or wanted < 1:
            raise UserError(f"The batch size {wanted!r} is neither a number of 1 or more nor 'auto'.")
        return cls(wanted, wanted)

    def fitted(self, size: int) -> None:
        """A batch of that size went through in all configurations."""
        if self.meter is None:
            return
        larger = min(2 * self.now, self.most)
        if size >= self.now < larger and self._fits(larger / size):
            self.now = larger
        self._forget()

    def failed(self, size: int) -> None:
        """A batch of that size did not fit into memory: from now on at most half of it, for good."""
        self.most = min(self.most, max(1, size // 2))
        self.now = min(self.now, self.most)
        self._forget()

    def _fits(self, times: float) -> bool:
        """Whether so many times the last batch would fit, on every GPU."""
        assert self.meter is not None
        readings = zip(self._base, self.meter.peak(), self.meter.total(), strict=True)
        return all(base + times * (peak - base) <= _FILL * total for base, peak, total in readings)

    def _forget(self) -> None:
        """Measure anew. What the last batch still holds is no part of the base."""
        if self.meter is not None:
            self._base = tuple(map(min, self._base, self.meter.reset()))


def _gpus() -> Any:
    """torch.cuda, typed in some releases of torch only."""
    import torch

    return torch.cuda
