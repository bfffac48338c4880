"""How many visual tokens a stage inside the language model may keep, so that the mean over all layers is the budget.

Published schedules take a share to remove. They are evaluated in doubles and truncated exactly as in the releases: of 100
tokens the sixth step of 10 percent leaves 39. Of such a family, `solve_single` and `solve_sequential` find the share whose mean
is nearest to a budget from below.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from ..errors import UserError

_WIDER = (10, 15, 20, 25, 30, 40, 50)  # steps to suggest, in percent; beyond 50 nothing is gained


def uniform(budget: int, n_visual: int, n_layers: int, first_layer: int) -> int:
    """Tokens from `first_layer` on, after layers that see all n_visual: the most whose mean over all layers is at most `budget`.

    Raises UserError for a budget that even one token from there on exceeds, and for a model without that layer.
    """
    if budget >= n_visual:
        return n_visual
    require_layer(first_layer, n_layers)
    later = n_layers - first_layer
    kept = (budget * n_layers - first_layer * n_visual) // later
    if kept < 1:
        floor, lowest = (-(-(first * n_visual + n_layers - first) // n_layers) for first in (first_layer, 1))
        earlier = f", {lowest} with layer=1" if first_layer > 1 else ""
        raise UserError(
            f"A mean of {budget} visual tokens per layer cannot be had: {first_layer} of {n_layers} layers see all {n_visual}. "
            f"The smallest budget here is {floor}{earlier}."
        )
    return kept


def require_layer(first_layer: int, n_layers: int) -> None:
    """UserError for a model that has no such layer."""
    if first_layer >= n_layers:
        raise UserError(f"Pruning at the entry of layer {first_layer} was asked for; this model has layers 0 to {n_layers - 1}.")


# -- one event: FastV ----------------------------------------------------------------------------------------------------------
def kept(removed: float, n_visual: int, nearest: bool = False) -> int:
    """Tokens left of n_visual: truncated, or rounded half to even."""
    share = (1 - removed) * n_visual
    return round(share) if nearest else int(share)


def single(removed: float, n_visual: int, first_layer: int, nearest: bool = False) -> dict[int, int]:
    """Stage -> tokens from there on: all that is removed goes at once. Empty where nothing does."""
    left = kept(removed, n_visual, nearest)
    return {first_layer: left} if left < n_visual else {}


@lru_cache(maxsize=4096)
def solve_single(budget: int, n_visual: int, n_layers: int, first_layer: int, nearest: bool = False) -> float:
    """The smallest share to remove whose `single` schedule has a mean of at most `budget`, and the largest such mean.

    0 for a budget of all tokens. UserError for one that the layers before `first_layer` exceed by themselves.
    """
    if budget >= n_visual:
        return 0.0
    require_layer(first_layer, n_layers)
    most = (budget * n_layers - first_layer * n_visual) // (n_layers - first_layer)
    if most < 0:
        floors = {"": -(-first_layer * n_visual // n_layers), "with first_layer=1": -(-n_visual // n_layers)}
        raise _unreachable(budget, f"{first_layer} of {n_layers} layers see all {n_visual}", floors)
    return _least(lambda removed: kept(removed, n_visual, nearest) <= most)


# -- an event per layer: Sequential Prune --------------------------------------------------------------------------------------
def events(removed: float, step: float) -> int:
    """How many layers in a row remove tokens; each but the last `step` percent of all, the last what is still missing."""
    return int(1 / (step / 100) * removed)


def sequential(removed: float, n_visual: int, n_layers: int, first_layer: int, step: float) -> dict[int, int]:
    """Stage -> tokens from there on, for the layers that the model has. Empty below one step."""
    count = events(removed, step)
    stages = range(first_layer, min(first_layer + count, n_layers))
    return {
        s: _after(s - first_layer, n_visual, step) if s < first_layer + count - 1 else kept(removed, n_visual) for s in stages
    }


@lru_cache(maxsize=4096)
def solve_sequential(budget: int, n_visual: int, n_layers: int, first_layer: int, step: float) -> float:
    """The share to remove whose `sequential` schedule has the largest mean of at most `budget`; the smallest of several.

    The mean is a sawtooth in the share, so each number of events is solved by itself. 0 for a budget of all tokens, UserError
    for one that no share reaches.
    """
    if budget >= n_visual:
        return 0.0
    require_layer(first_layer, n_layers)
    best, found = -1, 0.0
    for branch in _branches(n_visual, n_layers, first_layer, step):
        if (removed := branch.solve(budget * n_layers)) is not None and (total := branch.total(removed)) > best:
            best, found = total, removed
    if best < 0:
        raise _unreachable_in_steps(budget, n_visual, n_layers, first_layer, step)
    return found


@dataclass(frozen=True)
class _Branch:
    """The schedules with one number of events. All are the same but for what the last event leaves."""

    low: float  # the outermost doubles that give this number of events
    high: float
    n_visual: int
    fixed: int  # sum over the layers before the last event
    times: int  # layers after it; 0 where the model ends before

    def total(self, removed: float) -> int:
        """Visual tokens summed over all layers."""
        return self.fixed + self.times * kept(removed, self.n_visual)

    def solve(self, total: int) -> float | None:
        """The smallest share with the largest sum of at most `total`; None where there is none."""
        if self.total(self.high) > total:
            return None
        return max(self.low, _least(lambda removed: self.total(removed) <= total))


def _branches(n_visual: int, n_layers: int, first_layer: int, step: float) -> list[_Branch]:
    """All that differ, by rising share: what is beyond the model's last layer makes no difference."""
    later, most = n_layers - first_layer, events(1.0, step)
    found, fixed = list[_Branch](), first_layer * n_visual
    for count in range(1, min(most, later + 1) + 1):
        high = math.nextafter(_start(count + 1, step), 0) if count < most else 1.0
        found.append(_Branch(_start(count, step), high, n_visual, fixed, later - count + 1))
        fixed += _after(count - 1, n_visual, step)
    return found


