"""FastV (Chen et al., ECCV 2024, arXiv 2403.06764): visual tokens that the prompt hardly attends to go after an early layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import UserError
from ._attended import Attended
from ._schedule import single, solve_single
from .base import Method


@dataclass(frozen=True)
class FastV(Attended, Method):  # Method by name: so the list of methods finds it
    """Tokens that the last prompt token attends to most, from an early layer on.

    At the entry of layer `first_layer`, those visual tokens stay that the last valid prompt token attended to most in the layer
    before (mean over heads in fp32; ties: the earlier token).

    removed: the share of visual tokens that goes, as in the budget `r75k2`; none: it follows from the budget, the mean number
        of visual tokens over all layers, never more. The layers before see all of them, so a small budget may leave none after.
    first_layer: the first layer that sees fewer tokens; its predecessor's attention decides.
    rounding: of what stays; `down`, or `nearest` (half to even) as in the release's variant for Hugging Face.
    per: `sample`, all images and frames of a sample in one ranking; `image` or `frame`: each keeps its share of what stays.
    reprune_each_step: select again at every step of a generation without a cache, as Sequential Prune's release does with this
        schedule, too; for parity.

    Deviations from the releases (FastV's, and Sequential Prune's, which contains it): every sample decides for itself, where
    the first one decides for the whole batch; the image is where its tokens are, where FastV's takes a fixed place; several
    images, or none, work, where Sequential Prune's crashes; padding stays masked, where the mask is lost; the last valid prompt
    token asks, where with padding on the right a padding token would; heads are averaged in fp32, where it is the model's
    precision; tokens are chosen once, in prefill, and decoding uses the cache, as FastV's variant for Hugging Face does, where
    Sequential Prune's release runs the whole model again at each step and chooses anew.
    """

    needs = frozenset({"attention", "image", "frame"})
    union = True
    removed: float | None = None
    first_layer: int = 2
    per: Literal["sample", "image", "frame"] = "sample"
    reprune_each_step: bool = False
    rounding: Literal["down", "nearest"] = "down"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounding not in ("down", "nearest"):
            raise UserError(f"'{self.name}' has rounding 'down' or 'nearest', not {self.rounding!r}.")

    def schedule(self, removed: float, n_visual: int, n_layers: int) -> dict[int, int]:
        return single(removed, n_visual, self.first_layer, self.rounding == "nearest")

    def solved(self, budget: int, n_visual: int, n_layers: int) -> float:
        return solve_single(budget, n_visual, n_layers, self.first_layer, self.rounding == "nearest")
