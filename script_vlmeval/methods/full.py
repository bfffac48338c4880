"""No pruning: the reference that every other configuration is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .base import Method, Visual


@dataclass(frozen=True)
class Full(Method):
    """Keep every visual token."""

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        return {}

    def score(self, visual: Visual) -> Tensor:
        return visual.tokens.new_ones(visual.shape)
