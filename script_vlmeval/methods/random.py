"""Uniformly random tokens: the floor that a method must beat, and at moderate budgets often does not."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .base import Method, Visual


@dataclass(frozen=True)
class Random(Method):
    """Keep random tokens, drawn anew for every sample from its own seed.

    The draw happens on the CPU, so a sample keeps the same tokens on every device and in every batch.
    """

    needs = frozenset({"seed"})

    def score(self, visual: Visual) -> Tensor:
        assert visual.seed is not None
        _, tiles, n = visual.shape
        draws = [torch.rand(tiles, n, generator=torch.Generator().manual_seed(s)) for s in visual.seed.tolist()]
        return torch.stack(draws).to(visual.tokens.device)