def _after(event: int, n_visual: int, step: float) -> int:
    """Tokens left after an event, counted from 0, that is not the last."""
    return kept(step / 100 * (event + 1), n_visual)


@lru_cache(maxsize=4096)
def _start(count: int, step: float) -> float:
    """The smallest share with so many events."""
    return _least(lambda removed: events(removed, step) >= count)


def _least(holds: Callable[[float], bool]) -> float:
    """The smallest double of [0, 1] that a condition holds for; it holds for 1 and, where it does for one, for all above."""
    low, high = 0.0, 1.0
    if holds(low):
        return low
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


# -- what cannot be had --------------------------------------------------------------------------------------------------------
def _floor(n_visual: int, n_layers: int, first_layer: int, step: float) -> int:
    """The smallest whole budget that a sequential schedule reaches."""
    return -(-min(b.total(b.high) for b in _branches(n_visual, n_layers, first_layer, step)) // n_layers)


def _unreachable_in_steps(budget: int, n_visual: int, n_layers: int, first_layer: int, step: float) -> UserError:
    floors = {"": _floor(n_visual, n_layers, first_layer, step), "with first_layer=1": _floor(n_visual, n_layers, 1, step)}
    wider = {s: _floor(n_visual, n_layers, first_layer, s) for s in _WIDER if s > step}
    if wider:
        enough = next((s for s, floor in wider.items() if floor <= budget), min(wider, key=wider.__getitem__))
        floors[f"with step={enough}"] = wider[enough]
    why = f"{first_layer} of {n_layers} layers see all {n_visual}, and later ones lose {step:g} percent each"
    return _unreachable(budget, why, floors)


def _unreachable(budget: int, why: str, floors: dict[str, int]) -> UserError:
    """floors: what the smallest budget is, here ("") and otherwise."""
    here = floors[""]
    other = "".join(f", {floor} {how}" for how, floor in floors.items() if floor < here)
    return UserError(
        f"A mean of {budget} visual tokens per layer cannot be had: {why}. The smallest budget here is {here}{other}."
    )
