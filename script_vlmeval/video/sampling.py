"""Which frames are shown: so many, or so many a second, of a span, by a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import UserError

Sampler = Literal["ends", "inner", "middle"]
SAMPLERS: tuple[Sampler, ...] = get_args(Sampler)

_SAME = 1e-6  # seconds: a frame that is so near to a bound lies on it


def chosen(total: int, frames: int, sampler: Sampler = "ends") -> list[int]:
    """Ascending indices of the frames to show, all different; a file with no more frames than wanted shows each of them once,
    where LLaVA and VLMEvalKit would repeat some.

    ends: evenly from the first to the last frame, as LLaVA's loaders do. inner: evenly without the ends, VLMEvalKit's rule.
    middle: the middle of as many equal segments, MVBench's rule to within a frame.
    """
    import numpy as np

    check(frames, sampler)
    if total <= frames:
        return list(range(total))
    if sampler == "ends":
        evenly: list[int] = np.linspace(0, total - 1, frames).astype(int).tolist()
        return evenly
    if sampler == "middle":
        return [int((i + 0.5) * total / frames) for i in range(frames)]
    step = total / (frames + 1)  # rounded before it is multiplied: another order moves a frame now and then
    return [int(i * step) for i in range(1, frames + 1)]


def check(frames: int | None, sampler: str) -> None:
    """UserError for a number of frames or a sampler that cannot be."""
    if frames is None or frames < 1:
        raise UserError(f"A video cannot be shown in {frames or 0} frames: ask for 1 or more.")
    if sampler not in SAMPLERS:
        raise UserError(f"Frames are sampled by {', '.join(map(repr, SAMPLERS[:-1]))} or {SAMPLERS[-1]!r}, not {sampler!r}.")


@dataclass(frozen=True)
class Wanted:
    """Which frames are asked for. frames: 0 for no limit; fps: a second; start, end: seconds."""

    frames: int
    sampler: Sampler
    fps: float | None = None
    start: float | None = None
    end: float | None = None

    @property
    def span(self) -> str:
        return (
            f"from {0.0 if self.start is None else self.start:g} to {'its end' if self.end is None else f'{self.end:g}'} seconds"
        )

    def among(self, times: Sequence[float], rate: float) -> list[int]:
        """Indices of the frames to show. times: of all frames, ascending; heeded only where a span was asked for. rate: of the
        file, in frames a second, 0 where unknown. Empty where no frame lies in the span."""
        inside: Sequence[int] = range(len(times))
        if self.start is not None or self.end is not None:
            low, high = (-math.inf if self.start is None else self.start), (math.inf if self.end is None else self.end)
            inside = [i for i, time in enumerate(times) if low - _SAME <= time <= high + _SAME]
        if not inside:
            return []
        if self.fps is None:
            return [inside[i] for i in chosen(len(inside), self.frames, self.sampler)]
        count = max(1, int(len(inside) / rate * self.fps)) if rate else 1
        if self.frames and count > self.frames:
            return [inside[i] for i in chosen(len(inside), self.frames, self.sampler)]
        if count >= len(inside):
            return list(inside)
        step = rate / self.fps
        return [inside[int(i * step)] for i in range(count)]

    def missing(self, path: object, duration: float) -> ValueError:
        """The error for a video that has no frame in the span."""
        return ValueError(f"cannot read video {path}: it has no frame {self.span}, and lasts {duration:.1f}")
