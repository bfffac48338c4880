"""What FastV and Sequential Prune share: tokens are ranked by what the last prompt token attends to, at the entry of layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from ._schedule import require_layer
from .base import Method, Visual, require_finite

UNITS = ("sample", "image", "frame")


@dataclass(frozen=True)
class Attended(Method, register=False):
    """A schedule over layers, and the order of the tokens at each. Subclasses say what the schedule is, and repeat the fields,
    since the list of methods is read from their files."""

    removed: float | None = None
    first_layer: int = 2
    per: Literal["sample", "image", "frame"] = "sample"
    reprune_each_step: bool = False

    def __post_init__(self) -> None:
        if self.removed is not None and not 0 <= self.removed <= 1:
            raise UserError(f"'{self.name}' needs removed from 0 to 1, the share that goes (0.75), not {self.removed}.")
        if self.first_layer < 1:
            raise UserError(
                f"'{self.name}' needs first_layer of at least 1, not {self.first_layer}: the layer before tells what to keep."
            )
        if self.per not in UNITS:
            raise UserError(f"'{self.name}' has per 'sample', 'image' or 'frame', not {self.per!r}.")

    # -- how many ------------------------------------------------------------------------------------------------------------
    def schedule(self, removed: float, n_visual: int, n_layers: int) -> dict[int, int]:
        """Stage -> visual tokens kept from there on, when this share is removed."""
        raise NotImplementedError

    def solved(self, budget: int, n_visual: int, n_layers: int) -> float:
        """The share to remove so that the mean over all layers is `budget`, or as little below it as can be."""
        raise NotImplementedError

    def events(self, removed: float) -> int:
        """How many stages the schedule has in a model of enough layers."""
        return 1

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        if budget is not None and self.removed is not None:
            raise UserError(
                f"A budget of {budget} visual tokens contradicts removed={self.removed:g} of '{self.name}': give one of the "
                f"two, or the schedule as the budget ({self._budget(self.removed, self.first_layer)})."
            )
        if budget is not None:
            return self.schedule(self.solved(budget, n_visual, n_layers), n_visual, n_layers)
        if self.removed is None:
            raise UserError(
                f"'{self.name}' was not told how much to remove: give as budget a number of visual tokens (64), a share "
                f"(25pct) or a schedule (r75k2), or set removed=0.75."
            )
        require_layer(self.first_layer, n_layers)
        stages = self.schedule(self.removed, n_visual, n_layers)
        self._warn(self.removed, len(stages), n_layers)
        return stages

    def _warn(self, removed: float, stages: int, n_layers: int) -> None:
        """What a published schedule does not do as asked."""
        if not stages:
            warnings.warn(
                f"no pruning: '{self.name}' with removed={removed:g} removes less than its first step would.", stacklevel=3
            )
        elif stages < (wanted := self.events(removed)):
            warnings.warn(
                f"target not reached: '{self.name}' removes {removed:g} in {wanted} layers from layer {self.first_layer} on, "
                f"and this model has {n_layers} in all.",
                stacklevel=3,
            )

    def scheduled(self, removed: float, first_layer: int) -> Method:
        budget = self._budget(removed, first_layer)
        if self.removed not in (None, removed):
            raise UserError(f"The budget {budget} contradicts removed={self.removed:g} of '{self.name}': give one of the two.")
        if self.first_layer not in (type(self).first_layer, first_layer):
            raise UserError(
                f"The budget {budget} contradicts first_layer={self.first_layer} of '{self.name}': give one of the two."
            )
        return replace(self, removed=removed, first_layer=first_layer)

    @staticmethod
    def _budget(removed: float, first_layer: int) -> str:
        """How the schedule is written as a budget."""
        return f"r{100 * removed:g}k{first_layer}"

    def reprunes(self) -> bool:
        return self.reprune_each_step

    # -- which ---------------------------------------------------------------------------------------------------------------
    @property
    def nested(self) -> bool:
        """Shares of units are rounded anew at each budget, so a unit may lose a token where the budget grows by one."""
        return self.per == "sample"

    def order(self, visual: Visual, k: int) -> Tensor:
        score = visual.attention
        if score is None:
            raise UserError(
                f"'{self.name}' works inside the language model, from layer 1 on: before it, nothing has attended yet."
            )
        require_finite(score, f"the attention given to '{self.name}'")
        order = score.sort(dim=-1, descending=True, stable=True).indices
        if self.per == "sample":
            return order[..., :k]
        unit = visual.image if self.per == "image" else visual.frame
        assert unit is not None
        return best_of_each(order, unit, k)


def best_of_each(order: Tensor, unit: Tensor, k: int) -> Tensor:
    """(..., k) of the indices `order` (..., N), best first: of each unit its best, as many as its share of the N tokens.

    unit (..., N): which unit a token is of, any whole numbers. Shares k n_u / n are rounded down; what is left goes to the
    largest fractions, ties to the lower unit.
    """
    n = unit.shape[-1]
    number = _numbered(unit)
    there = torch.zeros_like(number).scatter_add_(-1, number, torch.ones_like(number))  # tokens of each unit; N units at most
    quota = _quotas(there, min(k, n), n)
    mine = number.gather(-1, order)  # from here on best first
    grouped = mine.sort(dim=-1, stable=True).indices  # unit after unit
    first = there.cumsum(-1) - there
    place = torch.arange(n, device=unit.device) - first.gather(-1, mine.gather(-1, grouped))
    rank = torch.empty_like(number).scatter_(-1, grouped, place)  # within the unit
    dropped = rank >= quota.gather(-1, mine)
    return order.gather(-1, dropped.int().sort(dim=-1, stable=True).indices[..., :k])


def _numbered(unit: Tensor) -> Tensor:
    """The same units, numbered 0, 1, 2, ... without gaps."""
    values, at = unit.sort(dim=-1, stable=True)
    new = torch.zeros_like(at)
    new[..., 1:] = values[..., 1:] != values[..., :-1]
    return torch.empty_like(at).scatter_(-1, at, new.cumsum(-1))


def _quotas(there: Tensor, k: int, n: int) -> Tensor:
    """(..., U) how many of the k tokens each unit gets."""
    share, fraction = k * there // n, k * there % n
    turn = fraction.sort(dim=-1, descending=True, stable=True).indices.argsort(-1)
    return share + (turn < k - share.sum(-1, keepdim=True))
