"""Sequential Prune (release: LeeBumSeok/SequentialPrune): a few visual tokens less at the entry of each of several layers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import UserError
from ._attended import Attended
from ._schedule import events, sequential, solve_sequential
from .base import Method


@dataclass(frozen=True)
class SeqPrune(Attended, Method):  # Method by name: so the list of methods finds it
    """Tokens that the last prompt token attends to most, fewer from layer to layer.

    At the entry of layer `first_layer` and of each layer after it, `step` percent of all visual tokens go, those that the last
    valid prompt token attended to least in the layer before (mean over heads in fp32; ties: the later token goes). The last
    event removes what is still missing, between one and two steps. Counts are the release's, truncated in doubles.

    removed: the share of visual tokens that is gone in the end, as in the budget `r75k2`; none: it follows from the budget, the
        mean number of visual tokens over all layers, never more. At an equal share it is at least what FastV spends.
    first_layer: the first layer that sees fewer tokens; its predecessor's attention decides.
    step: percent of all visual tokens per layer. A budget below what gentle steps can reach is an error that says what can be.
    per: `sample`, all images and frames of a sample in one ranking; `image` or `frame`: each keeps its share of what stays.
    reprune_each_step: select again at every step of a generation without a cache, as the release always does; for parity.

    Deviations from the release: every sample decides for itself, where its first one decides for the whole batch; several
    images, or none, work, where it crashes; padding stays masked, where the mask is lost; the last valid prompt token asks,
    where with padding on the right a padding token would; heads are averaged in fp32, where it is the model's precision; tokens
    are chosen once, in prefill, and decoding uses the cache, where every step runs the whole model again and chooses anew;
    `step` is always heeded, where some of its wrappers never pass it on. No paper is known.
    """

    needs = frozenset({"attention", "image", "frame"})
    union = True
    removed: float | None = None
    first_layer: int = 2
    per: Literal["sample", "image", "frame"] = "sample"
    reprune_each_step: bool = False
    step: float = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step <= 100 or math.isinf(1 / (self.step / 100)):
            raise UserError(f"'{self.name}' needs a step above 0 and at most 100 percent per layer (10), not {self.step}.")

    def schedule(self, removed: float, n_visual: int, n_layers: int) -> dict[int, int]:
        return sequential(removed, n_visual, n_layers, self.first_layer, self.step)

    def solved(self, budget: int, n_visual: int, n_layers: int) -> float:
        return solve_sequential(budget, n_visual, n_layers, self.first_layer, self.step)

    def events(self, removed: float) -> int:
        return events(removed, self.step)
