"""Two methods on one prompt: one before the language model, another inside it, among what the first one left."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from .base import INSIDE, Method, Reduced, Visual


@dataclass(frozen=True)
class Hybrid(Method, register=False):
    """`script+fastv`: Script before the language model, FastV inside it.

    The budget is the mean number of visual tokens over all layers, never more. before: how many tokens of a tile or frame the
    first method leaves; none: twice the budget. The second one is planned for those, so its shares are shares of them.
    """

    first: Method
    then: Method
    before: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.first.name}+{self.then.name}")
        object.__setattr__(self, "needs", self.first.needs | self.then.needs)
        object.__setattr__(self, "union", self.then.union)
        object.__setattr__(self, "changes", self.first.changes)
        if self.first.needs & INSIDE:
            raise self._misjoined()
        if "full" in (self.first.name, self.then.name):
            alone = self.then.name if self.first.name == "full" else self.first.name
            raise UserError(f"One part of '{self.name}' drops nothing: name '{alone}' alone.")
        if self.before is not None and self.before < 1:
            raise UserError(f"'{self.name}' needs before of at least 1 token per image, not {self.before}.")

    def parameters(self) -> dict[str, Any]:
        parts = ((part.name, name, value) for part in (self.first, self.then) for name, value in part.parameters().items())
        return {"before": self.before, **{f"{part}.{name}": value for part, name, value in parts}}

    def plan(self, budget: int | None, n_visual: int, n_layers: int) -> dict[int, int]:
        if budget is None and self.before is None:
            raise UserError(
                f"'{self.name}' with a layer schedule must be told how many tokens enter the language model: set before=192."
            )
        if budget is not None and budget >= n_visual:
            return {}
        if budget is not None and self.before is not None and self.before <= budget:
            raise UserError(
                f"'{self.name}' with before={self.before} leaves nothing to drop inside the language model at a budget of "
                f"{budget}: before is at least {budget + 1}, or none for twice the budget."
            )
        left = self._left(budget, n_visual)
        early, late = self.first.plan(left, n_visual, n_layers), self._late(budget, left, n_layers)
        if set(early) - {0} or 0 in late:
            raise self._misjoined()
        return {**early, **late}

    def _left(self, budget: int | None, n_visual: int) -> int:
        """What the first method is to leave of a tile."""
        return min(n_visual, 2 * (budget or n_visual) if self.before is None else self.before)

    def entering(self, budget: int | None, n_visual: int, n_layers: int) -> int:
        if budget is not None and budget >= n_visual:
            return n_visual
        return self.first.plan(self._left(budget, n_visual), n_visual, n_layers).get(0, n_visual)

    def _late(self, budget: int | None, left: int, n_layers: int) -> dict[int, int]:
        """The second method's plan for what the first one leaves. UserError that says how much less that would have to be."""
        try:
            return self.then.plan(budget, left, n_layers)
        except UserError as error:
            if budget is None:
                raise
            low, high = budget, left  # keeping `budget` leaves nothing to do, so that much can always be had
            while high - low > 1:
                middle = (low + high) // 2
                try:
                    self.then.plan(budget, middle, n_layers)
                except UserError:
                    high = middle
                else:
                    low = middle
            hint = f" With before={low} it can be had." if low > budget else ""
            raise UserError(f"{error}{hint}") from None

    def _misjoined(self) -> UserError:
        return UserError(
            f"'{self.name}' must join a method that works before the language model with one that works inside it, in this "
            "order, as script+fastv does."
        )

    def scheduled(self, removed: float, first_layer: int) -> Method:
        return replace(self, then=self.then.scheduled(removed, first_layer))

    def at(self, stage: int) -> Method:
        return self.first if stage == 0 else self.then

    def reprunes(self) -> bool:
        return self.then.reprunes()

    def source(self) -> str:
        return self.first.source()

    def reduce(self, visual: Visual, k: int) -> Reduced:
        raise UserError(f"'{self.name}' is two methods: use those of .at(0) and .at(1).")


def joined(first: Method, then: Method, before: object = None) -> Method:
    """The hybrid. UserError for a number of tokens that is none."""
    before = None if str(before).lower() == "none" else before
    if before is not None and (isinstance(before, bool) or not isinstance(before, int)):
        raise UserError(f"'{first.name}+{then.name}' takes before as a number of tokens per image, not {before!r}.")
    return Hybrid(first, then, before)
